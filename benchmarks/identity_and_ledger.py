"""What knowing every row costs: processor time a row, bytes on disk a row, peak memory, at 1 and 10 million rows.

    python benchmarks/identity_and_ledger.py 1000000 10000000

Rows of an id, a sentence of about 100 characters and a number go through identity, task keys, lookup, the set of
present rows, checkpoint keys and the final merge of keys: all of the store but reading, models and the columns
themselves. A first run finds nothing done; a second one over the same rows finds all of it; a third has rows that are
all new, a tenth as many, which are looked for in every part.
"""

import argparse
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from secbatch.identity import Identified, Identities
from secbatch.pacing import LARGEST
from secbatch.sources.shard import Shard
from secbatch.store.merge import PART_ROWS
from secbatch.store.pieces import Piece, PieceKeys
from secbatch.store.pool import Pool, Stored
from secbatch.store.present import Present
from secbatch.store.row_keys import RowKeys, StoredKeys, write_keys
from secbatch.task_keys import task_keys

SHARD_ROWS = LARGEST
FINGERPRINTS = {"mask": "a" * 64, "vec": "b" * 64}


class Reads:
    reads = ("text",)


def shards(rows: int, first: int = 0) -> Iterator[Shard]:
    text = " the attackers used spearphishing with a <mask> attachment to gain a foothold in the network of the bank"
    for index, start in enumerate(range(0, rows, SHARD_ROWS)):
        n = min(SHARD_ROWS, rows - start)
        numbers = pa.array(np.arange(first + start, first + start + n))
        names = numbers.cast(pa.string())
        texts = pa.compute.binary_join_element_wise(names, pa.scalar(text), pa.scalar(""))
        source = pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array(["reports.csv"]))
        yield Shard(index, pa.table({"id": names, "text": texts, "score": numbers}), source, numbers)


def keyed(identified: Identified) -> RowKeys:
    tasks: Any = {name: Reads() for name in FINGERPRINTS}
    done = task_keys(tasks, FINGERPRINTS, identified.shard.table, identified.keys, [])
    flags = np.zeros(len(identified.keys), np.uint8)
    return RowKeys(identified.keys, identified.content, identified.place, flags, done)


def run(
    rows: int, ids: tuple[str, ...], folder: Path, parts: list[Stored], first: int = 0
) -> tuple[float, list[Stored]]:
    """Processor seconds without the making of the rows, and the parts that the run leaves."""
    shutil.rmtree(folder / "scratch", ignore_errors=True)  # as a run does
    identities = Identities(ids, False, folder / "scratch")
    present = Present(folder / "scratch")
    scratch = folder / "scratch"
    pool = Pool(parts, lambda stored: StoredKeys(stored.keys).checked(), lambda *_: True, "schema", {}, scratch)
    made: list[Stored] = []
    waiting: list[Piece] = []
    seconds = 0.0
    for shard in shards(rows, first):
        begin = time.process_time()
        keys = keyed(identities.name(shard))
        match = pool.match(keys, FINGERPRINTS)
        new = keys.take(~match.kept)
        if len(new):
            path = folder / "checkpoints" / f"{shard.index}.keys"
            write_keys(path, new, {"schema": "schema"}, "checkpoint keys")
            waiting.append(Piece(path.stem, path, StoredKeys(path), {}, "", 0, len(new), 0))
        present.add(shard.index, new.ids, keys.ids[match.kept])
        if len(PieceKeys(waiting)) > PART_ROWS - SHARD_ROWS or (waiting and (shard.index + 1) * SHARD_ROWS >= rows):
            path = folder / "keys" / f"{len(parts) + len(made)}.keys"
            write_keys(path, PieceKeys(waiting), {"schema": "schema"}, "part keys")
            tasks = {name: [fingerprint] for name, fingerprint in FINGERPRINTS.items()}
            made.append(Stored(path.stem, path, path, tasks, len(PieceKeys(waiting)), True))
            waiting = []
        seconds += time.process_time() - begin
    begin = time.process_time()
    winners = present.winners()
    assert len(winners.ids) == rows and not len(winners.lost)
    for stored in parts:
        assert ((winners.find(np.asarray(StoredKeys(stored.keys).ids)) >= 0) == (first == 0)).all()
    return seconds + time.process_time() - begin, made


def anonymous() -> float:
    """MiB of this process's memory that is not a file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=int, nargs="*", default=[1_000_000])
    options = parser.parse_args()
    print("        rows  identity     run  µs/row  keys bytes/row  anonymous MiB  peak MiB")
    for rows in options.rows:
        for ids in (("id",), ()):
            folder = Path(tempfile.mkdtemp(prefix="secbatch-bench-"))
            parts: list[Stored] = []
            for name in ("first", "second", "new"):
                count, start = (rows // 10, rows) if name == "new" else (rows, 0)
                seconds, made = run(count, ids, folder, parts, start)
                parts = parts or made
                size = sum(path.stat().st_size for path in (folder / "keys").iterdir()) / rows
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                kind = "column" if ids else "content"
                each = seconds / count * 1e6
                memory = f"{anonymous():14.0f} {peak:9.0f}"
                print(f"{rows:12,} {kind:>9} {name:>7} {each:7.2f} {size:15.1f} {memory}", flush=True)
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
