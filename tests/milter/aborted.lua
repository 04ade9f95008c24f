-- {"mode": "drop", "is_acceptance_assumed": true}
-- A message that is aborted, or whose server goes away, is not remembered.
dofile(common)

local conn = connect()
for _ = 1, 3 do
	check(mt.mailfrom(conn, "<alice@example.com>") == nil, "MAIL")
	check(mt.rcptto(conn, "<bob@example.net>") == nil, "RCPT")
	for _, field in ipairs(FIELDS) do
		mt.header(conn, field[1], field[2])
	end
	mt.bodystring(conn, "noon\r\n")
	check(mt.abort(conn) == nil, "abort")
end
check(mt.mailfrom(conn, "<alice@example.com>") == nil, "MAIL")
mt.disconnect(conn, false)

conn = connect()
check(deliver(conn, {"<bob@example.net>"}, FIELDS, "noon\r\n") == SMFIR_CONTINUE, "is new")
check(not mt.eom_check(conn, MT_HDRINSERT), "and plain")
check(deliver(conn, {"<bob@example.net>"}, FIELDS, "noon\r\n") == SMFIR_DISCARD, "is known now")
mt.disconnect(conn)
