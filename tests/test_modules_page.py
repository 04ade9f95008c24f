"""`docs/modules.md` has every module in one line: what its docstring begins with.

`python -m tests.test_modules_page` writes the page anew.
"""

from __future__ import annotations

import ast
from pathlib import Path

_ROOT = Path(__file__).parent.parent
_PACKAGE = _ROOT / "gateway"
_PAGE = _ROOT / "docs" / "modules.md"
_MOST_CHARACTERS = 120

_INTRODUCTION = """\
# Every module in one line

By floor, the ground first: a module imports from its own floor and from those above it in this
list, never from one below. What follows a name is the first sentence of the module's docstring;
the rest of it has the rules of the module, the RFC sections it implements, and how it fails. How
they work together is in [flow.md](flow.md).
"""

_FLOORS = {
    "What all others use": ("errors", "core", "ports", "config", "watchdog"),
    "One message": ("screening", "candidate", "inflow", "spool", "recall"),
    "The world": ("edge",),
    "One client's transactions": ("plan", "desk", "account", "lease", "hop", "guard", "relay"),
    "Wire protocols towards clients": ("faces",),
    "Processes": (
        "wiring",
        "control",
        "inquiry",
        "shared_memory",
        "door",
        "worker",
        "supervisor",
        "listener",
        "lookout",
        "systemd",
        "service",
    ),
    "Commands": ("doctor", "demo", "scan", "trace", "cli", "__main__"),
}


def _modules(part: str) -> list[Path]:
    """Return a module, or a package and all modules in it; bare markers of packages left out."""
    if (_PACKAGE / f"{part}.py").exists():
        return [_PACKAGE / f"{part}.py"]
    return sorted((_PACKAGE / part).glob("*.py"))


def _name(module: Path) -> str:
    return module.relative_to(_PACKAGE).with_suffix("").as_posix().removesuffix("/__init__")


def _sentence(module: Path) -> str:
    docstring = ast.get_docstring(ast.parse(module.read_text("utf-8"))) or ""
    return docstring.partition("\n\n")[0].replace("\n", " ").replace("``", "`")


def page() -> str:
    """Return the whole page."""
    parts = [_INTRODUCTION]
    for title, names in _FLOORS.items():
        rows = [f"| `{_name(m)}` | {_sentence(m)} |" for name in names for m in _modules(name)]
        parts.append("\n".join([f"## {title}\n", "| module | |", "|---|---|", *rows, ""]))
    return "\n".join(parts)


def test_page_says_what_the_docstrings_say() -> None:
    assert _PAGE.read_text("utf-8") == page(), "write it anew: python -m tests.test_modules_page"


def test_page_has_every_module() -> None:
    listed = {m for names in _FLOORS.values() for name in names for m in _modules(name)}
    assert listed == set(_PACKAGE.rglob("*.py")) - {_PACKAGE / "__init__.py"}


def test_a_line_is_a_line() -> None:
    sentences = {_name(m): _sentence(m) for m in _PACKAGE.rglob("*.py")}
    assert {n for n, s in sentences.items() if not s or len(s) > _MOST_CHARACTERS} == set()


if __name__ == "__main__":
    _PAGE.write_text(page(), "utf-8")
