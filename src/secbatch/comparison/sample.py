"""Some rows of an input, drawn from all of it in one pass."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from secbatch.errors import InputError, counted
from secbatch.job import Input
from secbatch.sources.open import open_source
from secbatch.tasks.text import TextSource, question_source

SHARD_ROWS = 65_536


@dataclass(frozen=True)
class Sample:
    """n rows in the order of the input."""

    texts: list[str]
    places: list[str]  # "reports.csv row 7"
    rows: int  # of the input, those with a text
    notices: tuple[str, ...]
    questions: list[str] | None = None  # [n] on the texts, where they are contexts


def sample_texts(
    path: str, text: str, rows: int, seed: int, containing: str | None = None, question: str | None = None
) -> Sample:
    """Draws at most `rows` rows with a text, each as likely as any other; `text` is a column or a template.

    `containing`: only texts with that in them. `question`: a column, a template, or one question for all rows; rows
    without one are left out. Raises InputError and JobError as jobs do, and where no row has a text.
    """
    source = open_source(Input(path=path), lambda _: SHARD_ROWS)
    column = TextSource.of(text, source.schema, "--text")
    asked = None if question is None else question_source(question, source.schema, "--question")
    generator = np.random.default_rng(seed)
    keys = np.zeros(0)  # a row stays when its random key is among the smallest
    kept: list[tuple[int, str, str, str]] = []  # number, text, question, place
    seen = unreadable = 0
    for shard in source.shards():
        unreadable += len(shard.rejects)
        texts = column.render(shard.table).to_pylist()
        questions = [""] * len(texts) if asked is None else asked.render(shard.table).to_pylist()
        places = zip(shard.source.to_pylist(), shard.row.to_pylist(), strict=True)
        fresh = [
            (body, about, f"{file} row {row}")
            for number, (body, about, (file, row)) in enumerate(zip(texts, questions, places, strict=True))
            if body and body.strip() and number not in shard.errors and (containing is None or containing in body)
            if asked is None or (about and about.strip())
        ]
        keys = np.concatenate([keys, generator.random(len(fresh))])
        kept += [(seen + number, *row) for number, row in enumerate(fresh)]
        seen += len(fresh)
        if len(keys) > rows:
            smallest = np.sort(np.argpartition(keys, rows)[:rows])
            keys, kept = keys[smallest], [kept[place] for place in smallest.tolist()]
    if not kept:
        what = "text" if containing is None else f"text with {containing}"
        what += "" if question is None else " and a question"
        raise InputError(f"no row of {path} has a {what} ({text}), so there is nothing to compare")
    notices = [*source.notices]
    if unreadable:
        notices.append(f"{counted(unreadable, 'line')} of {path} that cannot be read left out")
    kept.sort()
    abouts = None if asked is None else [about for _, _, about, _ in kept]
    return Sample([body for _, body, _, _ in kept], [place for *_, place in kept], seen, tuple(notices), abouts)


def as_table(sample: Sample) -> pa.Table:
    columns = {"text": sample.texts} | ({} if sample.questions is None else {"question": sample.questions})
    return pa.table({name: pa.array(values, pa.large_string()) for name, values in columns.items()})
