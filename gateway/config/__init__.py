"""The configuration: TOML and environment in, one frozen model out.

    source    where it comes from           page     the reference
    type      how values are written        place    how places are
    model     every key with its default    key      the same as data
    relation  what must hold between keys   remark   what is only odd

`load` and `config_of` raise `ConfigError` with every problem at once, each as ``key.path: message``
in the order of the file. Certificates and other files that are named in it are looked at only where
`remark.missing_files` is asked for, as `mailonce check` does.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.config import relation, source
from gateway.config.key import keys_of, tables
from gateway.config.model import Config
from gateway.config.place import Endpoint
from gateway.config.relation import Relation
from gateway.config.source import Problem
from gateway.errors import ConfigError

__all__ = ["Config", "config_of", "listening_at", "load"]

_ALL_KEYS = tuple(key for table in tables() if table != "policy" for key in keys_of(table))


def load(
    path: str | Path,
    environ: Mapping[str, str] | None = None,
    further: Sequence[Relation] = (),
) -> Config:
    """Read a configuration file.

    Args:
        path: of a TOML file.
        environ: environment variables that override it; None for none.
        further: what must hold besides the relations between the keys.

    Returns:
        The configuration, all relations between its keys checked.

    Raises:
        ConfigError: the file cannot be read, or something is wrong with its keys or the variables.
    """
    return config_of(source.read_document(Path(path)), environ, further)


def config_of(
    document: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
    further: Sequence[Relation] = (),
) -> Config:
    """Make a configuration of what a TOML file would hold.

    Args:
        document: tables by name, keys by name in each; what is missing has its default.
        environ: environment variables that override it; None for none.
        further: what must hold besides the relations between the keys.

    Returns:
        The configuration, all relations between its keys checked.

    Raises:
        ConfigError: with everything that is wrong.
    """
    overlay = source.overlaid(document, environ or {}, _ALL_KEYS)
    config, found = _parsed(overlay.document)
    problems = [*overlay.problems, *found]
    if config is None:
        # Whatever is sound is looked at too: one run shall tell everything.
        config, _ = _parsed(_without(overlay.document, [problem.path for problem in found]))
    if config is not None:
        bad = [problem.path for problem in problems]
        found += [
            problem
            for problem in relation.problems(config, further)
            if not any(source.overlaps(path, bad) for path in (problem.path, *problem.others))
        ]
    problems = [*overlay.problems, *(_with_variable(item, overlay.variables) for item in found)]
    if problems or config is None:
        raise ConfigError([str(item) for item in source.in_order(problems, overlay.document)])
    return config


def listening_at(config: Config, smtp: Sequence[Endpoint]) -> Config:
    """Return a configuration with the addresses that SMTP listeners really have.

    Args:
        config: as it was loaded.
        smtp: where the sockets are that somebody else has opened for us (systemd); they may be
            public though ``listen.smtp`` is not.

    Returns:
        The same, with these in place of ``listen.smtp``.

    Raises:
        ConfigError: what was allowed for the configured addresses is not for these (P5).
    """
    listen = config.listen.model_copy(update={"smtp": tuple(smtp)})
    changed = config.model_copy(update={"listen": listen})
    if problems := relation.open_doors(changed):
        raise ConfigError([str(problem) for problem in problems])
    return changed


def _parsed(document: Mapping[str, Any]) -> tuple[Config | None, list[Problem]]:
    """Return the configuration, or what is wrong with single keys."""
    try:
        return Config.model_validate(document), []
    except ValidationError as error:
        return None, [_problem(details) for details in error.errors(include_url=False)]


def _problem(details: ErrorDetails) -> Problem:
    path = source.path_of(details["loc"])
    match details["type"]:
        case "extra_forbidden":
            return Problem(path, "there is no such key" + _hint(details["loc"]))
        case "value_error":
            return Problem(path, str(details["ctx"]["error"]))
        case "model_type":
            return Problem(path, "expected a table")
        case _:
            return Problem(path, details["msg"])


def _hint(loc: tuple[int | str, ...]) -> str:
    """Return what may have been meant by an unknown key."""
    table, name = (str(loc[0]) if len(loc) > 1 else ""), str(loc[-1])
    models = tables()
    siblings = list(models[table].model_fields) if table in models else []
    if meant := source.nearest(name, siblings):
        return f'; did you mean "{meant}"?'
    elsewhere = [t for t, model in models.items() if t != table and name in model.model_fields]
    paths = [f"{t}.{name}" if t else f"{name}, at the top of the file" for t in elsewhere]
    return f"; did you mean {' or '.join(paths)}?" if paths else ""


def _without(document: Mapping[str, Any], paths: list[str]) -> dict[str, Any]:
    """Return a document without the keys that have problems."""

    def pruned(value: object, path: str) -> object:
        if isinstance(value, dict):
            inner = {name: source.path_of([name]) for name in value}
            whole = {name: f"{path}.{part}".removeprefix(".") for name, part in inner.items()}
            return {
                name: pruned(item, whole[name])
                for name, item in value.items()
                if not _is_spoilt(item, whole[name], paths)
            }
        if isinstance(value, list):
            return [pruned(item, f"{path}[{index}]") for index, item in enumerate(value)]
        return copy.deepcopy(value)

    result = pruned(dict(document), "")
    return result if isinstance(result, dict) else {}


def _is_spoilt(value: object, path: str, bad: list[str]) -> bool:
    """Say whether a key has a problem; a list of plain values has those of its items."""
    if path in bad:
        return True
    items = [] if not isinstance(value, list) else range(len(value))
    return any(f"{path}[{index}]" in bad for index in items)


def _with_variable(problem: Problem, variables: Mapping[str, str]) -> Problem:
    """Add the variable that the value came from, if it did."""
    for path, variable in variables.items():
        if source.overlaps(path, [problem.path]):
            return replace(problem, message=source.from_variable(problem.message, variable))
    return problem
