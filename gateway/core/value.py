"""How the values of a message are made: slotted dataclasses that nobody may change.

The type checker, which sees every line of ours, holds them for frozen. At run time they are not: a
frozen dataclass stores each attribute through a call of `object.__setattr__`, and thirty values a
message cost twice as much that way. What is made once, when we start, stays a frozen dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

_Value = TypeVar("_Value")


@dataclass_transform(frozen_default=True)
def value(kind: type[_Value]) -> type[_Value]:
    """Make a class of values: compared and hashed by what they hold, and never changed."""
    return dataclass(slots=True, unsafe_hash=True)(kind)
