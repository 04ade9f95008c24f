-- {}
-- A duplicate is tagged with the topmost field; a collision is one; everything else goes on as it is.
dofile(common)

local conn = connect()
check(mt.test_action(conn, SMFIF_ADDHDRS), "may add fields")
check(mt.test_action(conn, SMFIF_DELRCPT), "may remove recipients")
check(not mt.test_action(conn, SMFIF_CHGBODY), "never touches the body")
check(not mt.test_action(conn, SMFIF_ADDRCPT), "never adds recipients")
check(not mt.test_option(conn, SMFIP_NOBODY), "needs the body")
check(mt.test_option(conn, SMFIP_NR_HDR), "is not waited for")

check(deliver(conn, {"<bob@example.net>"}, FIELDS, "noon\r\n") == SMFIR_CONTINUE, "new")
check(not mt.eom_check(conn, MT_HDRINSERT), "new: nothing is added")
check(not mt.eom_check(conn, MT_HDRADD), "new: nothing is appended")

check(deliver(conn, {"<bob@example.net>"}, FIELDS, "noon\r\n") == SMFIR_CONTINUE, "duplicate")
check(mt.eom_check(conn, MT_HDRINSERT, "X-Mailonce"), "duplicate: is tagged")
local tag = mt.getheader(conn, "X-Mailonce", 0)
check(tag ~= nil and string.find(tag, "^ ?duplicate; first%-seen=.*; copies=2; by="), "tag: " .. tostring(tag))

check(deliver(conn, {"<bob@example.net>"}, FIELDS, "one\r\n") == SMFIR_CONTINUE, "collision")
check(string.find(mt.getheader(conn, "X-Mailonce", 0), "collision;"), "collision: is tagged")

check(deliver(conn, {"<eve@example.net>"}, FIELDS, "noon\r\n") == SMFIR_CONTINUE, "another recipient")
check(not mt.eom_check(conn, MT_HDRINSERT), "another recipient: is new")
mt.disconnect(conn)
