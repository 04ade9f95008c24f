"""``mailonce doctor``: everything that can be wrong in a deployment, each with its remedy.

Asks the real servers, sends no mail, and leaves nothing behind. All checks run side by side; what
they are is in the modules beside. Never fails: what cannot be looked at is a finding.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.config import Config
from gateway.doctor.downstream import check_downstream
from gateway.doctor.finding import Finding, Level
from gateway.doctor.listen import check_listeners
from gateway.doctor.machine import check_configuration, check_machine
from gateway.doctor.store import check_store, check_times
from gateway.doctor.tls import check_tls

_WIDTH = 132
_FAREWELL_S = 0.25
_MARKS = {
    Level.OK: Text("✓ ok", style="green"),
    Level.WARN: Text("! warn", style="yellow"),
    Level.FAIL: Text("✗ fail", style="bold red"),
}


def examine(config: Config) -> Sequence[Finding]:
    """Look at everything; takes some seconds if servers do not answer."""
    return asyncio.run(_examined(config))


def is_well(findings: Sequence[Finding]) -> bool:
    """Say whether nothing fails; warnings do not count."""
    return all(finding.level is not Level.FAIL for finding in findings)


def tell(findings: Sequence[Finding], console: Console | None = None) -> None:
    """Print findings for people."""
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console = Console(file=console.file, highlight=False, width=_WIDTH)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("found, and what to do", overflow="fold")
    for finding in findings:
        text = Text(f"{finding.subject}: " if finding.subject else "", style="dim")
        text.append(_shown(finding.text), style="not dim")
        if finding.remedy:
            text.append(f"\n→ {finding.remedy}", style="not dim bold")
        table.add_row(_MARKS[finding.level], finding.check, text)
    console.print(table)
    counted = [sum(finding.level is level for finding in findings) for level in Level]
    console.print(Text(f"ok: {counted[0]}, warnings: {counted[1]}, failures: {counted[2]}"))


def as_json(findings: Sequence[Finding]) -> str:
    """Return findings as JSON: see docs/operations.md."""
    report = {"is_well": is_well(findings), "findings": [asdict(f) for f in findings]}
    return json.dumps(report, indent=2)


async def _examined(config: Config) -> Sequence[Finding]:
    parts = await asyncio.gather(
        asyncio.to_thread(_all, check_configuration, config),
        asyncio.to_thread(_all, check_machine, config),
        asyncio.to_thread(_all, check_listeners, config),
        asyncio.to_thread(_all, check_tls, config),
        _gathered(check_downstream(config)),
        _gathered(check_store(config)),
        asyncio.to_thread(_all, check_times, config),
    )
    # Nobody waits for the answer to QUIT; but if we were gone at once, the server would log cut
    # connections.
    await asyncio.sleep(_FAREWELL_S)
    return [finding for part in parts for finding in part]


def _all(check: Callable[[Config], Iterator[Finding]], config: Config) -> list[Finding]:
    return list(check(config))


async def _gathered(findings: AsyncIterator[Finding]) -> list[Finding]:
    return [finding async for finding in findings]


def _shown(text: str) -> str:
    """Write what is no printable character as an escape: a server may have said it."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
