"""Plays every dialogue of `tests/dialogues` with the real gateway; see the README there."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from tests.support.dialogue import Stage, stage_for
from tests.support.script import Script, read_script

_SCRIPTS = [read_script(path) for path in sorted(Path(__file__).parent.glob("dialogues/*.smtp"))]
_STAGES = sorted({script.stage for script in _SCRIPTS})


def _cases() -> Iterator[ParameterSet]:
    """Return number of the stage and dialogue, in an order in which each stage is set up once."""
    for number, stage in enumerate(_STAGES):
        # Of several test processes one gets all of a stage.
        group = pytest.mark.xdist_group(f"dialogues-{number}")
        for script in _SCRIPTS:
            if script.stage == stage:
                yield pytest.param(number, script, id=script.path.stem, marks=group)


@pytest.fixture(scope="module")
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    name = _STAGES[request.param]
    with stage_for(next(script for script in _SCRIPTS if script.stage == name)) as stage:
        yield stage


@pytest.mark.parametrize(("stage", "script"), [*_cases()], indirect=["stage"])
def test_dialogue(stage: Stage, script: Script) -> None:
    stage.play(script)
    assert stage.gateway.http("/healthz")[0] == 200


def test_there_are_enough_of_them() -> None:
    assert len(_SCRIPTS) >= 40
