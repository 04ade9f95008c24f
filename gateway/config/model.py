"""Every key of the configuration: its type, its default, its bounds, and one line on what it does.

One frozen model per TOML table; the example file and the reference are written from them. Defaults
stand here as TOML writes them and are read like any other value. Relations between keys are in
`config.relation`, so a model that was not made by `config.load` or `config.config_of` has not been
checked for them, the open-relay guard among them. Nothing here opens a file or a connection.
"""

from __future__ import annotations

import os
import socket
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from gateway.config.place import ENDPOINT, SERVER, STORE_URL, Endpoint, Server, StoreUrl
from gateway.config.type import (
    ADDRESS,
    FLAG,
    HOST_NAME,
    NETWORK,
    PATH,
    PATTERN,
    SECRET,
    TOKEN,
    ListCopies,
    ListNotation,
    LogFormat,
    LogLevel,
    Notation,
    OnFailure,
    Tls,
    count,
    duration,
    is_host_name,
    one_of,
    size,
)
from gateway.core.handover import HandOver
from gateway.core.report import Keep
from gateway.core.rule import Collisions, Match, Mode, Network, Policy, Rule

_LEASE_LEFT = 0.75
"""What is left of a lease, at least, when the final dot goes out (`relay` renews at a quarter)."""

Networks = Annotated[
    tuple[Annotated[Network, NETWORK], ...],
    ListNotation('["10.0.0.0/8"]', "list of networks"),
]
Endpoints = Annotated[
    tuple[Annotated[Endpoint, ENDPOINT], ...],
    ListNotation('["127.0.0.1:2525"]', f"list of {ENDPOINT.says}"),
]
Servers = Annotated[
    tuple[Annotated[Server, SERVER], ...],
    ListNotation('["smtp://127.0.0.1:10026"]', f"list of {SERVER.says}"),
]
Patterns = Annotated[
    tuple[Annotated[str, PATTERN], ...],
    ListNotation('["*@lists.example.org"]', "list of address patterns"),
]
HttpEndpoint = Annotated[
    Endpoint | None,
    Notation(lambda text: ENDPOINT.parse(text) if text != "" else None, f'{ENDPOINT.says}, or ""'),
]


# Any, as `Field` says itself: of what these return, pydantic makes a value of the annotated type.
def _key(default: object, comment: str, *, is_secret: bool = False) -> Any:  # noqa: ANN401 - see above
    """Declare a key.

    Args:
        default: as TOML would write it.
        comment: one line for the example file and the reference.
        is_secret: whether it may be read from a file, and is never shown.
    """
    return Field(
        default=default,
        description=comment,
        validate_default=True,
        json_schema_extra={"is_secret": is_secret},
    )


def _unset(default: object, comment: str) -> Any:  # noqa: ANN401 - see above
    """Declare a key that says nothing unless it is written; its default is a value as it is."""
    return Field(default=default, description=comment)


class Table(BaseModel):
    """What all tables have in common; the docstrings of its children introduce them to readers."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class ListenTable(Table):
    """Where mail comes in, and who may bring it.

    Port 0 takes any free port. In the networks of `proxy_protocol` are proxies, such as HAProxy:
    each of their connections begins with a PROXY header, and the address it tells is the client's
    from then on, for `clients` and everything else. Nobody else may send one. In those of
    `xforward` is a Postfix that hands mail to us with `smtpd_proxy_filter`.

    Health pages and `/metrics` are open to all who can connect to `http`; console and API need the
    token unless that is a loopback address or a unix socket.
    """

    smtp: Endpoints = _key(
        ["127.0.0.1:2525"], 'addresses for SMTP: "host:port", "[::]:25", "unix:/path"'
    )
    milter: Endpoints = _key([], "addresses for the milter protocol")
    http: HttpEndpoint = _key("127.0.0.1:9125", 'metrics, health, console; "" = off')
    http_token: Annotated[SecretStr, TOKEN] = _key(
        "", "bearer token, needed for console and API if http is not loopback", is_secret=True
    )
    clients: Networks = _key([], "networks that may connect; empty = anyone")
    proxy_protocol: Networks = _key(
        [], "networks whose PROXY v1/v2 header is required and believed"
    )
    xforward: Networks = _key([], "networks whose XFORWARD is accepted (behind smtpd_proxy_filter)")


class TlsTable(Table):
    """STARTTLS towards clients; off without a certificate.

    Paths are absolute.
    """

    certificate: Annotated[Path | None, PATH] = _key(
        "", "PEM file with the certificate chain, read again on SIGHUP"
    )
    key: Annotated[Path | None, PATH] = _key(
        "", "PEM file with the private key, read again on SIGHUP"
    )
    required: Annotated[bool, FLAG] = _key(default=False, comment="refuse mail without STARTTLS")


class DownstreamTable(Table):
    """The mail server behind us.

    `identity` is about `smtp://` servers: with `xclient` Postfix takes the client's address over
    for all its checks, with `proxy` every server that knows the PROXY protocol does; `xforward` is
    for the way back from `smtpd_proxy_filter`, and tells it to the log alone. A server that does
    not take the identity over gets no mail: the client's session ends with 421. `lmtp://` servers
    are told by XCLIENT where they offer it.

    The relay probe runs when a listener can be reached by others: if the downstream accepts the
    foreign recipient from us, it is an open relay, and we do not start.
    """

    servers: Servers = _key(
        ["smtp://127.0.0.1:10026"],
        "tried in order: smtp:// lmtp:// (host:port or unix path), maildir:///path",
    )
    identity: Annotated[HandOver, one_of(*HandOver)] = _key(
        "xclient", "how the client's address is handed on: xclient | proxy | xforward | none"
    )
    tls: Annotated[Tls, one_of(*Tls)] = _key(
        "never", "never | opportunistic | required (and verified)"
    )
    connect_timeout: Annotated[float, duration("10ms", "10m")] = _key(
        "10s", "how long one server may take to accept a connection and greet"
    )
    command_timeout: Annotated[float, duration("10ms", "1h")] = _key(
        "5m", "how long it may take to answer a command"
    )
    final_reply_timeout: Annotated[float, duration("10ms", "1h")] = _key(
        "10m", "how long it may take to answer the final dot"
    )
    relay_probe: Annotated[str, ADDRESS] = _key(
        "probe@relay-test.invalid",
        'a foreign recipient that the downstream must refuse; "" = no probe',
    )


class StoreTable(Table):
    """The tracking list: what remembers which messages were accepted downstream.

    * `sqlite:///path/to/file.db`: a file; for one machine, all workers share it.
    * `redis://[user:password@]host:6379/0`: for several machines. `rediss://` is Redis over TLS,
      verified by the system's CAs, or as the parameters of redis-py say
      (`?ssl_ca_certs=/etc/ssl/redis.pem`).
    * `redis+sentinel://host1,host2/name/0`: the master of that name, as the Sentinels know it.
    * `redis+cluster://host1,host2`: a Redis Cluster. With TLS: `rediss+sentinel://`,
      `rediss+cluster://`.
    * `memory://`: gone with the process; for trying things out.

    In a password `/` is written `%2F`, `?` `%3F`, `#` `%23` and `@` `%40`.
    """

    url: Annotated[StoreUrl, STORE_URL] = _key(
        "sqlite:///var/lib/mailonce/seen.db",
        "sqlite:/// | memory:// | redis:// | rediss:// | redis+sentinel:// | redis+cluster://",
        is_secret=True,
    )
    window: Annotated[float, duration("1s", "3660d")] = _key(
        "5d", "how long an accepted message is remembered, from its first copy on"
    )
    lease: Annotated[float, duration("1s", "1d")] = _key(
        "20m", "how long a message in delivery holds back its copies, at most"
    )
    timeout: Annotated[float, duration("1ms", "1m")] = _key(
        "250ms", "per operation; then the message passes unchecked"
    )
    on_failure: Annotated[OnFailure, one_of(*OnFailure)] = _key(
        "deliver", "without the list: deliver (unchecked) | tempfail"
    )
    secret: Annotated[SecretStr, SECRET] = _key(
        "", "keys the digests in the tracking list; the same on every node", is_secret=True
    )


class DedupTable(Table):
    """What a duplicate is, and what becomes of it.

    A duplicate has the Message-ID, the recipient and the content of a message that the downstream
    has accepted within the window. `tag` delivers it with a field `X-Mailonce: duplicate; …`,
    `drop` answers 250 and does not deliver it, `observe` delivers it as it is and only counts.
    """

    action: Annotated[Mode, one_of(Mode.TAG, Mode.DROP, Mode.OBSERVE)] = _key(
        "tag", "tag | drop | observe"
    )
    match: Annotated[Match, one_of(*Match)] = _key(
        "content", "what must agree: content | message-id (then the content may differ)"
    )
    collisions: Annotated[Collisions, one_of(*Collisions)] = _key(
        "tag", "same id, other content: tag | relay"
    )
    in_flight_wait: Annotated[float, duration("0s", "5m")] = _key(
        "10s", "how long a second copy waits for the first one's outcome before 451"
    )
    list_copies: Annotated[ListCopies, one_of(*ListCopies)] = _key(
        "distinct", "a mailing-list copy and the direct one are: distinct | same"
    )


class MessageIdTable(Table):
    """What is done for messages whose Message-ID is missing or broken.

    The id that is added is made of the content, so that a retry gets the same one, on every node.
    """

    add_missing: Annotated[bool, FLAG] = _key(
        default=True, comment="prepend a missing one; not when a DKIM signature names message-id"
    )
    repair: Annotated[bool, FLAG] = _key(
        default=False,
        comment="rewrite a malformed or empty one, if no DKIM signature covers it",
    )
    domain: Annotated[str, HOST_NAME] = _key(
        "", 'right of the @ in generated ids; "" = hostname; the same on every node'
    )


class LimitsTable(Table):
    """How much one client, or all of them, may ask of us; each limit has its SMTP reply."""

    sessions: Annotated[int, count(1, 1_000_000)] = _key(1000, "open at once, over all workers")
    sessions_per_client: Annotated[int, count(1, 1_000_000)] = _key(50, "of one address")
    message_size: Annotated[int, size("1KiB", "4GiB")] = _key("50MiB", "of the content")
    recipients: Annotated[int, count(1, 100_000)] = _key(1000, "per transaction")
    header_size: Annotated[int, size("1KiB", "16MiB")] = _key(
        "256KiB", "a longer header section passes unchecked"
    )
    idle_timeout: Annotated[float, duration("10ms", "1h")] = _key(
        "5m", "how long a client may be silent, also between blocks of content"
    )
    errors: Annotated[int, count(1, 10_000)] = _key(20, "refused commands before the session ends")
    hops: Annotated[int, count(1, 1_000)] = _key(100, "Received fields before it is a loop")


class JournalTable(Table):
    """What is kept of each decision for `mailonce trace` and the console."""

    keep: Annotated[Keep, one_of(*Keep)] = _key(
        "duplicates", "off | duplicates (all but new messages) | all"
    )
    entries: Annotated[int, count(1, 100_000_000)] = _key(100_000, "kept; older ones go")


class MilterTable(Table):
    """What is special about the milter, which cannot learn whether mail was accepted."""

    provisional: Annotated[float, duration("0s", "30d")] = _key(
        "10m", "a sighting from the milter younger than this is tagged, never dropped"
    )
    assume_accepted: Annotated[bool, FLAG] = _key(
        default=False, comment="true: milter sightings count as accepted at once"
    )


class LogTable(Table):
    """The log: one line per transaction."""

    format: Annotated[LogFormat, one_of(*LogFormat)] = _key(
        "auto", "auto (console on a terminal, else json) | console | json | logfmt"
    )
    level: Annotated[LogLevel, one_of(*LogLevel)] = _key("info", "debug | info | warning | error")


class PolicyTable(Table):
    """What to do otherwise for some messages.

    The first rule whose conditions all hold wins; what it leaves unset comes from [dedup] and
    [store].
    """

    recipients: Patterns = _unset((), "condition: patterns with * and ? over whole addresses")
    senders: Patterns = _unset((), 'condition on the reverse-path; "" is the null reverse-path')
    clients: Networks = _unset((), "condition: networks of the client's address")
    action: Annotated[Mode | None, one_of(*Mode)] = _unset(
        None, "tag | drop | observe | bypass (not looked up)"
    )
    match: Annotated[Match | None, one_of(*Match)] = _unset(None, "content | message-id")
    window: Annotated[float | None, duration("1s", "3660d")] = _unset(None, "as in [store]")

    @property
    def is_unconditional(self) -> bool:
        """Say whether it holds for every message."""
        return not (self.recipients or self.senders or self.clients)


class Config(Table):
    """All that a postmaster can choose."""

    hostname: Annotated[str, HOST_NAME] = _key(
        "", 'our name in banner and fields; "" = the machine\'s FQDN'
    )
    workers: Annotated[int, count(0, 1024)] = _key(1, "processes; 0 = one per core")
    listen: ListenTable = Field(default_factory=ListenTable)
    tls: TlsTable = Field(default_factory=TlsTable)
    downstream: DownstreamTable = Field(default_factory=DownstreamTable)
    store: StoreTable = Field(default_factory=StoreTable)
    dedup: DedupTable = Field(default_factory=DedupTable)
    message_id: MessageIdTable = Field(default_factory=MessageIdTable)
    limits: LimitsTable = Field(default_factory=LimitsTable)
    journal: JournalTable = Field(default_factory=JournalTable)
    milter: MilterTable = Field(default_factory=MilterTable)
    log: LogTable = Field(default_factory=LogTable)
    policy: Annotated[
        tuple[PolicyTable, ...],
        ListNotation('[{"senders": ["*@example.org"], "action": "drop"}]', "list of tables"),
    ] = _unset((), "rules")

    @cached_property
    def own_hostname(self) -> str:
        """Our name: ``hostname``, or what the machine calls itself; asks the resolver once."""
        return self.hostname or _machine_name()

    @property
    def id_domain(self) -> str:
        """What stands right of the @ in generated ids: ``message_id.domain``, or our name."""
        return self.message_id.domain or self.own_hostname

    @property
    def final_reply_wait_s(self) -> float:
        """How long the final reply is waited for, so that no delivery outlives its lease.

        A lease is renewed when a quarter of it is over, for the last time before the dot goes out.
        """
        return min(self.downstream.final_reply_timeout, self.store.lease * _LEASE_LEFT)

    @property
    def worker_count(self) -> int:
        """How many worker processes: ``workers``, or one per core that we may use."""
        return self.workers or len(os.sched_getaffinity(0))

    def default_policy(self) -> Policy:
        """Return what holds for a recipient that no rule names."""
        return Policy(
            mode=self.dedup.action,
            match=self.dedup.match,
            collisions=self.dedup.collisions,
            window_s=self.store.window,
        )

    def rules(self) -> tuple[Rule, ...]:
        """Return the ``[[policy]]`` rules in order."""
        return tuple(
            Rule(
                recipients=rule.recipients,
                senders=rule.senders,
                clients=rule.clients,
                mode=rule.action,
                match=rule.match,
                window_s=rule.window,
            )
            for rule in self.policy
        )


def _machine_name() -> str:
    """Return the machine's FQDN, or the best it has that is a host name."""
    names = (socket.getfqdn(), socket.gethostname())
    good = (name for name in names if is_host_name(name) and not name.startswith("localhost"))
    return next(good, "localhost")
