"""Files as a system of alerts exports them: a sentence amid many other columns."""

import json
import random
from pathlib import Path

import pyarrow.csv as pc
import pyarrow.parquet as pq
from sentences import write_csv

FORMATS = ("csv", "parquet", "jsonl")


def write_export(path: Path, sentences: list[str], columns: int) -> None:
    """With so many columns beside those of `write_csv`; in the format of the path's suffix.

    In turn an address, a severity, a port, a time of UTC, a host, a flag that is hardly ever set, a digest, a score;
    in Parquet with the types that pyarrow infers, in JSON lines as texts.
    """
    draw = random.Random(0)
    texts = path.with_suffix(".csv")
    write_csv(
        texts, sentences, {f"column_{place}": [_value(place, draw) for _ in sentences] for place in range(columns)}
    )
    if path == texts:
        return
    table = pc.read_csv(texts, pc.ReadOptions(block_size=1 << 26))
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with path.open("w", encoding="utf-8") as target:
            target.writelines(f"{json.dumps(row, default=str)}\n" for row in table.to_pylist())
    texts.unlink()


def _value(place: int, draw: random.Random) -> str:
    match place % 8:
        case 0:
            return f"10.{draw.randrange(256)}.{draw.randrange(256)}.{draw.randrange(256)}"
        case 1:
            return draw.choice(("low", "medium", "high", "critical"))
        case 2:
            return str(draw.randrange(1, 65536))
        case 3:
            return f"2025-{draw.randrange(1, 13):02}-{draw.randrange(1, 29):02}T{draw.randrange(24):02}:00:00Z"
        case 4:
            return f"host-{draw.randrange(5000)}.corp.example"
        case 5:
            return "true" if draw.random() < 0.1 else ""
        case 6:
            return f"{draw.getrandbits(128):032x}"
        case _:
            return f"{draw.random() * 100:.2f}"
