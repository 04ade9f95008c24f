"""What must hold between the keys of a configuration, whatever each of them says alone.

A combination is refused if it is unsafe for the mail server behind us (the open-relay guard, P5) or
bound to fail; what merely looks odd is for `config.remark`. Each text names the remedy. Relations
are pure, one function each, listed in `PROBLEMS`; the docstring is what the reference says of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network, collapse_addresses

from gateway.config.model import Config
from gateway.config.place import WILDCARDS, Endpoint, Scheme, Server, StoreScheme, is_loopback
from gateway.config.source import Problem
from gateway.config.type import Tls
from gateway.core.handover import HandOver
from gateway.core.rule import Network, address_of

Relation = Callable[[Config], Iterator[Problem]]


def problems(config: Config, further: Sequence[Relation] = ()) -> list[Problem]:
    """Return every relation that does not hold, further ones included."""
    return [problem for relation in (*PROBLEMS, *further) for problem in relation(config)]


def open_doors(config: Config) -> list[Problem]:
    """Return the relations of the open-relay guard (P5) that do not hold."""
    return [problem for relation in (_believed, _open_relay) for problem in relation(config)]


def _listeners(config: Config) -> Iterator[Problem]:
    """There is an address for SMTP or for the milter, and no two listeners want the same one."""
    if not config.listen.smtp and not config.listen.milter:
        yield Problem(
            "listen.smtp",
            "no address to take mail at; name one here or in listen.milter",
            ("listen.milter",),
        )
    earlier: list[tuple[str, Endpoint]] = []
    for path, endpoint in _endpoints(config):
        for other_path, other in earlier:
            if _clash(endpoint, other):
                yield Problem(path, f"{endpoint} is taken by {other_path}, {other}", (other_path,))
                break
        earlier.append((path, endpoint))


def _tls(config: Config) -> Iterator[Problem]:
    """`tls.certificate` and `tls.key` come together; `tls.required` needs both."""
    tls = config.tls
    files = ("tls.certificate", "tls.key")
    if tls.certificate and not tls.key:
        yield Problem(
            "tls.key", "tls.certificate needs its private key; it may be the same file", files
        )
    if tls.key and not tls.certificate:
        yield Problem(
            "tls.certificate", "tls.key needs its certificate; it may be the same file", files
        )
    if tls.required and not (tls.certificate or tls.key):
        yield Problem(
            "tls.required",
            "without tls.certificate and tls.key no client can send mail; set them",
            files,
        )


def _open_relay(config: Config) -> Iterator[Problem]:
    """`downstream.identity` is `none` or `xforward` only where we know who the clients are.

    That is: every SMTP listener is a loopback address or a unix socket, and no proxy brings others
    in; or `listen.clients` names some networks, and not everyone. The downstream would otherwise
    take every client for us, and relay for it.
    """
    identity = config.downstream.identity
    others = ("listen.smtp", "listen.clients", "listen.proxy_protocol")
    if identity not in (HandOver.NONE, HandOver.XFORWARD) or not _is_open(config):
        return
    remedy = 'take "xclient" or "proxy", or name those who may connect in listen.clients'
    why = {
        HandOver.NONE: "the downstream would take every client for us",
        HandOver.XFORWARD: "XFORWARD is for logs: access rules would take every client for us",
    }[identity]
    if _networks_hold_everyone(config.listen.clients):
        who = "listen.clients is everyone"
    elif config.listen.proxy_protocol:
        who = "the proxies of listen.proxy_protocol may bring anyone"
    else:
        public = next(e for e in config.listen.smtp if not e.is_local)
        who = f"anyone can connect to {public}"
    yield Problem(
        "downstream.identity",
        f'"{identity}" makes an open relay: {who}, and {why}; {remedy}',
        others,
    )


def _believed(config: Config) -> Iterator[Problem]:
    """`listen.proxy_protocol` and `listen.xforward` are not everyone, or all listeners are local.

    Whoever may choose a client's address chooses one that the downstream trusts.
    """
    if all(endpoint.is_local for endpoint in config.listen.smtp):
        return
    for name, networks in (
        ("proxy_protocol", config.listen.proxy_protocol),
        ("xforward", config.listen.xforward),
    ):
        if _networks_hold_everyone(networks):
            yield Problem(
                f"listen.{name}",
                "that is everyone, and anyone could claim any address; name your own servers only",
                ("listen.smtp",),
            )


def _servers(config: Config) -> Iterator[Problem]:
    """There is a downstream server, none twice, none of them ourselves; a Maildir stands alone."""
    servers = config.downstream.servers
    path = "downstream.servers"
    if not servers and config.listen.smtp:
        yield Problem(path, "no server to pass mail to; name one", ("listen.smtp",))
    if len(servers) > 1 and any(server.scheme is Scheme.MAILDIR for server in servers):
        yield Problem(
            path, "a maildir:// takes all mail and cannot stand among others; leave it alone here"
        )
    for index, server in enumerate(servers):
        if server in servers[:index]:
            first = servers.index(server)
            yield Problem(f"{path}[{index}]", f"{server} is {path}[{first}] already; remove one")
        for place, endpoint in enumerate(config.listen.smtp):
            if _leads_to(server, endpoint):
                yield Problem(
                    f"{path}[{index}]",
                    f"{server} is our own listen.smtp[{place}]; mail would go in a circle",
                    ("listen.smtp",),
                )


def _identity(config: Config) -> Iterator[Problem]:
    """`proxy` and `xforward` are not chosen where no server is an `smtp://` one."""
    downstream = config.downstream
    is_chosen = "identity" in downstream.model_fields_set
    is_smtp = any(server.scheme is Scheme.SMTP for server in downstream.servers)
    if is_chosen and not is_smtp and downstream.identity in (HandOver.PROXY, HandOver.XFORWARD):
        yield Problem(
            "downstream.identity",
            f'"{downstream.identity}" is for smtp:// servers only; leave it out '
            "(lmtp:// uses XCLIENT where it is offered, maildir:// needs none)",
            ("downstream.servers",),
        )


def _downstream_tls(config: Config) -> Iterator[Problem]:
    """`downstream.tls = "required"` goes with servers that have a host name to verify."""
    if config.downstream.tls is not Tls.REQUIRED:
        return
    for server in config.downstream.servers:
        if server.path:
            yield Problem(
                "downstream.tls",
                f'"required" needs a host name to verify, and {server} has none; '
                'take "never" or "opportunistic", or smtp:// with host and port',
                ("downstream.servers",),
            )


def _memory(config: Config) -> Iterator[Problem]:
    """`memory://` goes with `workers = 1`, since no other process sees it."""
    if config.store.url.scheme is StoreScheme.MEMORY and config.workers != 1:
        yield Problem(
            "store.url",
            f"memory:// is known to one process alone, and workers is {config.workers}"
            f"{' (one per core)' if not config.workers else ''}; "
            "set workers = 1, or use sqlite:/// or redis://",
            ("workers",),
        )


def _rules(config: Config) -> Iterator[Problem]:
    """A rule without conditions is the last one; no condition is an empty list."""
    for index, rule in enumerate(config.policy):
        path = f"policy[{index}]"
        for name in ("recipients", "senders", "clients"):
            if name in rule.model_fields_set and not getattr(rule, name):
                yield Problem(
                    f"{path}.{name}", "an empty list matches nothing; leave it out to match all"
                )
        if rule.is_unconditional and index + 1 < len(config.policy):
            yield Problem(
                path, "matches every message, so no rule below it counts; put it last", ("policy",)
            )


PROBLEMS: Sequence[Relation] = (
    _listeners,
    _believed,
    _tls,
    _servers,
    _open_relay,
    _identity,
    _downstream_tls,
    _memory,
    _rules,
)


def _endpoints(config: Config) -> Iterator[tuple[str, Endpoint]]:
    listen = config.listen
    yield from ((f"listen.smtp[{index}]", endpoint) for index, endpoint in enumerate(listen.smtp))
    yield from (
        (f"listen.milter[{index}]", endpoint) for index, endpoint in enumerate(listen.milter)
    )
    if listen.http is not None:
        yield "listen.http", listen.http


def _clash(one: Endpoint, other: Endpoint) -> bool:
    """Say whether two endpoints cannot both be bound; port 0 is always another one."""
    if one.path or other.path:
        return one.path == other.path
    if one.port != other.port or not one.port:
        return False
    hosts = {_plain(one.host), _plain(other.host)}
    is_wide = any(host in hosts for host in WILDCARDS)
    return len(hosts) == 1 or (is_wide and len({":" in host for host in hosts}) == 1)


def _leads_to(server: Server, endpoint: Endpoint) -> bool:
    """Say whether a connection to a server would come back to us."""
    if server.path or endpoint.path:
        return server.path == endpoint.path and server.scheme is not Scheme.MAILDIR
    if server.port != endpoint.port:
        return False
    host = _plain(endpoint.host)
    return host == _plain(server.host) or (host in WILDCARDS and is_loopback(server.host))


def _plain(host: str) -> str:
    """Return one spelling for all that an address has."""
    address = address_of("127.0.0.1" if host.lower() == "localhost" else host)
    return host.lower() if address is None else str(address)


def _is_open(config: Config) -> bool:
    """Say whether mail may come from clients that the configuration does not name."""
    listen = config.listen
    if listen.clients:
        return _networks_hold_everyone(listen.clients)
    # On a loopback address, too, a proxy hands in the whole world.
    is_local = all(endpoint.is_local for endpoint in listen.smtp)
    return bool(listen.smtp) and (bool(listen.proxy_protocol) or not is_local)


def _networks_hold_everyone(networks: Iterable[Network]) -> bool:
    networks = tuple(networks)
    four = tuple(collapse_addresses(n for n in networks if isinstance(n, IPv4Network)))
    six = tuple(collapse_addresses(n for n in networks if isinstance(n, IPv6Network)))
    return any(n.prefixlen == 0 for n in four) or any(n.prefixlen == 0 for n in six)
