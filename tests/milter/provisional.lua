-- {"mode": "drop"}
-- What the milter alone has seen a moment ago costs nobody a copy.
dofile(common)

local conn = connect()
check(deliver(conn, {"<bob@example.net>"}, FIELDS, "noon\r\n") == SMFIR_CONTINUE, "new")
for _ = 1, 3 do
	check(deliver(conn, {"<bob@example.net>"}, FIELDS, "noon\r\n") == SMFIR_CONTINUE, "young")
	check(mt.eom_check(conn, MT_HDRINSERT, "X-Mailonce"), "young: is tagged")
end
mt.disconnect(conn)
