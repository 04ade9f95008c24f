-- {"mode": "drop", "is_acceptance_assumed": true}
-- A server of protocol version 2 has no way to go on without an answer, and eats leading blanks.
dofile(common)

local conn = connect(2, 0x3F, 0x7F)
check(mt.getreply(conn) == SMFIR_CONTINUE, "HELO is answered")
check(mt.mailfrom(conn, "<alice@example.com>") == nil, "MAIL")
check(mt.getreply(conn) == SMFIR_CONTINUE, "MAIL is answered")
mt.abort(conn)

local eaten = {}
for index, field in ipairs(FIELDS) do
	eaten[index] = {field[1], string.sub(field[2], 2)}
end
check(deliver(conn, {"<bob@example.net>"}, eaten, "noon\r\n") == SMFIR_CONTINUE, "new")
mt.disconnect(conn)

conn = connect()
check(deliver(conn, {"<bob@example.net>"}, FIELDS, "noon\r\n") == SMFIR_DISCARD, "the same message")
mt.disconnect(conn)
