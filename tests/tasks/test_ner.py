"""Spans against the stock `token-classification` pipeline, and what it does not do."""

import warnings
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from nasty_texts import NASTY
from tiny_models import (
    SENTENCES,
    bert_tokenizer,
    byte_bpe,
    make_fine_tuned,
    modernbert_tokenizer,
    resolved,
    unigram_tokenizer,
)
from torch_threads import one_thread  # noqa: F401
from transformers import AutoModelForTokenClassification, pipeline

from secbatch.errors import ModelError
from secbatch.models.device import choose
from secbatch.models.overlapping import windowed
from secbatch.models.resolved import ResolvedModel
from secbatch.models.shared_encoder import SharedEncoder
from secbatch.models.tokenizer import TextTokenizer
from secbatch.models.tokenizer_files import load_tokenizer
from secbatch.task_specs import Ner
from secbatch.tasks.base import TaskColumns
from secbatch.tasks.label_scheme import LabelScheme
from secbatch.tasks.ner import NerTask
from secbatch.tasks.ner_columns import packed_spans, with_known_spans
from secbatch.tasks.ner_spans import Spans, starts_of_words

CPU = choose("cpu", "float32")
Made = Callable[..., ResolvedModel]
BIO = ["O", "B-MAL", "I-MAL", "B-SYS", "I-SYS"]


@pytest.fixture(scope="session")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """`tagger("bert", labels)`: a random model with sharpened logits, each made once."""
    made: dict[Any, ResolvedModel] = {}

    def make(kind: str, labels: list[str] = BIO, words: Any = None, **changes: Any) -> ResolvedModel:
        key = (kind, tuple(labels), words is None, *changes.items())
        if key not in made:
            names = dict(enumerate(labels))
            folder = make_fine_tuned(
                tmp_path_factory.mktemp(kind), kind, "TokenClassification", words=words, id2label=names, **changes
            )
            made[key] = resolved(folder, kind)
        return made[key]

    return make


def make_task(model: ResolvedModel, encoder: SharedEncoder | None = None, **options: Any) -> NerTask:
    spec = Ner.model_validate({"type": "ner", "model": model.name, "text": "text", **options})
    return NerTask("ents", spec, pa.schema([("text", pa.string())]), encoder or SharedEncoder(model, CPU))


def run(task: NerTask, texts: list[str | None]) -> TaskColumns:
    task.load()
    table = pa.table({"text": pa.array(texts, pa.string())})
    ids, usable = (
        pa.array([str(row) for row in range(len(texts))], pa.string()),
        pa.array([True] * len(texts), pa.bool_()),
    )
    done = task.finish(task.compute(task.encode(table, ids, usable)))
    assert [(name, column.type) for name, column in done.columns.items()] == [(f.name, f.type) for f in task.fields]
    for column in done.columns.values():
        column.validate(full=True)
    return done


def spans_of(task: NerTask, texts: list[str | None]) -> list[Any]:
    found: list[Any] = run(task, texts).columns["ents"].to_pylist()
    for text, spans in zip(texts, found, strict=True):
        for span in spans or []:
            assert text is not None and text[span["start"] : span["end"]] == span["text"]
            assert span["text"] == span["text"].strip() != ""
        for one, other in zip(spans or [], (spans or [])[1:], strict=False):
            assert one["end"] <= other["start"]
    return found


def stock_spans(model: ResolvedModel, texts: list[str], aggregation: str) -> list[list[tuple[str, int, int, float]]]:
    """The pipeline's spans, without white space at their ends, and of those that share a character the best.

    Of two that start together and have one type the longer: the shorter is the mark of a space (XLM-R's).
    """
    own = AutoModelForTokenClassification.from_pretrained(model.folder).eval()
    pipe = pipeline("token-classification", own, tokenizer=load_tokenizer(model).hf, aggregation_strategy=aggregation)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for text in texts:
            spans: list[tuple[str, int, int, float]] = []
            for entity in pipe(text):
                covered = text[entity["start"] : entity["end"]]
                start = entity["start"] + len(covered) - len(covered.lstrip())
                one = (entity["entity_group"], start, start + len(covered.strip()), float(entity["score"]))
                if start == one[2]:
                    continue
                if spans and start < spans[-1][2]:
                    before = spans[-1]
                    by = 2 if one[:2] == before[:2] and one[2] != before[2] else 3
                    spans[-1] = max(before, one, key=itemgetter(by))
                else:
                    spans.append(one)
            found.append(spans)
    return found


@pytest.mark.parametrize("kind", ["roberta", "bert", "modernbert", "distilbert", "mpnet"])
@pytest.mark.parametrize("aggregation", ["simple", "first", "average", "max"])
def test_equals_the_stock_pipeline(tagger: Made, kind: str, aggregation: str) -> None:
    words = modernbert_tokenizer() if kind == "modernbert" else None
    model = tagger(kind, words=words, sharpen=4.0 if kind == "modernbert" else 30.0)
    texts = [*NASTY, *SENTENCES]
    wanted = stock_spans(model, texts, aggregation)
    got = spans_of(make_task(model, aggregation=aggregation), texts)
    for text, ours, theirs in zip(texts, got, wanted, strict=True):
        places = [(span["label"], span["start"], span["end"]) for span in ours]
        assert places == [span[:3] for span in theirs], text
        assert np.allclose([span["score"] for span in ours], [span[3] for span in theirs], atol=1e-5)
    assert sum(map(len, got)) > 30


def test_the_mark_of_a_space_does_not_cut_the_first_word_short(tagger: Made) -> None:
    model = tagger("roberta", ["B-MAL"], words=unigram_tokenizer(["<pad>", "</s>", "<unk>"]))
    words = load_tokenizer(model).hf
    assert words("line", return_offsets_mapping=True)["offset_mapping"][:2] == [(0, 1), (0, 1)]  # the mark, and the l
    (spans,) = spans_of(make_task(model), ["line one"])
    assert [span["text"] for span in spans or []] == ["line", "one"]
    assert stock_spans(model, ["line one"], "first")[0][0][:3] == ("MAL", 0, 4)


def test_bare_types_equal_the_stock_pipeline(tagger: Made) -> None:
    model = tagger("bert", ["O", "MAL", "SYS", "E-mail"])
    wanted = stock_spans(model, SENTENCES, "first")
    got = spans_of(make_task(model), SENTENCES)
    assert [[(s["start"], s["end"]) for s in row] for row in got] == [[s[1:3] for s in row] for row in wanted]
    assert {span["label"] for row in got for span in row} == {"MAL", "SYS", "E-mail"}


def test_masks_and_control_tokens_are_characters_of_the_text(tagger: Made) -> None:
    text = "<mask> at </s> and [SEP] <mask><mask> x <s>Emotet</s> [MASK] end"
    for kind in ("roberta", "bert"):
        located = load_tokenizer(tagger(kind)).located([text])
        covered = [text[start:end] for start, end in zip(located.starts, located.ends, strict=True)]
        assert [word.strip() for word in covered if "<mask>" in word] == ["<mask>"] * 3
        assert "".join(covered).replace(" ", "") == text.replace(" ", "")
        assert spans_of(make_task(tagger(kind)), [text])[0]


@pytest.mark.parametrize("kind", ["roberta", "bert", "distilbert"])
def test_a_long_text_is_read_in_windows_and_no_token_twice(tagger: Made, kind: str) -> None:
    model = tagger(kind)
    tokenizer = load_tokenizer(model)
    texts = [" ".join(SENTENCES * 3), "short", "word " * 500, "x" * 300, "", *SENTENCES]
    found = windowed(texts, tokenizer)
    assert found.sequences.lengths.max() <= tokenizer.max_length
    assert len(found.ids) == found.counts.sum() == sum(len(tokenizer.located([text]).starts) for text in texts)
    assert (found.sequences.ids[found.source] == found.ids).all() and len(np.unique(found.source)) == len(found.ids)
    spans = spans_of(make_task(model), [texts[0]])[0]
    assert max(span["end"] for span in spans) > 0.9 * len(texts[0])


def test_a_token_is_read_from_the_window_that_shows_most_around_it(tagger: Made) -> None:
    tokenizer = load_tokenizer(tagger("bert"))
    found = windowed([" ".join(SENTENCES * 4)], tokenizer)
    offsets, lengths = found.sequences.offsets, found.sequences.lengths
    assert len(lengths) > 4 and (lengths == tokenizer.max_length).all()
    window = np.searchsorted(offsets, found.source, side="right") - 1
    place = found.source - offsets[window]
    inner = (window > 0) & (window < len(lengths) - 1)
    # an eighth of a window's 62 tokens on each side
    assert (place[inner] > 7).all() and (place[inner] < tokenizer.max_length - 8).all()
    assert (np.diff(window) >= 0).all()


def test_megabytes_are_tokenised_in_pieces(tagger: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secbatch.models.overlapping.PIECE", 50)
    tokenizer = load_tokenizer(tagger("roberta"))
    text = "\n".join(SENTENCES) + " " + "x" * 120 + " end"
    found = windowed(["a", text, "", "b"], tokenizer)
    covered = [text[start:end] for start, end in zip(found.starts[1:-1], found.ends[1:-1], strict=True)]
    assert found.counts.tolist() == [1, len(found.ids) - 2, 0, 1]
    assert np.unique(found.owners).tolist() == [0, 1, 2, 3]
    assert "".join("".join(covered).split()) == "".join(text.split())


def test_nothing_to_do_no_spans_and_doubles(tagger: Made) -> None:
    model = tagger("bert")
    got = spans_of(make_task(model), [SENTENCES[0], None, "", " \t", SENTENCES[0], "\u200b"])
    assert [row is None for row in got] == [False, True, True, True, False, False]
    assert got[0] == got[4] and got[0] and got[5] == []
    assert run(make_task(model), []).columns["ents"].to_pylist() == []


def test_texts_that_come_again_are_not_computed_again(tagger: Made, tmp_path: Path) -> None:
    model = tagger("roberta")
    task = make_task(model, SharedEncoder(model, CPU, tmp_path))
    texts = [*NASTY, *SENTENCES, "\u3000."]
    first = spans_of(task, texts)
    again = run(task, ["something new", *texts[::-1]])
    assert again.tokens == len(task.encoder.tokenizer.encode(["something new"]).ids)
    assert again.columns["ents"].to_pylist()[1:] == first[::-1]


def test_a_threshold_leaves_spans_out(tagger: Made) -> None:
    every = spans_of(make_task(tagger("bert")), SENTENCES)
    some = spans_of(make_task(tagger("bert"), threshold=0.8), SENTENCES)
    assert some == [[span for span in row if span["score"] >= 0.8] for row in every] != every


def test_the_batch_does_not_matter(tagger: Made) -> None:
    for kind in ("bert", "distilbert"):
        task = make_task(tagger(kind))
        whole = spans_of(task, SENTENCES)
        task.encoder.token_budget = 1
        for one, other in zip(whole, spans_of(task, SENTENCES), strict=True):
            assert [(s["label"], s["start"]) for s in one] == [(s["label"], s["start"]) for s in other]
            assert np.allclose([s["score"] for s in one], [s["score"] for s in other], atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        (["O", "B-X", "I-X"], "BIO"),
        (["O", "I-X", "I-Y"], "BIO"),
        (["B_X", "I_X", "O"], "BIO"),
        (["O", "B-X", "I-X", "E-X", "S-X"], "BIOES"),
        (["O", "B-X", "M-X", "E-X", "S-X"], "BIOES"),
        (["O", "B-X", "I-X", "L-X", "U-X"], "BILOU"),
        (["O", "E-mail", "X"], "IO"),
        (["O", "B_X", "X"], "IO"),
    ],
)
def test_the_scheme_is_seen_in_the_labels(labels: list[str], name: str) -> None:
    scheme = LabelScheme.of(tuple(labels), "m")
    assert scheme.name == name
    assert scheme.remarks("m") == ()
    if name != "IO":
        assert set(scheme.types) <= {"X", "Y"}
        assert scheme.begins.tolist() == [label[0] in "BSU" for label in labels]
        assert scheme.ends.tolist() == [label[0] in "ESLU" for label in labels]


def test_labels_that_spell_nothing_are_refused_or_said() -> None:
    with pytest.raises(ModelError, match="mix the prefixes B, E, L, which belong to no one scheme"):
        LabelScheme.of(("O", "B-X", "E-X", "L-Y"), "m")
    with pytest.raises(ModelError, match="none of its labels names a type"):
        LabelScheme.of(("O",), "m")
    assert "every token of a text is part of a span" in LabelScheme.of(("NOUN", "VERB"), "m").remarks("m")[0]
    assert "have no names (LABEL_0)" in LabelScheme.of(("LABEL_0", "LABEL_1"), "m").remarks("m")[1]


def test_spans_of_one_token_and_ends_split_neighbours() -> None:
    from secbatch.models.overlapping import WindowedTexts
    from secbatch.models.sequences import TokenSequences
    from secbatch.tasks.ner_spans import grouped

    labels = ("O", "B-X", "I-X", "E-X", "S-X")
    tags = np.array([1, 2, 3, 2, 3, 4, 4, 0, 2, 1, 3])  # BIE IE S S O I BE
    place = np.arange(len(tags), dtype=np.int32)
    found = WindowedTexts(
        place, place, place + 1, np.array([5, 6]), TokenSequences.of([]), place, np.zeros(0, np.int64)
    )
    spans = grouped(tags, np.ones(len(tags), np.float32), place, found, LabelScheme.of(labels, "m"))
    pairs = list(zip(spans.starts.tolist(), spans.ends.tolist(), strict=True))
    assert pairs == [(0, 3), (3, 5), (5, 6), (6, 7), (8, 9), (9, 11)]
    assert spans.counts.tolist() == [2, 4]


def test_a_model_that_does_not_serve_is_refused_before_its_weights_are_read(
    tiny: Callable[[str], ResolvedModel], tagger: Made
) -> None:
    with pytest.raises(ModelError, match=r"no trained token-classification head \(it is a RobertaForMaskedLM\)"):
        make_task(tiny("roberta"))


def test_hostile_labels_are_data(tagger: Made) -> None:
    label = "\x1b[31mX\x00\u202e=cmd"
    model = tagger("bert", ["O", f"B-{label}", f"I-{label}"])
    got = spans_of(make_task(model), SENTENCES)
    assert {span["label"] for row in got for span in row} == {label}


def test_scores_that_are_no_numbers_are_errors_of_the_rows(tagger: Made, tmp_path: Path) -> None:
    model = tagger("bert")
    task = make_task(model, SharedEncoder(model, CPU, tmp_path))
    task.load()
    with torch.inference_mode():
        task.encoder.token_head("token-classification")._model.classifier._linear._bias[0] = float("nan")
    for _ in range(2):  # nor is a text that failed one whose spans are known
        done = run(task, ["a host", None, " ".join(SENTENCES)])
        assert sorted(done.errors) == [0, 2] and "no numbers" in done.errors[0]
        assert done.columns["ents"].to_pylist() == [None, None, None]


def test_the_fingerprint_follows_what_decides_results(tagger: Made) -> None:
    options: list[dict[str, Any]] = [{}, {"aggregation": "max"}, {"threshold": 0.5}]
    assert len({make_task(tagger("bert"), **some).fingerprint() for some in options}) == 3


def test_a_tokenizer_without_an_unknown_token(tagger: Made) -> None:
    from transformers import PreTrainedTokenizerFast

    words = PreTrainedTokenizerFast(tokenizer_object=byte_bpe(["<pad>"]), pad_token="<pad>")
    got = spans_of(make_task(tagger("distilbert", words=words)), NASTY)
    assert sum(map(len, got)) > 10


def test_a_text_begins_a_word_whatever_its_first_token_is() -> None:
    """One that is longer as it is written than what it stands for (an accent is stripped) looks like ##ing."""
    tokenizer = TextTokenizer(bert_tokenizer(), 64)
    texts = ["the server", "host the code"]
    found = windowed(texts, tokenizer)
    lengths = tokenizer.written_lengths().copy()
    lengths[found.ids[found.counts[0]]] += 1
    starts = starts_of_words(found, texts, lengths, tokenizer.hf.unk_token_id)
    assert starts[found.counts[0]]


def test_spans_are_remembered_of_the_texts_that_were_done_alone() -> None:
    counts, numbers = np.array([1, 2, 1]), np.arange(4, dtype=np.int32)
    found = Spans(counts, numbers, numbers + 10, numbers + 20, numbers.astype(np.float32) / 4)
    values, lengths = packed_spans(found, np.array([True, False, True]))
    assert lengths.tolist() == [16, 16]
    ends = np.cumsum(lengths)
    known = [values[end - length : end].tobytes() for end, length in zip(ends, lengths, strict=True)]
    nothing = np.zeros(0, np.int32)
    again = with_known_spans(Spans(np.zeros(0, np.int64), nothing, nothing, nothing, nothing.astype(np.float32)), known)
    assert again.counts.tolist() == [1, 1] and again.types.tolist() == [0, 3]
    assert (again.starts.tolist(), again.ends.tolist()) == ([10, 13], [20, 23])
    assert again.scores.tolist() == [0.0, 0.75]
