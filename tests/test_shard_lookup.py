"""Looking up shards, from the thread that reads ahead and from the one that tries rows."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace as Some
from typing import Any

from secbatch.shard_lookup import ShardLookup


def test_shards_are_looked_up_one_at_a_time(tmp_path: Path) -> None:
    """What is open of the parts' keys is shared: a look from another thread might let go of it."""
    busy, looks = threading.Lock(), []

    def look(identified: Any) -> Any:
        assert busy.acquire(blocking=False), "another thread is at it"
        time.sleep(0.002)
        busy.release()
        looks.append(identified)
        return Some(keys=None, kept=None, identified=identified)

    nothing = dict.fromkeys(("options", "setup", "sizes", "rejects", "result", "clock", "notice"))
    context: Any = Some(
        run="r",
        job=Some(input=Some(id=["id"], sentences=None), holds_conversations=False),
        layout=Some(scratch=tmp_path),
        ledger=Some(checkpoint=lambda run, shard: None, last_checkpoint=lambda run: -1),
        **nothing,
    )
    reuse: Any = Some(look=look, key=lambda looked: "k", work=lambda looked: None)
    poison: Any = Some(errors=lambda keys: {})
    lookup = ShardLookup(context, reuse, poison)
    shards: list[Any] = [Some(shard=Some(index=number)) for number in range(20)]
    with ThreadPoolExecutor(2) as pool:
        items = list(pool.map(lookup.looked_up, shards))
    assert [item.shard for item in items] == list(range(20)) and len(looks) == 20
