"""Windows over long contexts: within the model's positions, overlapping, nothing left out."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_models import SENTENCES, make_fine_tuned, resolved, with_token_types

from secbatch.models import overlapping
from secbatch.models.configuration import load_config
from secbatch.models.pairs import PairFrame
from secbatch.models.question_windows import question_windows
from secbatch.models.tokenizer import TextTokenizer
from secbatch.models.tokenizer_files import load_tokenizer

LONG = " ".join(SENTENCES * 4)


@pytest.fixture(scope="module", params=["bert", "roberta"])
def parts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[TextTokenizer, PairFrame]:
    folder = make_fine_tuned(tmp_path_factory.mktemp("qa"), request.param, "QuestionAnswering")
    model = resolved(with_token_types(folder) if request.param == "bert" else folder)
    tokenizer = load_tokenizer(model)
    return tokenizer, PairFrame.of(tokenizer, load_config(model), "question-answering")


@pytest.mark.parametrize("overlap", [0, 7, 1000])
def test_every_token_and_every_short_span_is_in_a_window(parts: tuple[TextTokenizer, PairFrame], overlap: int) -> None:
    tokenizer, frame = parts
    pairs = [("What is DDoS?", LONG), ("Phishing", "a host"), ("What is DDoS?", LONG[50:]), ("Why?", LONG)]
    made = question_windows(pairs, frame, tokenizer, overlap)
    limit = tokenizer.max_length
    assert made.sequences.lengths.max() == limit and made.counts.tolist()[1] == 1
    owners = np.repeat(np.arange(len(pairs)), made.counts)
    for pair, (question, context) in enumerate(pairs):
        wanted = tokenizer.located([context])
        asked = tokenizer.encode([question], special_tokens=False)[0]
        mine = np.flatnonzero(owners == pair)
        first = made.first[mine] - made.first[mine].min()
        stop = first + made.sizes[mine]
        assert first[0] == 0 and stop[-1] == len(wanted.starts)
        room = limit - frame.special_tokens - len(asked)
        assert (stop[:-1] - first[1:] >= min(overlap, room // 2)).all()  # so much do neighbours share
        for number, start, end in zip(mine.tolist(), first.tolist(), stop.tolist(), strict=True):
            ids = made.sequences[number]
            assert ids.tolist() == frame.ids(asked, wanted.sequences.ids[start:end]).tolist()
            at = slice(made.body[number], made.body[number] + made.sizes[number])
            assert np.array_equal(made.sequences.ids[at], wanted.sequences.ids[start:end])
            tokens = slice(made.first[number], made.first[number] + made.sizes[number])
            assert np.array_equal(made.starts[tokens], wanted.starts[start:end])
            assert made.sequences.ids[made.null[number]] == tokenizer.hf.cls_token_id
            if frame.types is not None:
                assert made.sequences.types_of(number).tolist() == frame.types_of(len(asked), end - start).tolist()


def test_a_question_takes_half_of_the_positions_at_most(parts: tuple[TextTokenizer, PairFrame]) -> None:
    tokenizer, frame = parts
    made = question_windows([(LONG, LONG), ("x" * 1_000_000, "a host")], frame, tokenizer, 5)
    assert made.sequences.lengths.max() <= tokenizer.max_length
    room = tokenizer.max_length - frame.special_tokens
    assert made.sizes[0] == room - room // 2  # and no less, where it is so long
    assert made.sizes[-1] == len(tokenizer.located(["a host"]).starts)


def test_windows_share_half_of_their_tokens_at_most(parts: tuple[TextTokenizer, PairFrame]) -> None:
    """Whatever a job says: a step of one token makes a forward of each."""
    tokenizer, frame = parts
    made = question_windows([("Why?", LONG)], frame, tokenizer, 1000)
    assert np.diff(made.first)[:-1].min() == made.sizes[0] - made.sizes[0] // 2


def test_the_place_of_no_answer_may_be_counted_from_the_end(parts: tuple[TextTokenizer, PairFrame]) -> None:
    tokenizer, frame = parts
    made = question_windows([("Why?", LONG), ("Who?", "a host")], replace(frame, null=-1), tokenizer, 7)
    assert made.null.tolist() == (made.sequences.offsets[1:] - 1).tolist()


def test_places_in_a_very_long_context_are_its_own(
    parts: tuple[TextTokenizer, PairFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, frame = parts
    monkeypatch.setattr(overlapping, "PIECE", 100)
    made = question_windows([("Why?", LONG), ("How?", " "), ("Who?", LONG)], frame, tokenizer, 10)
    assert made.counts.tolist()[1] == 1 and made.sizes[made.counts[0]] in (0, 1)
    words = [LONG[start:end] for start, end in zip(made.starts, made.ends, strict=True)]
    assert made.ends.max() == len(LONG) and "".join("".join(words).split()) == "".join(LONG.split())
    owners = np.repeat(np.arange(3), made.counts)
    for pair in (0, 2):  # each token of each piece is seen with each question
        windows = zip(made.first[owners == pair].tolist(), made.sizes[owners == pair].tolist(), strict=True)
        seen = {token for first, size in windows for token in range(first, first + size)}
        assert "".join("".join(words[token] for token in sorted(seen)).split()) == "".join(LONG.split())
