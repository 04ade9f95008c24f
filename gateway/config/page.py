"""The configuration in print: the example file and the reference, both written from the model.

``python -m gateway.config.page`` writes ``config.example.toml`` and ``docs/configuration.md`` anew,
from the folder of the project; a test holds both against what would be written. Tables are
introduced by the docstrings of their models, keys by their comments, relations by the docstrings of
their functions: there is no second place to keep.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from pathlib import Path

from gateway.config.key import Key, keys_of, tables
from gateway.config.relation import PROBLEMS, Relation
from gateway.config.remark import REMARKS
from gateway.config.source import variable_of

EXAMPLE = Path("config.example.toml")
REFERENCE = Path("docs/configuration.md")

_EXAMPLE_HEAD = """\
# mailonce: every key with its default. Copy what you change; all else can stay out.
#
# Durations are written "250ms", "10s", "15m", "5d", sizes "256KiB", "50MiB". Each key can be set by
# an environment variable too, as in MAILONCE_STORE__WINDOW=7d. `mailonce check --config FILE` tells
# all that is wrong with a file. More about each key: docs/configuration.md
"""
_EXAMPLE_RULE = """
# Rules, in order; the first whose conditions all hold wins. What a rule leaves unset comes from
# [dedup] and [store]. None by default; this one is an example.
#[[policy]]
"""
_RULE_VALUES = {
    "recipients": ["*@lists.example.org"],
    "senders": ["*@example.org"],
    "clients": ["192.0.2.0/24"],
    "action": "tag",
    "match": "message-id",
    "window": "1d",
}
_REFERENCE_HEAD = """\
# Configuration

<!-- Written by `python -m gateway.config.page`; changes belong into gateway/config/model.py. -->

`mailonce` reads one TOML file, `--config FILE`. Every key has a default; a file need only hold what
differs. [`config.example.toml`](../config.example.toml) holds them all.

`mailonce check --config FILE` tells everything that is wrong at once, one line per key, in the
order of the file, and ends with exit code 2; if nothing is wrong, with 0. A key that does not exist
is an error: a misspelt limit must not be a limit that is off. Items of lists are counted from 0.

```
$ mailonce check --config /etc/mailonce/config.toml
listen.client: there is no such key; did you mean "clients"?
downstream.tls: expected "never", "opportunistic" or "required", got "yes"
store.window: must be at least 1s, got "0s" (from MAILONCE_STORE__WINDOW)
```

## How values are written

* **Durations**: whole numbers with `ms`, `s`, `m`, `h` or `d`, as in `"250ms"` or `"1h30m"`.
* **Sizes**: whole numbers with `KiB`, `MiB` or `GiB`, as in `"50MiB"`; octets without a unit.
* **Endpoints**, where we listen: `"host:port"`, `"[::]:25"`, `"unix:/path"`.
* **Servers**, where mail goes: `"smtp://host:port"`, `"lmtp://host:port"`, either with the path of
  a unix socket instead (`"lmtp:///run/dovecot/lmtp"`), or `"maildir:///path"`. Port 25 (SMTP) or 24
  (LMTP) can stay out.
* **Networks**: `"192.0.2.0/24"`, `"2001:db8::/32"`, or one address.
* **Address patterns** cover the whole address: `*` stands for anything, `?` for one character.
  Domains match in any case, local parts as given.

## The environment

Each key can be set by a variable, which wins over the file: `MAILONCE_`, the table, two
underscores, the key, all in capitals. Keys at the top of the file have no table.

| key | variable |
|---|---|
| `workers` | `MAILONCE_WORKERS=4` |
| `store.window` | `MAILONCE_STORE__WINDOW=7d` |
| `listen.smtp` | `MAILONCE_LISTEN__SMTP=["0.0.0.0:25","[::]:25"]` (lists are JSON) |
| `policy` | `MAILONCE_POLICY=[{"senders":["*@example.org"],"action":"drop"}]` (all rules at once) |

Secrets can also come from a file, named by the variable with `_FILE` after it; one line end behind
the secret does not count. They are:

SECRETS

A variable with our prefix that is no key is an error as well. Left alone are `MAILONCE_CONFIG`,
which stands for `--config`, and what Kubernetes sets for a service of our name
(`MAILONCE_SERVICE_HOST`, `MAILONCE_PORT_25_TCP` and the like).
"""
_REFERENCE_RELATIONS = """
## What must hold between keys

Single keys apart, these are refused:

PROBLEMS

These work, but hardly as meant; `mailonce check` remarks on them and exits with 0:

REMARKS

`mailonce check` also looks whether the files that are named (certificates, keys, and those in the
parameters of a `rediss://` URL) are there and can be read by whoever runs it, whether certificate
and key belong together, and whether each parameter of a Redis URL is understood.
"""


def example_file() -> str:
    """Return the example file: every key with its default."""
    parts = [_EXAMPLE_HEAD]
    for table, model in tables().items():
        if table == "policy":
            parts.append(_EXAMPLE_RULE + _lines(keys_of(table), "#"))
        elif table:
            introduction = (inspect.getdoc(model) or "").partition("\n")[0]
            parts.append(f"\n[{table}]  # {introduction}\n" + _lines(keys_of(table), ""))
        else:
            parts.append("\n" + _lines((k for k in keys_of(table) if k.path != "policy"), ""))
    return "".join(parts)


def reference_page() -> str:
    """Return the reference, in Markdown."""
    all_keys = [key for table in tables() for key in keys_of(table)]
    secrets = [f"* `{variable_of(key.path)}_FILE`" for key in all_keys if key.is_secret]
    parts = [_REFERENCE_HEAD.replace("SECRETS", "\n".join(secrets))]
    for table, model in tables().items():
        title = {"": "The top of the file", "policy": "`[[policy]]`"}.get(table, f"`[{table}]`")
        rows = (_row(key) for key in keys_of(table) if key.path != "policy")
        head = "| key | default | may be | |\n|---|---|---|---|\n"
        parts.append(f"\n## {title}\n\n{inspect.getdoc(model)}\n\n{head}{''.join(rows)}")
    relations = _REFERENCE_RELATIONS.replace("PROBLEMS", _sentences(PROBLEMS))
    parts.append(relations.replace("REMARKS", _sentences(REMARKS)))
    return "".join(parts)


def write(folder: Path) -> None:
    """Write both files.

    Args:
        folder: of the project.
    """
    (folder / EXAMPLE).write_text(example_file(), encoding="utf-8")
    (folder / REFERENCE).write_text(reference_page(), encoding="utf-8")


def _lines(keys: Iterable[Key], mark: str) -> str:
    """Return the lines of one table, the comments below each other."""
    settings = [(f"{mark}{_name(key)} = {_toml(_shown(key))}", key.comment) for key in keys]
    column = max(len(setting) for setting, _ in settings)
    return "".join(f"{setting:{column}}  # {comment}\n" for setting, comment in settings)


def _row(key: Key) -> str:
    default = "" if key.default is None else f"`{_toml(key.default)}`"
    cells = (f"`{_name(key)}`", default, key.notation.says, key.comment)
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |\n"


def _shown(key: Key) -> object:
    """Return what the example file shows: the default, or for a rule's key an example."""
    return _RULE_VALUES[_name(key)] if key.default is None else key.default


def _name(key: Key) -> str:
    return key.path.rpartition(".")[2]


def _toml(value: object) -> str:
    """Write a text, number, truth value or list of texts; JSON writes these alike."""
    return json.dumps(value, ensure_ascii=False)


def _sentences(relations: Iterable[Relation]) -> str:
    return "\n".join(_sentence(relation) for relation in relations)


def _sentence(relation: Relation) -> str:
    text = " ".join((inspect.getdoc(relation) or "").split())
    return f"* {text}"


if __name__ == "__main__":
    write(Path.cwd())
