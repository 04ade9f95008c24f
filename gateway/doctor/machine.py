"""Doctor: the machine and the user we run as. Name, limits, room for what waits, odd settings.

Looks at this process, which should be one of the gateway's user. Never fails.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gateway.config import Config
from gateway.config.remark import missing_files, remarks
from gateway.doctor.finding import Finding, fail, ok, warn

# Besides sessions: listeners, the list, logs, shared memory, libraries.
_OTHER_DESCRIPTORS = 64
_SUSPECTS_AT_ONCE = 4


def check_configuration(config: Config) -> Iterator[Finding]:
    """Tell what `mailonce check` would tell."""
    found = [
        fail("configuration", problem.path, problem.message, "make it readable, or correct the key")
        for problem in missing_files(config)
    ]
    found += [
        warn("configuration", remark.path, remark.message, "see docs/configuration.md")
        for remark in remarks(config)
    ]
    yield from found or [ok("configuration", "", "nothing odd in it")]


def check_machine(config: Config) -> Iterator[Finding]:
    """Look at name, limits and folders."""
    if os.geteuid() == 0:
        remedy = "run this as the gateway's user (runuser -u USER -- mailonce doctor …)"
        yield warn("user", "root", "root may do everything: permissions are not checked", remedy)
    else:
        yield ok("user", str(os.geteuid()), "not root")
    yield _hostname(config.own_hostname)
    yield _descriptors(config)
    yield _temporary_folder(config)
    if config.listen.milter:
        text = "where it stands cannot be seen from here: it must be the last of smtpd_milters"
        yield ok("milter", "", text)
    if config.listen.http is not None and not config.listen.http.is_local:
        text = "metrics and health pages are open to all who can connect"
        remedy = "let a firewall allow the monitoring host alone"
        yield warn("http", str(config.listen.http), text, remedy)


def _hostname(name: str) -> Finding:
    if "." not in name or name.startswith("localhost"):
        remedy = "set hostname to this machine's full name"
        return warn("hostname", name, "not a full domain name; it is in banner and fields", remedy)
    try:
        socket.getaddrinfo(name, None)
    except OSError as error:
        remedy = "add it to the DNS, or correct hostname"
        return warn("hostname", name, f"does not resolve: {error.strerror}", remedy)
    return ok("hostname", name, "a full domain name that resolves")


def _descriptors(config: Config) -> Finding:
    """Compare the limit of this process with what one worker can need: all sessions may be its."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    sessions = config.limits.sessions
    # A session is a client, a server, and perhaps a temporary file.
    needed = 3 * sessions + _OTHER_DESCRIPTORS
    limit = "no limit" if soft == resource.RLIM_INFINITY else f"{soft}"
    text = f"{limit}; {sessions} sessions can need {needed}"
    if soft != resource.RLIM_INFINITY and soft < needed:
        remedy = f"LimitNOFILE={needed} in the unit (this is the shell's), or lower limits.sessions"
        return warn("descriptors", "", text, remedy)
    return ok("descriptors", "", text)


def _temporary_folder(config: Config) -> Finding:
    check, largest = "temporary folder", config.limits.message_size
    try:
        folder = Path(tempfile.gettempdir())
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError as error:
        remedy = "set TMPDIR to a folder of the gateway's user"
        return fail(check, "", f"not writable: {error.strerror or error}", remedy)
    free = shutil.disk_usage(folder).free
    text = f"{free >> 20} MiB free; a suspect message can take {largest >> 20} MiB"
    if free < _SUSPECTS_AT_ONCE * largest:
        make = fail if free < largest else warn
        return make(check, str(folder), text, "make room, or set TMPDIR; else suspects get 452")
    return ok(check, str(folder), text)
