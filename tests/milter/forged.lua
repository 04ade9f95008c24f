-- {}
-- Forged fields go, a missing Message-ID comes.
dofile(common)

local conn = connect()
local fields = {{"X-Mailonce", " duplicate"}, {"From", " a@example.com"}, {"x-mailonce", " x"}}
check(deliver(conn, {"<bob@example.net>"}, fields, "noon\r\n") == SMFIR_CONTINUE, "forged")
check(mt.eom_check(conn, MT_HDRDELETE, "X-Mailonce"), "is removed")
check(mt.eom_check(conn, MT_HDRINSERT, "Message-ID"), "an id is added")
check(not mt.eom_check(conn, MT_HDRINSERT, "X-Mailonce"), "without a Date nothing is a duplicate")
mt.disconnect(conn)
