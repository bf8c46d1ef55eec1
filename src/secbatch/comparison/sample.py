"""Some rows of an input, drawn from all of it in one pass."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from secbatch.errors import InputError
from secbatch.job import Input
from secbatch.sources.open import open_source
from secbatch.tasks.text import TextSource

SHARD_ROWS = 65_536


@dataclass(frozen=True)
class Sample:
    """n rows in the order of the input."""

    texts: list[str]
    places: list[str]  # "reports.csv row 7"
    rows: int  # of the input, those with a text
    notices: tuple[str, ...]


def sample_texts(path: str, text: str, rows: int, seed: int, containing: str | None = None) -> Sample:
    """Draws at most `rows` rows with a text, each as likely as any other; `text` is a column or a template.

    `containing`: only texts with that in them. Raises InputError and JobError as jobs do, and where no row has a text.
    """
    source = open_source(Input(path=path), lambda _: SHARD_ROWS)
    column = TextSource.of(text, source.schema, "--text")
    generator = np.random.default_rng(seed)
    keys = np.zeros(0)  # a row stays when its random key is among the smallest
    kept: list[tuple[int, str, str]] = []
    seen = unreadable = 0
    for shard in source.shards():
        unreadable += len(shard.rejects)
        texts = column.render(shard.table).to_pylist()
        places = zip(shard.source.to_pylist(), shard.row.to_pylist(), strict=True)
        fresh = [
            (body, f"{file} row {row}")
            for number, (body, (file, row)) in enumerate(zip(texts, places, strict=True))
            if body and body.strip() and number not in shard.errors and (containing is None or containing in body)
        ]
        keys = np.concatenate([keys, generator.random(len(fresh))])
        kept += [(seen + number, body, place) for number, (body, place) in enumerate(fresh)]
        seen += len(fresh)
        if len(keys) > rows:
            smallest = np.sort(np.argpartition(keys, rows)[:rows])
            keys, kept = keys[smallest], [kept[place] for place in smallest.tolist()]
    if not kept:
        what = "text" if containing is None else f"text with {containing}"
        raise InputError(f"no row of {path} has a {what} ({text}), so there is nothing to compare")
    notices = [*source.notices]
    if unreadable:
        notices.append(f"{unreadable} lines of {path} cannot be read and are left out")
    kept.sort()
    return Sample([body for _, body, _ in kept], [place for _, _, place in kept], seen, tuple(notices))


def as_table(sample: Sample) -> pa.Table:
    return pa.table({"text": pa.array(sample.texts, pa.large_string())})
