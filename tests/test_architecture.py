"""The house rules that can be counted: sizes, names, mirrors, citations, docstrings."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

_ROOT = Path(__file__).parent.parent
_PACKAGE = _ROOT / "gateway"
_MODULES = sorted(_PACKAGE.rglob("*.py"))
_NAMED = [module for module in _MODULES if module.stem != "__init__"]

_MOST_MODULE_LINES = 400
_MOST_MEDIAN_LINES = 160
_MOST_FUNCTION_LINES = 45
_FORBIDDEN_NAMES = ("util", "helper", "common", "manager", "misc", "shared_code", "base")

_DIALOGUES, _MATRIX = "tests/test_dialogues.py", "tests/integration/test_matrix.py"
# Modules without tests/<folder>/test_<name>.py, nor one of a part of their name: where their tests
# are, and why there.
_TESTED_ELSEWHERE = {
    "desk": (_DIALOGUES, "holds what others do"),
    "account": (_MATRIX, "what the log and the counters say"),
    "candidate": ("tests/test_screening_retry.py", "a part of screening"),
    "plan": (_MATRIX, "who gets which form"),
    "__main__": ("tests/test_cli.py", "starts the command line"),
    "control": (
        _DIALOGUES,
        "what supervisor and workers say to each other: processes are run whole",
    ),
    "edge.activity": ("tests/core/test_activity.py", "samples what is computed there"),
    "edge.downstream": (_DIALOGUES, "its replies are what a client sees"),
    "edge.downstream_session": (_DIALOGUES, "its replies are what a client sees"),
    "edge.downstream_wire": (_DIALOGUES, "its replies are what a client sees"),
    "edge.redis_batch": ("tests/edge/test_tracking_redis.py", "a part of it"),
    "edge.redis_cluster": ("tests/edge/test_tracking_redis_ha.py", "needs a cluster"),
    "edge.redis_inspection": ("tests/test_doctor.py", "asks what doctor tells"),
    "edge.redis_journal": ("tests/edge/test_tracking_contract.py", "as of every list"),
    "edge.redis_layout": ("tests/edge/test_tracking_redis.py", "a part of it"),
    "edge.redis_link": ("tests/edge/test_tracking_redis.py", "a part of it"),
    "edge.redis_wire": ("tests/edge/test_tracking_redis.py", "a part of it"),
    "edge.resolver": (_DIALOGUES, "names of clients are handed on"),
    "edge.sqlite_store": ("tests/edge/test_tracking_sqlite.py", "a part of it"),
    "edge.sqlite_thread": ("tests/edge/test_tracking_sqlite.py", "a part of it"),
    "edge.tracking_memory": ("tests/edge/test_tracking_contract.py", "it is the plain reference"),
    "errors": (_DIALOGUES, "raised by others, seen as replies"),
    "faces.smtp": (_DIALOGUES, "spoken with a real client"),
    "faces.smtp_connection": (_DIALOGUES, "spoken with a real client"),
    "faces.smtp_content": (_DIALOGUES, "spoken with a real client"),
    "faces.smtp_origin": (_DIALOGUES, "spoken with a real client"),
    "faces.smtp_output": (_DIALOGUES, "spoken with a real client"),
    "faces.smtp_reception": (_DIALOGUES, "spoken with a real client"),
    "guard": (_DIALOGUES, "lets sessions in, or not"),
    "hop": (_DIALOGUES, "a transaction needs a downstream"),
    "inflow": (_DIALOGUES, "content comes from a client"),
    "lease": ("tests/acceptance/test_windows.py", "its end is seen by two clients"),
    "listener": (_DIALOGUES, "opens what clients connect to"),
    "lookout": (_DIALOGUES, "needs a downstream to look at"),
    "ports": ("tests/edge/test_tracking_contract.py", "interfaces"),
    "recall": ("tests/test_trace.py", "finds what trace tells"),
    "relay": (_MATRIX, "needs client, list and downstream"),
    "screening": (_MATRIX, "needs a list"),
    "service": (_MATRIX, "is run whole"),
    "shared_memory": ("tests/edge/test_metrics.py", "holds the counters"),
    "supervisor": (_MATRIX, "is run whole"),
    "systemd": (_MATRIX, "is run whole"),
    "watchdog": (_DIALOGUES, "time-outs are seen as replies"),
    "wiring": (_MATRIX, "is run whole"),
    "worker": (_MATRIX, "is run whole"),
}


def name_of(module: Path) -> str:
    return ".".join(module.relative_to(_PACKAGE).with_suffix("").parts)


def functions(module: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a body, its docstring left out."""
    statements = function.body[1:] if ast.get_docstring(function) else function.body
    if not statements:
        return 0
    return (statements[-1].end_lineno or 0) - statements[0].lineno + 1


def lines(module: Path) -> int:
    return len(module.read_text("utf-8").splitlines())


def citations_without_section(text: str) -> list[str]:
    """Find RFCs that are cited as a whole: nobody can look up what is meant."""
    flowing = re.sub(r"\s*\n\s*(?:#\s*)?", " ", text)
    pattern = r"RFCs? ?\d++(?! (?:sections?|appendix) [\dA-Z])[^.;,)]{0,40}"
    return [match[0] for match in re.finditer(pattern, flowing)]


@pytest.mark.parametrize("module", _MODULES, ids=name_of)
def test_module_is_small(module: Path) -> None:
    assert lines(module) <= _MOST_MODULE_LINES


def test_most_modules_are_smaller_still() -> None:
    assert median(lines(module) for module in _MODULES) <= _MOST_MEDIAN_LINES


@pytest.mark.parametrize("module", _MODULES, ids=name_of)
def test_functions_are_small(module: Path) -> None:
    long = {f.name: n for f in functions(module) if (n := body_lines(f)) > _MOST_FUNCTION_LINES}
    assert long == {}


@pytest.mark.parametrize("module", _MODULES, ids=name_of)
def test_names_say_something(module: Path) -> None:
    words = name_of(module).replace(".", "_").split("_")
    assert not [word for word in words if word.rstrip("s") in _FORBIDDEN_NAMES]


@pytest.mark.parametrize("module", _MODULES, ids=name_of)
def test_citations_name_a_section(module: Path) -> None:
    assert citations_without_section(module.read_text("utf-8")) == []


@pytest.mark.parametrize("module", _MODULES, ids=name_of)
def test_public_things_say_what_they_are(module: Path) -> None:
    tree = ast.parse(module.read_text("utf-8"))
    documented = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    assert ast.get_docstring(tree)
    silent = [
        node.name
        for parent in ast.walk(tree)
        if isinstance(parent, ast.Module | ast.ClassDef) and not _is_private(parent)
        for node in parent.body
        if isinstance(node, documented) and not _is_private(node) and not ast.get_docstring(node)
    ]
    assert silent == []


def _is_private(node: ast.AST) -> bool:
    return getattr(node, "name", "").startswith("_")


@pytest.mark.parametrize("module", _NAMED, ids=name_of)
def test_module_has_tests_of_its_own(module: Path) -> None:
    """`http_chart` is a part of `http`, and may be tested with it."""
    folder = _ROOT / "tests" / module.relative_to(_PACKAGE).parent
    words = module.stem.split("_")
    own = [folder / f"test_{'_'.join(words[:n])}.py" for n in range(len(words), 0, -1)]
    # The parts of a command may be tested beside it: tests/test_scan_source.py, tests/test_scan.py.
    parts = name_of(module).split(".")
    own += [_ROOT / "tests" / f"test_{'_'.join(parts[:n])}.py" for n in range(len(parts), 0, -1)]
    place, _ = _TESTED_ELSEWHERE.get(name_of(module), ("", ""))
    assert any(path.exists() for path in own) or (place and (_ROOT / place).exists())


def test_nothing_is_excused_that_is_gone() -> None:
    names = {name_of(module) for module in _NAMED}
    assert set(_TESTED_ELSEWHERE) <= names


@pytest.mark.parametrize(
    ("text", "count", "reason"),
    [
        ("RFC 5321 section 4.5.2", 0, "as it should be"),
        ("RFC 5321 sections 4.1 and 4.5.2", 0, "several"),
        ("RFC 5321\n    section 4.5.2", 0, "over a line end"),
        ("# RFC 5321\n    # section 4.5.2", 0, "over a line end in a comment"),
        ("RFC 5322 appendix A.5", 0, "an appendix"),
        ("RFC 5321: see there", 1, "none"),
        ("(RFC 5321, RFC 5322)", 2, "two without"),
        ("RFC5321 section 4", 0, "no blank"),
    ],
)
def test_citations_are_found(text: str, count: int, reason: str) -> None:
    assert len(citations_without_section(text)) == count, reason


def test_faults_would_be_found(tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text('def f():\n    """Say."""\n' + "    x = 1\n" * 50 + "class C:\n    pass\n")
    (function,) = functions(planted)
    assert body_lines(function) == 50
    with pytest.raises(AssertionError):
        test_public_things_say_what_they_are(planted)
