"""A worker of its own process that claims from an SQLite file; to be started and killed.

Arguments: path of the file, seconds that claims outlive it, how it goes on after it has claimed,
and the keys in hexadecimal (twelve octets of message, eight of recipient). It prints the sightings
as one line of JSON. Then it ``stays`` until it is killed, or ``confirms`` over and over.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from gateway.core.unique_id import UniqueId
from gateway.edge.tracking_sqlite import SqliteTrackingList
from tests.support.tracking import LEASE_S, record_of, some_id, some_token


async def _work(path: Path, beat_ttl_s: float, then: str, keys: Sequence[bytes]) -> None:
    tracking_list = SqliteTrackingList(path, 30.0, beat_ttl_s=beat_ttl_s)
    found = []
    for key in keys:
        claim = [UniqueId(key[:12], key[12:])]
        (sighting,) = await tracking_list.claim(claim, some_token(), LEASE_S)
        found.append(sighting.sight)
    print(json.dumps(found), flush=True)
    while then == "confirms":
        await asyncio.gather(*(tracking_list.confirm([record_of(some_id())]) for _ in range(20)))
    await asyncio.Event().wait()


if __name__ == "__main__":
    _, file, ttl, after, *rest = sys.argv
    asyncio.run(_work(Path(file), float(ttl), after, [bytes.fromhex(key) for key in rest]))
