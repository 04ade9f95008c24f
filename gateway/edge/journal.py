"""One log line and the counters for each transaction; complaints, each with a remedy.

The line holds what a postmaster searches for: the canonical id, the addresses, what was decided for
whom and why, and the queue id that the downstream's own log goes on with. It is bounded: of many
recipients the first are named and the others counted.

A fault that hits every message is complained of once in a while, not once per message. No method
waits or raises.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from json.encoder import encode_basestring_ascii as _quoted
from types import MappingProxyType

from gateway.core.policy import Sight, Verdict
from gateway.core.reply import Reply
from gateway.core.report import Outcome, Report, queue_id_of
from gateway.edge.log import Log, timestamp

_MAX_RECIPIENTS = 20
_MAX_QUEUE_IDS = 8
_MAX_PATH = 320  # RFC 5321 section 4.5.3.1: 64 octets, an @ and 255
_MAX_ID = 250
_MAX_REPLY = 200
_QUIET_S = 10.0
_MAX_EVENTS = 100

REMEDIES = MappingProxyType(
    {
        "downstream_unreachable": "Is the downstream running? `mailonce doctor` tries each of "
        "downstream.servers; clients get 451 and try again until then.",
        "downstream_lost": "See the downstream's log at this time: it closed the connection or let "
        "a time-out of [downstream] pass. The client tries again.",
        "identity_not_handed_over": "The downstream does not take over who the client is: allow "
        "our address in its smtpd_authorized_xclient_hosts (or what downstream.identity needs). "
        "Until then no mail is passed on, so that it does not become an open relay.",
        "relay_probe_failed": "The downstream takes mail for foreign domains from strangers: take "
        "our address out of its mynetworks. New sessions get 421 until it refuses the probe.",
        "relay_probe_unanswered": "The downstream did not say whether it relays for strangers, and "
        "clients get 451 until it does: set downstream.relay_probe to an address in a foreign "
        "domain that exists, and let the probe's client (192.0.2.1) come as far as RCPT.",
        "store_unavailable": "Is the tracking list running? Mail flows, unchecked or tempfailed as "
        "store.on_failure says. `mailonce doctor` asks it.",
        "store_recovered": "Nothing to do: the tracking list answers again.",
        "store_evicts": "The list's server throws keys away when memory is short, and duplicates "
        "pass: set its maxmemory-policy to noeviction, or give it more memory.",
        "worker_died": "It was replaced, and nothing is lost; if it happens again, see its last "
        "lines in this log and the kernel's (out of memory?).",
        "certificate_unusable": "Certificate and key could not be read anew: the old ones stay in "
        "use. Check tls.certificate and tls.key.",
        "configuration_unusable": "The new configuration has problems: the old one stays in use. "
        "`mailonce check` lists them.",
    }
)
"""What a postmaster can do about each event."""


class LogJournal:
    """The `Journal` port: one line in the log, and the counters."""

    def __init__(
        self,
        log: Log,
        count: Callable[[Report], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Write to a log.

        Args:
            log: takes the lines.
            count: counts a report, as `Metrics.count` does.
            monotonic: seconds, never set back.
        """
        self._log = log
        self._count = count
        self._monotonic = monotonic
        self._quiet: dict[str, tuple[float, int]] = {}

    def record(self, report: Report) -> None:
        """See `Journal.record`."""
        self._count(report)
        self._log.write_encoded("info", "message", report.at_s, _fields(report))

    def complain(self, event: str, reason: str) -> None:
        """See `Journal.complain`; at most one line in ten seconds for each event."""
        now = self._monotonic()
        quiet_until, withheld = self._quiet.get(event, (0.0, 0))
        if now < quiet_until:
            self._quiet[event] = (quiet_until, withheld + 1)
            return
        if len(self._quiet) >= _MAX_EVENTS:
            self._quiet.clear()
        self._quiet[event] = (now + _QUIET_S, 0)
        fields: dict[str, object] = {"reason": reason}
        if remedy := REMEDIES.get(event):
            fields["remedy"] = remedy
        if withheld:
            fields["withheld"] = withheld
        self._log.write("warning", event, fields)


def _fields(report: Report) -> str:
    """Return what the line of a transaction says, as JSON.

    Composed by hand, because it is made for every message: json.dumps of the same fields takes more
    than twice as long. What is not quoted here is a number or a word of ours.
    """
    summary, client = report.summary, report.client
    recipients, queue_ids = _recipients(report)
    extra = ',"id_added":true' if report.is_id_added else ""
    if len(report.outcomes) > _MAX_RECIPIENTS:
        extra += f',"more_recipients":{len(report.outcomes) - _MAX_RECIPIENTS}'
    return (
        f'{{"message_id":{_quoted(report.identity[:_MAX_ID].decode("latin-1"))}'
        f',"form":"{report.form or ""}"'
        f',"client":{_quoted(client.address)}'
        f',"helo":{_quoted(client.helo[:_MAX_PATH])}'
        f',"from":{_quoted(report.reverse_path[:_MAX_PATH].decode("latin-1"))}'
        f',"size":{report.size_octets}'
        f',"verdict":"{summary.verdict}","action":"{summary.action}"'
        f',"queue_id":{_quoted(queue_ids)},"reply":{_reply(report.reply)}'
        f',"duration_s":{report.duration_s:.6f},"overhead_s":{report.overhead_s:.6f}'
        f',"recipients":[{recipients}]{extra}}}'
    )


def _recipients(report: Report) -> tuple[str, str]:
    """Return what is said of the first recipients, as JSON, and the queue ids of all."""
    told, last, queue_id = report.reply, None, ""
    texts: list[str] = []
    queue_ids: dict[str, None] = {}
    for outcome in report.outcomes:
        reply = outcome.reply
        if reply is not last:
            last, queue_id = reply, queue_id_of(reply).decode("ascii")
            if queue_id and len(queue_ids) < _MAX_QUEUE_IDS:
                queue_ids[queue_id] = None
        if len(texts) < _MAX_RECIPIENTS:
            own = "" if reply is None or reply.wire == told.wire else _reply(reply)
            texts.append(_recipient(outcome, queue_id, own))
    return ",".join(texts), " ".join(queue_ids)


def _recipient(outcome: Outcome, queue_id: str, reply: str) -> str:
    """Return what is said of one recipient; of an earlier copy, when and where that one went."""
    decision, first = outcome.decision, outcome.first
    text = (
        f'{{"to":{_quoted(outcome.forward_path[:_MAX_PATH].decode("latin-1"))}'
        f',"verdict":"{decision.verdict}","action":"{decision.action}","queue_id":"{queue_id}"'
    )
    if reply:
        text += f',"reply":{reply}'
    if first is not None and first.sight is Sight.SEEN:
        note = _quoted(first.note.decode("latin-1"))
        text += f',"first_seen":"{timestamp(first.first_seen_s)}","first_queue_id":{note}'
        copies = first.copies + 1 if decision.verdict is Verdict.DUPLICATE else 1
        text += f',"copies":{copies}'
    return text + "}"


def _reply(reply: Reply) -> str:
    text = reply.wire[:_MAX_REPLY].rstrip().replace(b"\r\n", b" / ")
    return _quoted(text.decode("latin-1"))
