"""Plays every dialogue of `tests/dialogues` with the real gateway; see the README there."""

from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest

from tests.support.dialogue import Stage, stage_for
from tests.support.script import Script, read_script

_SCRIPTS = [read_script(path) for path in sorted(Path(__file__).parent.glob("dialogues/*.smtp"))]
_BY_STAGE = {script.stage: script for script in _SCRIPTS}


def _cases() -> Iterator[object]:
    for script in _SCRIPTS:
        # Dialogues of one stage go to one process, where they share it.
        group = pytest.mark.xdist_group(f"dialogues-{crc32(script.stage.encode())}")
        yield pytest.param(script.stage, script, id=script.path.stem, marks=group)


@pytest.fixture(scope="module")
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with stage_for(_BY_STAGE[request.param]) as stage:
        yield stage


@pytest.mark.parametrize(("stage", "script"), _cases(), indirect=["stage"])
def test_dialogue(stage: Stage, script: Script) -> None:
    stage.play(script)
    assert stage.gateway.http("/healthz")[0] == 200


def test_there_are_enough_of_them() -> None:
    assert len(_SCRIPTS) >= 40
