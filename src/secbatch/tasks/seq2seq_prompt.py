"""What a sequence-to-sequence model reads: a row's text with the job's prompt around it, as token ids.

The prompt's own words are the job's, so a special token in them (`<extra_id_0>`) is meant; in what comes from a
row it is ordinary characters.
"""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from secbatch.errors import JobError
from secbatch.models.tokenizer import TextTokenizer
from secbatch.models.windows import CHARACTERS_PER_TOKEN
from secbatch.tasks.text import TextSource

PLACE = "text"  # what stands in braces where the text goes


@dataclass(frozen=True)
class Framed:
    """A text and what the prompt puts around it."""

    before: str
    text: str
    after: str

    @property
    def whole(self) -> str:
        return self.before + self.text + self.after


@dataclass(frozen=True)
class Read:
    """What the model reads of a row, or why it reads nothing."""

    tokens: list[int]
    truncated: bool
    error: str | None = None


class Prompt:
    """A template with one `{text}`, and columns in braces besides."""

    def __init__(self, prompt: str, schema: pa.Schema, key: str) -> None:
        """Raises JobError for a template that is none and for a column that the input lacks."""
        template = TextSource.template(prompt, schema, key, placeholder=PLACE)
        places = [number for number, part in enumerate(template.parts) if part == (PLACE,)]
        if len(places) != 1:
            raise JobError(f"{key}: {{text}}, the place of the text, must stand in it once, not {len(places)} times")
        self._sides = TextSource(template.parts[: places[0]]), TextSource(template.parts[places[0] + 1 :])
        self.columns = tuple(dict.fromkeys(column for side in self._sides for column in side.columns))

    def frames(self, texts: list[str | None], table: pa.Table, tokenizer: TextTokenizer) -> list[Framed | None]:
        """Each of `texts` (one a row of `table`, None: nothing to do) in its frame; None where a column is null."""
        before, after = (_trusted(side, tokenizer).render(table).to_pylist() for side in self._sides)
        return [
            Framed(left, text, right) if text is not None and left is not None and right is not None else None
            for left, text, right in zip(before, texts, after, strict=True)
        ]


def _trusted(side: TextSource, tokenizer: TextTokenizer) -> TextSource:
    return TextSource(tuple(tokenizer.trusted(part) if isinstance(part, str) else part for part in side.parts))


def read(framed: list[Framed], tokenizer: TextTokenizer, model: str) -> list[Read]:
    """Token ids within the model's positions; of what does not fit, the text loses its end, the prompt nothing.

    Where nothing stands after the text, this is what transformers' tokenizers do with `truncation=True`.
    """
    limit = tokenizer.max_length
    reach = limit * CHARACTERS_PER_TOKEN  # a field of 100 MB costs no more than one of 20 KB
    short = [Framed(one.before, one.text[:reach], one.after) for one in framed]
    fits = [len(one.before) + len(one.after) <= reach for one in short]
    sequences = tokenizer.encode([one.whole if fine else "" for one, fine in zip(short, fits, strict=True)])
    done: list[Read | None] = []
    for number, (one, cut) in enumerate(zip(framed, short, strict=True)):
        tokens = sequences[number]
        if not fits[number]:
            sizes = f"{len(one.before) + len(one.after):,} characters"
            done.append(Read([], True, f"the prompt around the text has {sizes}, more than {model} can read"))
        elif len(tokens) <= limit:
            done.append(Read(tokens.tolist(), len(cut.text) < len(one.text)))
        elif not one.after and len(tokenizer.encode([one.before])[0]) <= limit:
            kept = limit - len(tokenizer.after)
            done.append(Read(np.concatenate([tokens[:kept], tokenizer.after]).tolist(), True))
        else:
            done.append(None)
    beginnings = iter(
        _beginnings([one for one, made in zip(short, done, strict=True) if made is None], tokenizer, model)
    )
    return [next(beginnings) if made is None else made for made in done]


def _beginnings(framed: list[Framed], tokenizer: TextTokenizer, model: str) -> list[Read]:
    """As much of each text's beginning as fits into its frame, found by bisection, of all of them at a time."""
    limit = tokenizer.max_length
    fits, too_many = [0] * len(framed), [len(one.text) for one in framed]  # characters
    found = tokenizer.encode([replace(one, text="").whole for one in framed])
    fitting = [found[number] for number in range(len(framed))]
    possible = [number for number, tokens in enumerate(fitting) if len(tokens) <= limit]
    while open_ := [number for number in possible if too_many[number] - fits[number] > 1]:
        middles = [(fits[number] + too_many[number]) // 2 for number in open_]
        tried = [
            replace(framed[number], text=framed[number].text[:middle])
            for number, middle in zip(open_, middles, strict=True)
        ]
        found = tokenizer.encode([one.whole for one in tried])
        for place, (number, middle) in enumerate(zip(open_, middles, strict=True)):
            if len(found[place]) <= limit:
                fits[number], fitting[number] = middle, found[place]
            else:
                too_many[number] = middle
    alone = f"of the {limit} tokens that {model} can read"
    return [
        Read(tokens.tolist(), True)
        if len(tokens) <= limit
        else Read([], True, f"the prompt alone takes {len(tokens)} {alone}")
        for tokens in fitting
    ]
