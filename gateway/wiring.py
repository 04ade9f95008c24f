"""From a configuration to the parts: which adapters, with which settings.

Each function makes one part and starts nothing; who holds the parts together is `worker` and
`service`. Fails with `ConfigError` where a part cannot be made of what is configured.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from gateway.config import Config
from gateway.config.place import Scheme, Server, StoreScheme
from gateway.config.remark import missing_files
from gateway.config.source import Problem
from gateway.config.type import ListCopies, OnFailure, Tls
from gateway.core.capability import Capabilities
from gateway.core.edition import EditionSettings
from gateway.core.handover import Client
from gateway.core.unique_id import Sealer
from gateway.desk import RelaySettings
from gateway.edge import redis_url, tracking_redis, tracking_sqlite
from gateway.edge.downstream import DownstreamConnector, Vet
from gateway.edge.downstream_session import ServerAddress, SessionSettings
from gateway.edge.log import Log, format_of
from gateway.edge.log_sink import LogSink
from gateway.edge.maildir import MaildirConnector
from gateway.edge.metrics import Metrics
from gateway.edge.tracking_memory import MemoryTrackingList
from gateway.errors import ConfigError, UnreachableError
from gateway.faces.milter_message import MilterSettings
from gateway.faces.smtp_reception import SmtpSettings
from gateway.ports import Downstream, History, OpenDownstream, TrackingList
from gateway.screening import ScreeningSettings

_STDERR = 2


class Store(TrackingList, History, Protocol):
    """A tracking list that can tell of the past."""


class Connector(Protocol):
    """Opens sessions with the downstream.

    Attributes:
        capabilities: last known ones.
    """

    capabilities: Capabilities

    async def open(self, client: Client) -> Downstream:
        """Open a session in the name of a client."""

    def trust(self, places: Sequence[int]) -> None:
        """Take servers as proven not to relay for strangers."""

    def openers(self) -> Sequence[OpenDownstream]:
        """Return what opens a session with each server."""

    async def ask_capabilities(self) -> None:
        """Find out whether the downstream is there, and what it can do."""


class _NoConnector:
    """`Connector` of a gateway that is a milter only: nothing is passed on."""

    def __init__(self) -> None:
        """Have nobody to ask."""
        self.capabilities = Capabilities()

    async def open(self, client: Client) -> Downstream:
        """See `Connector`."""
        raise UnreachableError(f"no SMTP listener, no downstream, and yet mail from {client}")

    def trust(self, places: Sequence[int]) -> None:
        """See `Connector`."""

    def openers(self) -> Sequence[OpenDownstream]:
        """See `Connector`."""
        return ()

    async def ask_capabilities(self) -> None:
        """See `Connector`."""


def unusable(config: Config) -> Iterator[Problem]:
    """Yield what reads well and cannot be used all the same: certificates, parameters of a URL.

    It is a `Relation` of `config.load`. Where a file cannot be read, that is the problem, and what
    comes of it is none.
    """
    unreadable = list(missing_files(config))
    yield from unreadable
    told = {problem.path.partition(".")[0] for problem in unreadable}
    if config.tls.key is None:  # a relation says so
        told.add("tls")
    for table, make in (("tls", server_tls_of), ("store", _redis_target_of)):
        if table in told:
            continue
        try:
            make(config)
        except ConfigError as error:
            for problem in error.problems:
                path, _, message = problem.partition(": ")
                yield Problem(path, message, ("tls.key",) if table == "tls" else ())


def log_of(config: Config, metrics: Metrics) -> Log:
    """Make the log, on standard error."""
    form = format_of(config.log.format, _STDERR)
    return Log(LogSink(_STDERR, metrics.log_lines_lost), form, config.log.level)


def store_of(config: Config) -> Store:
    """Make the tracking list; nothing is opened before its first use."""
    url, timeout_s = config.store.url, config.store.timeout
    entries = config.journal.entries
    if url.scheme is StoreScheme.MEMORY:
        return MemoryTrackingList(entries=entries)
    if url.scheme is StoreScheme.SQLITE:
        return tracking_sqlite.connect(Path(url.path), timeout_s, entries=entries)
    return tracking_redis.connect(url.text.get_secret_value(), timeout_s, entries=entries)


def empty_store() -> Store:
    """Make a tracking list that holds nothing, in the place of one that is not there yet."""
    return MemoryTrackingList()


def sealer_of(config: Config) -> Sealer:
    """Make what seals the digests of the tracking list."""
    return Sealer(config.store.secret.get_secret_value().encode())


def connector_of(config: Config, metrics: Metrics, vet: Vet | None = None) -> Connector:
    """Make what opens downstream sessions; ``vet`` as in `DownstreamConnector`."""
    if not config.listen.smtp:
        return _NoConnector()
    downstream = config.downstream
    on_health: Callable[[bool], None] = metrics.downstream_is_up
    first = downstream.servers[0]
    if first.scheme is Scheme.MAILDIR:
        return MaildirConnector(Path(first.path), on_health)
    settings = SessionSettings(
        hand_over=downstream.identity,
        hostname=config.own_hostname,
        tls=_client_tls(downstream.tls),
        is_tls_required=downstream.tls is Tls.REQUIRED,
        connect_timeout_s=downstream.connect_timeout,
        command_timeout_s=downstream.command_timeout,
        final_reply_timeout_s=config.final_reply_wait_s,
    )
    servers = [_address(server) for server in downstream.servers]
    return DownstreamConnector(servers, settings, metrics.observe_downstream, on_health, vet)


def screening_settings_of(config: Config) -> ScreeningSettings:
    """Return how messages are screened."""
    return ScreeningSettings(
        default=config.default_policy(),
        rules=config.rules(),
        lists_distinct=config.dedup.list_copies is ListCopies.DISTINCT,
        lease_s=config.store.lease,
        in_flight_wait_s=config.dedup.in_flight_wait,
        defers_unchecked=config.store.on_failure is OnFailure.TEMPFAIL,
        provisional_s=config.milter.provisional,
    )


def relay_settings_of(config: Config) -> RelaySettings:
    """Return how messages are relayed."""
    return RelaySettings(
        edition=EditionSettings(
            hostname=config.own_hostname,
            id_domain=config.id_domain,
            adds_missing=config.message_id.add_missing,
            repairs=config.message_id.repair,
        ),
        header_size_octets=config.limits.header_size,
        hops=config.limits.hops,
        lease_s=config.store.lease,
        keep=config.journal.keep,
    )


def smtp_settings_of(config: Config) -> SmtpSettings:
    """Return how clients are served.

    Raises:
        ConfigError: certificate or key cannot be used.
    """
    listen, limits = config.listen, config.limits
    return SmtpSettings(
        hostname=config.own_hostname,
        clients=listen.clients,
        proxy_protocol=listen.proxy_protocol,
        xforward=listen.xforward,
        tls=server_tls_of(config),
        is_tls_required=config.tls.required,
        message_size_octets=limits.message_size,
        recipients=limits.recipients,
        idle_timeout_s=limits.idle_timeout,
        errors=limits.errors,
    )


def milter_settings_of(config: Config) -> MilterSettings:
    """Return how mail servers are served."""
    return MilterSettings(
        recipients=config.limits.recipients,
        sessions=config.limits.sessions,
        idle_timeout_s=config.limits.idle_timeout,
        is_acceptance_assumed=config.milter.assume_accepted,
    )


def server_tls_of(config: Config) -> ssl.SSLContext | None:
    """Make the context for STARTTLS, None without a certificate.

    Raises:
        ConfigError: certificate or key cannot be used.
    """
    if config.tls.certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.tls.certificate, config.tls.key, _no_pass_phrase)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError((f"tls.certificate: cannot be used with tls.key: {error}",)) from error
    return context


def needs_relay_probe(config: Config) -> bool:
    """Say whether anybody but this machine can reach an SMTP listener, and a probe is wanted."""
    is_public = bool(config.listen.proxy_protocol) or any(
        not endpoint.is_local for endpoint in config.listen.smtp
    )
    is_smtp = any(server.scheme is Scheme.SMTP for server in config.downstream.servers)
    return is_public and is_smtp and bool(config.downstream.relay_probe)


def _no_pass_phrase() -> str:
    # OpenSSL itself would ask on the terminal and wait for somebody to type.
    raise OSError("the key has a pass phrase, and nobody is there to type it; store it without")


def _redis_target_of(config: Config) -> redis_url.Target | None:
    url = config.store.url
    return redis_url.parse(url.text.get_secret_value()) if url.scheme.is_redis else None


def _client_tls(tls: Tls) -> ssl.SSLContext | None:
    """Make the context for downstream; opportunistic TLS verifies nobody (RFC 7435 section 3)."""
    if tls is Tls.NEVER:
        return None
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls is Tls.OPPORTUNISTIC:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _address(server: Server) -> ServerAddress:
    is_lmtp = server.scheme is Scheme.LMTP
    return ServerAddress(is_lmtp, server.host, server.port, server.path)
