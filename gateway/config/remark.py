"""What a postmaster should be told about a configuration that has no problems.

`remarks` are combinations that work, but hardly as meant, or that give something away. They are
pure, one function each, listed in `REMARKS`; the docstring is what the reference says of it.
`missing_files` alone looks at the disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from urllib.parse import parse_qsl

from gateway.config.model import Config
from gateway.config.place import Scheme, is_loopback
from gateway.config.relation import Relation
from gateway.config.source import Problem
from gateway.config.type import show_duration
from gateway.core.handover import HandOver
from gateway.core.rule import Match, Mode, Network

_FILES_OF_URL = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


def remarks(config: Config) -> list[Problem]:
    """Return what a postmaster should be told about a configuration without problems."""
    return [remark for relation in REMARKS for remark in relation(config)]


def missing_files(config: Config) -> Iterator[Problem]:
    """Yield the files that are named and cannot be read by this process."""
    named = [("tls.certificate", config.tls.certificate), ("tls.key", config.tls.key)]
    _, _, query = config.store.url.text.get_secret_value().partition("?")
    named += [
        ("store.url", Path(value)) for name, value in parse_qsl(query) if name in _FILES_OF_URL
    ]
    for path, file in named:
        if file is not None and (reason := _why_unreadable(file)):
            yield Problem(path, f"the file {file} {reason}")


def _unread_networks(config: Config) -> Iterator[Problem]:
    """Networks in `[listen]` from which nobody can connect, as all listeners are local."""
    listen = config.listen
    lists = [("proxy_protocol", listen.proxy_protocol), ("xforward", listen.xforward)]
    if not listen.proxy_protocol:
        lists.append(("clients", listen.clients))
    if not listen.smtp or not all(endpoint.is_local for endpoint in listen.smtp):
        return
    for name, networks in lists:
        if networks and not any(_holds_loopback(network) for network in networks):
            yield Problem(
                f"listen.{name}",
                "only this machine can connect to listen.smtp, and it is in none of these networks",
            )


def _http(config: Config) -> Iterator[Problem]:
    """`listen.http` can be reached by others and `listen.http_token` is empty: no console."""
    listen = config.listen
    if listen.http and not listen.http.is_local and not listen.http_token.get_secret_value():
        yield Problem(
            "listen.http_token",
            f"empty, and others can connect to {listen.http}: console and API are refused there, "
            "metrics and health pages are open to all",
        )


def _xforward(config: Config) -> Iterator[Problem]:
    """`listen.xforward` is set and `downstream.identity` is another: nothing is passed on."""
    if config.listen.xforward and config.downstream.identity is not HandOver.XFORWARD:
        yield Problem(
            "listen.xforward",
            'what these networks tell is passed on with downstream.identity = "xforward" only',
        )


def _probe(config: Config) -> Iterator[Problem]:
    """`downstream.relay_probe` is empty while others can connect: nobody notices an open relay."""
    is_public = not all(endpoint.is_local for endpoint in config.listen.smtp)
    is_smtp = any(server.scheme is Scheme.SMTP for server in config.downstream.servers)
    if is_public and is_smtp and not config.downstream.relay_probe:
        yield Problem(
            "downstream.relay_probe",
            "empty: nobody checks that the downstream refuses to relay what comes through us",
        )


def _id_alone(config: Config) -> Iterator[Problem]:
    """`match = "message-id"` with `action = "drop"`: known ids can be used to suppress mail."""
    default = config.default_policy()
    chosen = [("dedup.match", default.mode, default.match)]
    chosen += [
        (f"policy[{index}].match", rule.action or default.mode, rule.match or default.match)
        for index, rule in enumerate(config.policy)
        if rule.action or rule.match
    ]
    for path, mode, match in chosen:
        if mode is Mode.DROP and match is Match.MESSAGE_ID:
            yield Problem(
                path,
                '"message-id" with action "drop": '
                "whoever knows an id in advance can have its mail dropped",
            )


def _bypassed(config: Config) -> Iterator[Problem]:
    """A rule with `action = "bypass"` sets `match` or `window`, which do not count then."""
    for index, rule in enumerate(config.policy):
        for name in ("match", "window"):
            if rule.action is Mode.BYPASS and name in rule.model_fields_set:
                yield Problem(f"policy[{index}].{name}", 'does not count with action = "bypass"')


def _lists_secret(config: Config) -> Iterator[Problem]:
    """`store.secret` is empty and the Redis server is another machine."""
    store = config.store
    is_remote = store.url.scheme.is_redis and not all(
        is_loopback(host) for host, _ in store.url.hosts
    )
    if is_remote and not store.secret.get_secret_value():
        yield Problem(
            "store.secret",
            "empty: who can read the tracking list can test which ids and recipients are in it",
        )


def _lease(config: Config) -> Iterator[Problem]:
    """`store.lease` leaves less time than `downstream.final_reply_timeout`: less is waited then.

    A delivery never outlives its lease, or a copy could pass while the first is still under way.
    """
    wait_s, asked_s = config.final_reply_wait_s, config.downstream.final_reply_timeout
    if wait_s < asked_s:
        yield Problem(
            "store.lease",
            f"with {show_duration(config.store.lease)} the downstream has {show_duration(wait_s)} "
            f"for its final reply, not the {show_duration(asked_s)} of "
            "downstream.final_reply_timeout",
        )


def _window(config: Config) -> Iterator[Problem]:
    """`store.window` is shorter than `store.lease`: a slow delivery is not remembered at all."""
    if config.store.window < config.store.lease:
        yield Problem(
            "store.window",
            f"shorter than store.lease, {show_duration(config.store.lease)}: "
            "what took as long to deliver is not remembered at all",
        )


def _provisional(config: Config) -> Iterator[Problem]:
    """`milter.provisional` is not shorter than `store.window`."""
    if config.listen.milter and config.milter.provisional >= config.store.window:
        yield Problem(
            "milter.provisional",
            f"not shorter than store.window, {show_duration(config.store.window)}: "
            "sightings from the milter never count in full",
        )


REMARKS: Sequence[Relation] = (
    _unread_networks,
    _http,
    _xforward,
    _probe,
    _id_alone,
    _bypassed,
    _lists_secret,
    _lease,
    _window,
    _provisional,
)


def _holds_loopback(network: Network) -> bool:
    if isinstance(network, IPv4Network):
        return network.overlaps(IPv4Network("127.0.0.0/8"))
    return network.overlaps(IPv6Network("::1"))


def _why_unreadable(file: Path) -> str:
    if not file.exists():
        return "does not exist"
    if not file.is_file():
        return "is no file"
    return "" if os.access(file, os.R_OK) else "cannot be read by this user"
