"""What the suite needs from the system is what `.ci/packages` brings.

Seen in practice: a program that one machine had from the start was missing on the next one, and no
list named it.
"""

from __future__ import annotations

import re
from pathlib import Path

_TESTS = Path(__file__).parent
_PACKAGES = _TESTS.parent / ".ci/packages"
_NEED = re.compile(r'\bneed\(\s*((?:"[^"]+",?\s*)+)')


def test_each_program_that_a_test_needs_is_brought() -> None:
    wanted = re.search(r"^wanted='\n(.*?)^'", _PACKAGES.read_text(), re.MULTILINE | re.DOTALL)
    assert wanted
    packages = {line.split()[1] for line in wanted[1].splitlines()}
    needed = {
        f"{name} ({path.relative_to(_TESTS)})": name.partition(":")[2] or name
        for path in _TESTS.rglob("*.py")
        for programs in _NEED.findall(path.read_text())
        for name in re.findall(r'"([^"]+)"', programs)
    }
    assert len(needed) > 15
    assert {name for name, package in needed.items() if package not in packages} == set()
