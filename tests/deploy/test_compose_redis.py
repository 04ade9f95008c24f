"""The Redis of compose.yaml can write where redis.conf tells it to.

The entry point of the official image hands its working folder, and nothing else, to the user that
it runs as; a named volume belongs to root until then. Where Redis cannot write it does not start.
"""

from __future__ import annotations

from pathlib import Path

import yaml

_DEPLOY = Path(__file__).parents[2] / "deploy"
_SERVICE = yaml.safe_load((_DEPLOY / "compose.yaml").read_text())["services"]["redis"]


def test_its_folder_is_its_own_and_is_kept() -> None:
    text = (_DEPLOY / "redis/redis.conf").read_text()
    (folder,) = (line.split()[1] for line in text.splitlines() if line.startswith("dir "))
    assert _SERVICE["working_dir"] == folder
    assert f"seen:{folder}" in _SERVICE["volumes"]
