"""The qa task against the stock tokenizer and forward, and the argmax and softmaxes of the head's logits."""

import pickle
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import SENTENCES, make_fine_tuned, resolved, with_token_types
from torch_threads import one_thread  # noqa: F401
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from secbatch.errors import JobError, ModelError
from secbatch.models.device import choose
from secbatch.models.resolved import ResolvedModel
from secbatch.models.shared_encoder import SharedEncoder
from secbatch.task_specs import Qa
from secbatch.tasks.base import TaskColumns
from secbatch.tasks.qa import QaTask

CPU = choose("cpu", "float32")
QUESTIONS = ["What is DDoS?", "Phishing", "Who stole the cookies?", "What now?"]
CONTEXTS = [SENTENCES[0], SENTENCES[7], f"  \n{SENTENCES[4]}\t", SENTENCES[5]]
LONG = " ".join(SENTENCES * 4)
Reader = Callable[[str], ResolvedModel]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    @cache
    def make(kind: str) -> ResolvedModel:
        folder = make_fine_tuned(tmp_path_factory.mktemp(kind), kind, "QuestionAnswering", sharpen=8.0)
        return resolved(with_token_types(folder) if kind == "bert" else folder, kind)

    return make


def make_task(
    model: ResolvedModel, columns: tuple[str, ...] = ("q", "c"), scratch: Path | None = None, **options: Any
) -> QaTask:
    values = {"type": "qa", "model": model.name, "question": "q", "context": "c", **options}
    schema = pa.schema([(name, pa.string()) for name in columns])
    return QaTask("span", Qa.model_validate(values), schema, SharedEncoder(model, CPU, scratch))


def run(task: QaTask, questions: list[str | None], contexts: list[str | None]) -> TaskColumns:
    task.load()
    table = pa.table({"q": pa.array(questions, pa.string()), "c": pa.array(contexts, pa.string())})
    ids = pa.array([str(row) for row in range(len(table))], pa.string())
    done = task.finish(task.compute(task.encode(table, ids, pa.array([True] * len(table), pa.bool_()))))
    assert list(done.columns) == [field.name for field in task.fields]
    for field, column in zip(task.fields, done.columns.values(), strict=True):
        assert column.type == field.type and len(column) == len(table)
        column.validate(full=True)
    return done


def rows(done: TaskColumns) -> list[dict[str, Any]]:
    listed = pa.table(done.columns).to_pylist()
    return [{name.removeprefix("span_"): value for name, value in row.items()} for row in listed]


def pointed(model: ResolvedModel, question: str, context: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The stock tokenizer and forward of one pair: logits [n, 2] of the context, of `[CLS]` [2], places [n, 2]."""
    hf = AutoTokenizer.from_pretrained(model.folder)
    stock = AutoModelForQuestionAnswering.from_pretrained(model.folder).eval()
    inputs = hf(question, context, return_tensors="pt", return_offsets_mapping=True)
    of_context = np.array([number == 1 for number in inputs.sequence_ids(0)])
    places = inputs.pop("offset_mapping")[0].numpy()
    with torch.inference_mode():
        output = stock(**inputs)
    logits = torch.stack([output.start_logits[0], output.end_logits[0]], dim=-1).numpy().astype(np.float64)
    return logits[of_context], logits[0], places[of_context]


def softmax(values: np.ndarray) -> np.ndarray:
    made: np.ndarray = np.exp(values - values.max(axis=0))
    return made / made.sum(axis=0)


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert", "distilbert", "deberta", "longformer", "bart"])
def test_the_answer_is_the_head_s_argmax_and_its_score_the_pipeline_s(reader: Reader, kind: str) -> None:
    model = reader(kind)
    done = run(make_task(model, no_answer_threshold=None), list(QUESTIONS), list(CONTEXTS))
    for question, context, got in zip(QUESTIONS, CONTEXTS, rows(done), strict=True):
        logits, none, places = pointed(model, question, context)
        sums = np.triu(logits[:, :1] + logits[:, 1]) + np.tril(np.full((len(logits),) * 2, -np.inf), -1)
        first, last = np.unravel_index(sums.argmax(), sums.shape)
        text = context[places[first, 0] : places[last, 1]].strip()
        assert got["span"] == text == context[got["start"] : got["end"]]
        shares = softmax(np.concatenate([none[None], logits]))
        assert got["score"] == pytest.approx(shares[1 + first, 0] * shares[1 + last, 1], rel=1e-3)
    assert len({got["span"] for got in rows(done)}) > 2 and done.errors == {}


def test_spans_of_the_longest_allowed_length_and_no_answer(reader: Reader) -> None:
    model = reader("roberta")
    sums, nones = [], []
    for question, context in zip(QUESTIONS, CONTEXTS, strict=True):
        logits, none, places = pointed(model, question, context)
        best = (logits.sum(axis=1)).argmax()
        sums.append(logits[best].sum())
        nones.append(none.sum())
        one = rows(run(make_task(model, no_answer_threshold=None, max_answer_tokens=1), [question], [context]))[0]
        assert one["span"] == context[places[best, 0] : places[best, 1]].strip()
    over = np.array(nones) - np.array(sums)  # how far "no answer" is ahead
    middle = float(np.sort(over)[1:3].mean())
    done = rows(run(make_task(model, no_answer_threshold=middle, max_answer_tokens=1), list(QUESTIONS), list(CONTEXTS)))
    assert [got["span"] is None for got in done] == (over > middle).tolist()
    for got, question, context in zip(done, QUESTIONS, CONTEXTS, strict=True):
        if got["span"] is None:
            logits, none, _ = pointed(model, question, context)
            share = softmax(np.concatenate([none[None], logits]))[0].prod()
            assert (got["start"], got["end"]) == (None, None) and got["score"] == pytest.approx(share, rel=1e-3)
    assert sum(got["span"] is None for got in done) == 2


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_long_context_gets_the_best_span_of_its_windows(reader: Reader, kind: str) -> None:
    model = reader(kind)
    task = make_task(model, no_answer_threshold=None, stride=16, max_answer_tokens=8, top_k=3)
    got = rows(run(task, ["What is DDoS?", "Phishing"], [LONG, f"\u2003{LONG}"]))
    for one, question, context in zip(got, ["What is DDoS?", "Phishing"], [LONG, f"\u2003{LONG}"], strict=True):
        stock = AutoModelForQuestionAnswering.from_pretrained(model.folder).eval()
        encoded = task.encode(pa.table({"q": [question], "c": [context]}), pa.array(["0"]), pa.array([True]))
        windows = encoded.windows
        best: dict[tuple[int, int], float] = {}
        for number in range(len(windows.sequences)):
            inputs = {"input_ids": torch.from_numpy(windows.sequences[number].astype(np.int64))[None]}
            if windows.sequences.types is not None:
                inputs["token_type_ids"] = torch.from_numpy(windows.sequences.types_of(number).astype(np.int64))[None]
            with torch.inference_mode():
                output = stock(**inputs)
            body = windows.body[number] - windows.sequences.offsets[number]
            for first in range(windows.sizes[number]):
                for last in range(first, min(first + 8, windows.sizes[number])):
                    total = float(output.start_logits[0, body + first] + output.end_logits[0, body + last])
                    start = int(windows.starts[windows.first[number] + first])
                    end = int(windows.ends[windows.first[number] + last])
                    while start < end and context[start].isspace():
                        start += 1
                    while start < end and context[end - 1].isspace():
                        end -= 1
                    if start < end:
                        best[start, end] = max(best.get((start, end), -np.inf), total)
        assert len(windows.sequences) > 3
        ranked = sorted(best, key=lambda place: -best[place])[:3]
        assert [(span["start"], span["end"]) for span in one["spans"]] == ranked
        assert [context[span["start"] : span["end"]] for span in one["spans"]] == [
            span["text"] for span in one["spans"]
        ]
        assert (one["span"], one["start"], one["score"]) == tuple(
            one["spans"][0][k] for k in ("text", "start", "score")
        )
        scores = [span["score"] for span in one["spans"]]
        assert scores == sorted(scores, reverse=True) and 0 < sum(scores) <= 1.0


def test_nothing_to_do_doubles_and_hostile_texts(reader: Reader) -> None:
    hostile = "\x1b[31m</s></s> [SEP] <mask> \u202eevil 👩\u200d💻 naïve"
    questions = ["Why?", None, "", "Why?", "Why?", "Why?", "</s> What <mask>?"]
    contexts = [LONG, LONG, LONG, None, "  ", LONG, hostile]
    done = run(make_task(reader("roberta"), no_answer_threshold=None), list(questions), list(contexts))
    got = rows(done)
    assert [one["score"] is None for one in got] == [False, True, True, True, True, False, False]
    assert got[0] == got[5] and got[1]["span"] is None and done.errors == {}
    assert got[6]["span"] == hostile[got[6]["start"] : got[6]["end"]]
    empty = run(make_task(reader("roberta"), top_k=2), [], [])
    assert len(empty.columns["span_spans"]) == 0


def test_pairs_are_remembered_and_the_batch_does_not_matter(reader: Reader, tmp_path: Path) -> None:
    task = make_task(reader("bert"), scratch=tmp_path, top_k=2)
    questions, contexts = QUESTIONS * 4, [context for context in [*CONTEXTS[:3], LONG] for _ in range(4)]
    whole = run(task, list(questions), list(contexts))
    again = run(task, [*questions[::-1], "New?"], [*contexts[::-1], "a host"])
    assert rows(again)[-2::-1] == rows(whole)
    assert again.tokens < whole.tokens / 10 or not task.encoder.batch_free
    for question, context, got in zip(questions, contexts, rows(whole), strict=True):
        (alone,) = rows(run(make_task(reader("bert"), top_k=2), [question], [context]))
        assert (alone["span"], alone["start"]) == (got["span"], got["start"])
        assert alone["score"] == pytest.approx(got["score"], abs=1e-5)


def test_one_question_for_all_rows_and_templates(reader: Reader) -> None:
    fixed = make_task(reader("bert"), question="What is DDoS?", no_answer_threshold=None)
    assert fixed.reads == ("c",)
    named = make_task(reader("bert"), no_answer_threshold=None)
    asked: list[str | None] = ["What is DDoS?"] * len(CONTEXTS)
    assert rows(run(fixed, [None] * len(CONTEXTS), list(CONTEXTS))) == rows(run(named, asked, list(CONTEXTS)))
    templates = make_task(reader("bert"), question="What of {q}?", context="{q}: {c}", no_answer_threshold=None)
    assert templates.reads == ("q", "c")
    (got,) = rows(run(templates, ["DDoS"], [CONTEXTS[0]]))
    assert f"DDoS: {CONTEXTS[0]}"[got["start"] : got["end"]] == got["span"]


def test_scores_that_are_no_numbers_are_errors_of_their_rows(reader: Reader, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(reader("bert").folder, tmp_path / "broken"))
    weights = load_file(folder / "model.safetensors")
    hf = AutoTokenizer.from_pretrained(folder)
    weights["bert.embeddings.word_embeddings.weight"][hf.convert_tokens_to_ids("emoji")] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    done = run(make_task(resolved(folder, "broken"), top_k=2), ["Why?"] * 3, ["a host", "an emoji", None])
    assert list(done.errors) == [1] and "no numbers" in done.errors[1]
    assert [score is None for score in done.columns["span_score"].to_pylist()] == [False, True, True]


def test_the_fingerprint_follows_what_decides_answers(reader: Reader) -> None:
    options: list[dict[str, Any]] = [
        {},
        {"question": "What?"},
        {"context": "q"},
        {"top_k": 2},
        {"max_answer_tokens": 5},
        {"no_answer_threshold": None},
        {"stride": 3},
    ]
    assert len({make_task(reader("bert"), **one).fingerprint() for one in options}) == len(options)
    task = make_task(reader("bert"))
    assert pickle.loads(pickle.dumps(task)).fingerprint() == task.fingerprint()


def test_wrong_columns_and_models_are_named(reader: Reader, tiny: Callable[[str], ResolvedModel]) -> None:
    with pytest.raises(JobError, match=r"tasks.span.question: there is no column 'qq'"):
        make_task(reader("bert"), question="qq")
    with pytest.raises(JobError, match=r"tasks.span.context: there is no column 'What\?' in the input"):
        make_task(reader("bert"), context="What?")
    with pytest.raises(ModelError, match=r"no trained question-answering head .*; name a model fine-tuned for"):
        make_task(tiny("bert"))
    with pytest.raises(ModelError, match="is a blenderbot model and cannot serve as a reader that finds answers"):
        make_task(tiny("blenderbot"))
