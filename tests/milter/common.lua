-- What the scripts share: loaded with dofile, because miltertest knows no modules.

function check(condition, what)
	if not condition then
		error(what, 2)
	end
end

function connect(version, actions, steps)
	local conn = mt.connect("inet:" .. port .. "@127.0.0.1", 50, 0.1)
	check(conn ~= nil, "nobody listens")
	check(mt.negotiate(conn, version, actions, steps) == nil, "no agreement")
	check(mt.conninfo(conn, "client.example.com", "192.0.2.1") == nil, "connection")
	check(mt.helo(conn, "client.example.com") == nil, "HELO")
	return conn
end

-- Sends one message and returns the milter's last word. The end of the header is not announced: the
-- milter has asked not to be told of it.
function deliver(conn, recipients, fields, body)
	mt.macro(conn, SMFIC_MAIL, "i", "4QUEUED")
	check(mt.mailfrom(conn, "<alice@example.com>", "SIZE=100") == nil, "MAIL")
	for _, recipient in ipairs(recipients) do
		check(mt.rcptto(conn, recipient) == nil, "RCPT")
	end
	for _, field in ipairs(fields) do
		check(mt.header(conn, field[1], field[2]) == nil, "field")
	end
	check(mt.bodystring(conn, body) == nil, "body")
	check(mt.eom(conn) == nil, "end of message")
	return mt.getreply(conn)
end

FIELDS = {
	{"From", " Alice <alice@example.com>"},
	{"Date", " Tue, 24 Nov 2026 09:00:00 +0100"},
	{"Subject", " lunch"},
	{"Message-ID", " <1@example.com>"},
}
