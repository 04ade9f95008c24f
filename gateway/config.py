"""The configuration: TOML and environment in, one frozen model out.

This page holds every key with its default and bounds, and every relation between keys. How values
are written is in `config_type` and `config_place`, where they come from in `config_source`. Nothing
here opens a connection or writes a file.

`load` and `config_of` raise `ConfigError` with every problem at once, each as ``key.path: message``
in the order of the file. A `Config` that was made in another way has not been checked for relations
between its keys, the open-relay guard among them.
"""

from __future__ import annotations

import copy
import socket
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainValidator, SecretStr
from pydantic import ValidationError

from gateway.core.handover import HandOver
from gateway.core.rule import Collisions, Match, Mode, Network, Policy, Rule
from gateway.errors import ConfigError
from gateway import config_place as place
from gateway import config_source as source
from gateway import config_type as kind

_MINUTE_S, _HOUR_S, _DAY_S = 60.0, 3_600.0, 86_400.0
_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30


def _duration(least_s: float, most_s: float) -> PlainValidator:
    return PlainValidator(partial(kind.parse_duration, least_s=least_s, most_s=most_s))


def _size(least: int, most: int) -> PlainValidator:
    return PlainValidator(partial(kind.parse_size, least=least, most=most))


def _count(least: int, most: int) -> PlainValidator:
    return PlainValidator(partial(kind.parse_count, least=least, most=most))


def _one_of(*choices: StrEnum) -> PlainValidator:
    return PlainValidator(partial(kind.parse_choice, choices=choices))


def _list(example: str) -> BeforeValidator:
    return BeforeValidator(partial(kind.parse_list, example=example))


_Flag = Annotated[bool, PlainValidator(kind.parse_flag)]
_HostName = Annotated[str, PlainValidator(kind.parse_host_name)]
_File = Annotated[Path | None, PlainValidator(kind.parse_path)]
_Network = Annotated[Network, PlainValidator(kind.parse_network)]
_Networks = Annotated[tuple[_Network, ...], _list("10.0.0.0/8")]
...
