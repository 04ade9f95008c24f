"""A real Dovecot of our own that takes mail over LMTP into Maildirs in a temporary folder.

Only root can start it: its LMTP processes become the user that owns the Maildirs.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.support.need import need, program
from tests.support.process import Child, can_connect, free_port, start, temporary_folder, wait_until

_OWNER = "mail"  # every Debian system has it, with a group of the same name
_CONFIGURATION = """
base_dir = {folder}/run
state_dir = {folder}/state
instance_name = mailonce-test
log_path = {folder}/dovecot.log
protocols = lmtp
listen = 127.0.0.1
ssl = no
default_internal_user = {owner}
default_login_user = {owner}
default_internal_group = {owner}
first_valid_uid = 1
first_valid_gid = 1
mail_location = maildir:{folder}/mail/%u
lmtp_save_to_detail_mailbox = no
recipient_delimiter =
mail_plugins = {plugins}
passdb {{
  driver = passwd-file
  args = {folder}/users
}}
userdb {{
  driver = passwd-file
  args = username_format=%u {folder}/users
}}
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {port}
  }}
  unix_listener {folder}/lmtp {{
    mode = 0666
  }}
  chroot =
}}
service auth {{
  chroot =
}}
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
{more}
"""


class Dovecot:
    """A running instance.

    Attributes:
        folder: all of it.
        port: of LMTP on loopback.
        path: of LMTP on a unix socket.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.path = folder / "lmtp"
        self._child: Child | None = None

    def start(self) -> None:
        """Start it and wait until it listens."""
        command: list[str | Path] = [program("dovecot"), "-F", "-c", self.folder / "dovecot.conf"]
        self._child = child = start(command, self.folder / "dovecot.out")
        wait_until(lambda: can_connect(self.port), "Dovecot starts", child=child)

    def stop(self) -> None:
        """Stop it with all its processes; the mail stays."""
        if self._child is not None:
            self._child.stop(5.0)
            self._child = None

    def log(self) -> str:
        """Return the whole log."""
        file = self.folder / "dovecot.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def messages(self, user: str) -> list[bytes]:
        """Return the messages in a user's inbox with CRLF line ends, oldest first.

        Dovecot puts Return-Path, Delivered-To and Received before what came.
        """
        files = sorted((self.folder / "mail" / user / "new").glob("*"), key=_delivered_at)
        return [file.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") for file in files]


@contextlib.contextmanager
def running_dovecot(
    users: Sequence[str],
    *,
    quota_octets: Mapping[str, int] | None = None,
    more: str = "",
) -> Iterator[Dovecot]:
    """Run a Dovecot that knows some users and refuses all others with 550.

    Args:
        users: whole addresses.
        quota_octets: users whose mailboxes are small: what does not fit is refused with 452 after
            the dot, for them alone.
        more: for dovecot.conf.
    """
    need("dovecot:dovecot-lmtpd", "lmtp:dovecot-lmtpd", root=True)
    quotas = quota_octets or {}
    with temporary_folder("dovecot") as folder:
        instance = Dovecot(folder)
        owner, group = pwd.getpwnam(_OWNER), grp.getgrnam(_OWNER)
        for name in ("run", "state", "mail"):
            (folder / name).mkdir()
        os.chown(folder / "mail", owner.pw_uid, group.gr_gid)
        entries = (
            f"{user}:{{PLAIN}}x:{owner.pw_uid}:{group.gr_gid}::{folder}/mail/{user}::"
            + (f"userdb_quota_rule=*:bytes={quotas[user]}" if user in quotas else "")
            for user in users
        )
        (folder / "users").write_text("".join(f"{entry}\n" for entry in entries))
        if quotas:
            more += "plugin {\n  quota = count:User quota\n  quota_vsizes = yes\n}\n"
        text = _CONFIGURATION.format(
            folder=folder,
            owner=_OWNER,
            port=instance.port,
            plugins="quota" if quotas else "",
            more=more,
        )
        (folder / "dovecot.conf").write_text(text)
        instance.start()
        try:
            yield instance
        finally:
            instance.stop()


def _delivered_at(file: Path) -> tuple[int, int]:
    """Return seconds and microseconds; in the name the latter are not filled up with zeros."""
    match = re.match(r"(\d+)\.M(\d+)", file.name)
    assert match is not None, file.name
    return int(match[1]), int(match[2])
