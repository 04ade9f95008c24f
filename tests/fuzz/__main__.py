"""``python -m tests.fuzz``: hostile octets for as long as you like; exit 0 if nothing was found.

With atheris (libFuzzer under Python) each parser is fuzzed in a process of its own, guided by the
branches that an input takes. Where atheris does not install, hypothesis draws what it can in that
time; that is said, not hidden.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.fuzz.words import WORDS

_MOST_OCTETS = 4096
_ROOT = Path(__file__).parents[2]


def main() -> int:
    """Run from the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each parser")
    parser.add_argument("--target", choices=sorted(WORDS), action="append")
    parser.add_argument("--corpus", type=Path, default=Path("build/fuzz"), help="kept between runs")
    parser.add_argument("--guided", metavar="NAME", help=argparse.SUPPRESS)
    arguments, rest = parser.parse_known_args()
    if arguments.guided:
        return _guided(arguments.guided, rest)
    is_guided = importlib.util.find_spec("atheris") is not None
    if not is_guided:
        print("atheris is not installed: hypothesis alone, which no branch guides")
    found = []
    for name in arguments.target or sorted(WORDS):
        seconds = arguments.seconds
        is_well = (
            _run_guided(name, seconds, arguments.corpus) if is_guided else _drawn(name, seconds)
        )
        print(f"{name}: {'nothing found' if is_well else 'FOUND SOMETHING'} in {seconds} s")
        found += [] if is_well else [name]
    return 1 if found else 0


def _run_guided(name: str, seconds: int, corpus: Path) -> bool:
    """Fuzz one parser in a process of its own."""
    folder = corpus / name
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".dict") as words:
        for word in WORDS[name]:
            escaped = "".join(f"\\x{octet:02x}" for octet in word[:64])
            words.write(f'"{escaped}"\n')
        words.flush()
        options = [
            f"-max_total_time={seconds}",
            f"-max_len={_MOST_OCTETS}",
            f"-dict={words.name}",
            f"-artifact_prefix={folder}/crash-",
            "-timeout=20",
            "-rss_limit_mb=1024",
            "-print_final_stats=1",
        ]
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz", "--guided", name, *options, str(folder)],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    said = [line for line in done.stderr.splitlines() if "executed_units" in line]
    print(f"{name}: {' '.join(said)}" if done.returncode == 0 else done.stderr[-4000:])
    return done.returncode == 0


def _guided(name: str, options: list[str]) -> int:
    """Be that process."""
    atheris: Any = importlib.import_module("atheris")  # not among what development needs

    with atheris.instrument_imports(include=["gateway", "aiosmtpd.proxy_protocol"]):
        from tests.fuzz.targets import TARGETS  # noqa: PLC0415 - instrumented while imported
    atheris.Setup([sys.argv[0], *options], TARGETS[name])
    atheris.Fuzz()
    return 0


def _drawn(name: str, seconds: int) -> bool:
    """Draw words and octets until the time is over."""
    from tests.fuzz.draw import run  # noqa: PLC0415 - hypothesis is slow to import

    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            run(name, 500)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is a find
        print(f"{type(error).__name__}: {error}")
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
