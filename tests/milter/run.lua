-- Runs a script and says why it failed: miltertest itself keeps that secret.
local is_good, reason = pcall(dofile, script)
if not is_good then
	mt.echo(tostring(reason))
	os.exit(1)
end
