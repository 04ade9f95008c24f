"""The keys of the configuration as data: for the environment, the example file and the reference.

All of it is read off the model; nothing is declared here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gateway.config.model import Config, PolicyTable, Table
from gateway.config.type import ListNotation, Notation


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of one key.

    Attributes:
        path: as in ``"store.url"``.
        notation: how its value is written.
        default: as TOML writes it; None if it is unset.
        comment: one line.
        is_secret: whether it may be read from a file, and is never shown.
    """

    path: str
    notation: Notation | ListNotation
    default: object
    comment: str
    is_secret: bool


def tables() -> dict[str, type[Table]]:
    """Return the model of every table by its name, in order; ``""`` is the top of the file."""
    found: dict[str, type[Table]] = {"": Config}
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Table):
            found[name] = field.annotation
    return found | {"policy": PolicyTable}


def keys_of(table: str) -> Iterator[Key]:
    """Yield the keys of one table, in order; tables within it are not among them."""
    for name, field in tables()[table].model_fields.items():
        for notation in field.metadata:
            if isinstance(notation, (Notation, ListNotation)):
                extra = field.json_schema_extra
                yield Key(
                    path=f"{table}.{name}" if table else name,
                    notation=notation,
                    default=field.default if field.validate_default else None,
                    comment=field.description or "",
                    is_secret=isinstance(extra, dict) and extra["is_secret"] is True,
                )
