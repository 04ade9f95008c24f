"""Values compare and hash by what they hold, and have no room for anything else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core.value import value


@value
class _Point:
    """Two numbers."""

    x: int
    y: int = 0


def test_values_are_equal_if_they_hold_the_same() -> None:
    """As keys of a dictionary, too."""
    assert _Point(1) == _Point(1, 0)
    assert _Point(1) != _Point(1, 2)
    assert {_Point(1): "found"}[_Point(1, 0)] == "found"


def test_a_changed_value_is_another_one() -> None:
    """The first stays as it was."""
    first = _Point(1, 2)
    assert replace(first, y=3) == _Point(1, 3)
    assert first == _Point(1, 2)


def test_a_value_has_no_room_for_more() -> None:
    """Slots: nothing can be filled in later under another name."""
    with pytest.raises(AttributeError):
        setattr(_Point(1), "z", 3)  # noqa: B010 - the type checker forbids the statement
