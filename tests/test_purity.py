"""What import-linter cannot see: the core must not wait, print, open files or hash by chance."""

import ast
from pathlib import Path

import pytest

_PACKAGE = Path(__file__).parent.parent / "gateway"
# The milter's codec is as pure as the core, though it lives with its face.
_PURE = sorted({*_PACKAGE.glob("core/*.py"), *_PACKAGE.glob("faces/milter_wire.py")})
# `hash` of octets differs from process to process, `id` from run to run: no two nodes would agree.
_CALLS = frozenset(("open", "print", "input", "hash", "id", "exec", "eval"))
_NODES = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith, ast.Global)


def impurities(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, _NODES):
            found.append(f"line {node.lineno}: {type(node).__name__}")
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in _CALLS
        ):
            found.append(f"line {node.lineno}: {node.func.id}()")
    return found


@pytest.mark.parametrize("module", _PURE, ids=lambda module: module.stem)
def test_module_is_pure(module: Path) -> None:
    assert impurities(module.read_text()) == []


def test_impurities_are_found() -> None:
    planted = "async def f():\n    await g()\ndef h():\n    global x\n    x = open('y')\n"
    assert len(impurities(planted)) == 4
