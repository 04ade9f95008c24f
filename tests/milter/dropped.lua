-- {"mode": "drop", "is_acceptance_assumed": true}
-- All recipients have it: discarded. Some have it: they are removed, and only they.
dofile(common)

local conn = connect()
check(deliver(conn, {"<bob@example.net>"}, FIELDS, "noon\r\n") == SMFIR_CONTINUE, "new")
check(deliver(conn, {"<bob@example.net>"}, FIELDS, "noon\r\n") == SMFIR_DISCARD, "duplicate")

local both = {"<bob@example.net>", "<carol@example.net>"}
check(deliver(conn, both, FIELDS, "noon\r\n") == SMFIR_CONTINUE, "partial")
check(mt.eom_check(conn, MT_RCPTDELETE, "<bob@example.net>"), "who has it is removed")
check(not mt.eom_check(conn, MT_RCPTDELETE, "<carol@example.net>"), "who has it not gets it")
check(not mt.eom_check(conn, MT_HDRINSERT), "and untagged")
check(deliver(conn, both, FIELDS, "noon\r\n") == SMFIR_DISCARD, "now both have it")
mt.disconnect(conn)
