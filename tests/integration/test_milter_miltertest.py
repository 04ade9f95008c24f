"""The milter as OpenDKIM's tester sees it: a mail server's side that is not ours."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.milter_server import running_milter
from tests.support.need import need, program
from tests.support.process import free_port

_FOLDER = Path(__file__).parents[1] / "milter"
_COMMON, _RUN = _FOLDER / "common.lua", _FOLDER / "run.lua"
_SCRIPTS = sorted(set(_FOLDER.glob("*.lua")) - {_COMMON, _RUN})


@pytest.mark.tool
@pytest.mark.parametrize("script", _SCRIPTS, ids=lambda script: script.stem)
def test_script(script: Path, tmp_path: Path) -> None:
    """Each script begins with the options of the milter that it wants."""
    need("miltertest")
    options = json.loads(script.read_text().splitlines()[0].removeprefix("-- "))
    port = free_port()
    with running_milter(port, tmp_path / "milter.log", **options):
        done = subprocess.run(
            [
                program("miltertest"),
                *("-D", f"port={port}", "-D", f"common={_COMMON}", "-D", f"script={script}"),
                *("-s", _RUN),
            ],
            capture_output=True,
            timeout=60,
            check=False,
        )
    said = (done.stdout + done.stderr).decode() + (tmp_path / "milter.log").read_text()
    assert done.returncode == 0, said
    assert "complaint" not in said
