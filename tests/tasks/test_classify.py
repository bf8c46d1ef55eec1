"""Labels against the stock `text-classification` pipeline, and by the words that fit a mask."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from nasty_texts import NASTY
from pydantic import ValidationError
from tiny_models import SENTENCES, make_fine_tuned, modernbert_tokenizer, resolved
from torch_threads import one_thread  # noqa: F401
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, pipeline

from secbatch.errors import JobError, ModelError
from secbatch.models.batch_runner import BatchReport, BatchRunner
from secbatch.models.device import choose
from secbatch.models.resolved import ResolvedModel
from secbatch.models.shared_encoder import SharedEncoder
from secbatch.models.tokenizer_files import load_tokenizer
from secbatch.task_specs import Classify
from secbatch.tasks.base import TaskColumns
from secbatch.tasks.classify import ClassifyTask
from secbatch.tasks.classify_cloze import WITHOUT_CONTENT, ClozeTask
from secbatch.tasks.encoder_task import compute_together
from secbatch.tasks.label_names import check_label_count, label_names

CPU = choose("cpu", "float32")
Made = Callable[..., ResolvedModel]
Tiny = Callable[[str], ResolvedModel]
NAMES = {0: "phishing", 1: "ransomware", 2: "other", 3: "wiper"}
CLOZE = {"labels": {"malware": ["malware", "attacker"], "crime": "payment"}, "template": "{text} It is <mask>."}


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """`classifier("bert", problem_type=...)`: a random model with sharpened logits, each made once."""
    made: dict[Any, ResolvedModel] = {}

    def make(kind: str, **changes: Any) -> ResolvedModel:
        changes = {"id2label": NAMES, **changes}
        key = (kind, *(f"{name}={value}" for name, value in changes.items()))
        if key not in made:
            words = modernbert_tokenizer() if kind == "modernbert" else None
            folder = tmp_path_factory.mktemp(kind)
            sharpen = 3.0 if kind in ("modernbert", "llama") else 20.0
            make_fine_tuned(folder, kind, "SequenceClassification", sharpen=sharpen, words=words, **changes)
            made[key] = resolved(folder, kind)
        return made[key]

    return make


def make_task(model: ResolvedModel, encoder: SharedEncoder | None = None, **options: Any) -> ClassifyTask | ClozeTask:
    spec = Classify.model_validate({"type": "classify", "model": model.name, "text": "text", **options})
    kind = ClassifyTask if spec.labels is None else ClozeTask
    return kind("topic", spec, pa.schema([("text", pa.string())]), encoder or SharedEncoder(model, CPU))


def table_of(texts: list[str | None]) -> tuple[pa.Table, pa.Array, pa.Array]:
    ids = pa.array([str(row) for row in range(len(texts))], pa.string())
    return pa.table({"text": pa.array(texts, pa.string())}), ids, pa.array([True] * len(texts), pa.bool_())


def run(task: ClassifyTask | ClozeTask, texts: list[str | None]) -> TaskColumns:
    task.load()
    done = task.finish(task.compute(task.encode(*table_of(texts))))  # type: ignore[arg-type]
    assert [(name, column.type) for name, column in done.columns.items()] == [(f.name, f.type) for f in task.fields]
    for column in done.columns.values():
        column.validate(full=True)
    return done


def columns_of(task: ClassifyTask | ClozeTask, texts: list[str | None]) -> dict[str, list[Any]]:
    return {name: column.to_pylist() for name, column in run(task, texts).columns.items()}


def stock_scores(model: ResolvedModel, texts: list[str], **options: Any) -> list[list[dict[str, Any]]]:
    own = AutoModelForSequenceClassification.from_pretrained(model.folder).eval()
    tokenizer = load_tokenizer(model)
    pipe = pipeline("text-classification", own, tokenizer=tokenizer.hf, **options)
    return [pipe(text, top_k=None, truncation=True, max_length=tokenizer.max_length) for text in texts]


KINDS = ["roberta", "bert", "distilbert", "modernbert", "mpnet", "deberta", "albert", "llama"]


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_stock_pipeline(classifier: Made, kind: str) -> None:
    model = classifier(kind)
    texts = [*NASTY, *SENTENCES, " ".join(SENTENCES)]
    got = columns_of(make_task(model), texts)
    wanted = stock_scores(model, texts)
    for row, scores in enumerate(wanted):
        assert [one["label"] for one in got["topic_scores"][row]] == [one["label"] for one in scores]
        assert np.allclose(
            [one["score"] for one in got["topic_scores"][row]], [one["score"] for one in scores], atol=1e-5
        )
        assert got["topic"][row] == scores[0]["label"]
        assert got["topic_score"][row] == got["topic_scores"][row][0]["score"]
    assert got["topic_truncated"] == [False] * (len(texts) - 1) + [True]
    assert len(set(got["topic"])) > 1 and np.std(got["topic_score"]) > 0.03


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_the_models_problem_type_decides(classifier: Made, problem: str) -> None:
    model = classifier("bert", problem_type=problem)
    task = make_task(model)
    got = columns_of(task, SENTENCES)
    for scores, theirs in zip(got["topic_scores"], stock_scores(model, SENTENCES), strict=True):
        assert [one["label"] for one in scores] == [one["label"] for one in theirs]
        assert np.allclose([one["score"] for one in scores], [one["score"] for one in theirs], atol=1e-5)
    if problem == "regression":
        assert "topic_labels" not in got and task.notices[-1].endswith(
            "gives a number, no class; topic_score is that number as it is."
        )
        useless = make_task(model, threshold=0.5)
        assert useless.notices[-1].endswith("threshold has no effect.")
        assert columns_of(useless, SENTENCES)["topic"] == got["topic"]
        return
    for best, labels, scores in zip(got["topic"], got["topic_labels"], got["topic_scores"], strict=True):
        assert labels == [one["label"] for one in scores if one["score"] >= 0.5]
        assert best == (labels[0] if labels else None)
    assert len({len(labels) for labels in got["topic_labels"]}) > 1


def test_the_job_can_say_otherwise(classifier: Made) -> None:
    model = classifier("bert")
    got = columns_of(make_task(model, problem="multi-label", threshold=0.7), SENTENCES)
    wanted = stock_scores(model, SENTENCES, function_to_apply="sigmoid")
    for labels, scores in zip(got["topic_labels"], wanted, strict=True):
        assert labels == [one["label"] for one in scores if one["score"] >= 0.7]


def test_one_label_is_a_sigmoid_as_in_the_stock_pipeline_and_said(classifier: Made) -> None:
    model = classifier("roberta", id2label={0: "risk"})
    task = make_task(model)
    got = columns_of(task, SENTENCES)
    assert np.allclose(got["topic_score"], [one[0]["score"] for one in stock_scores(model, SENTENCES)], atol=1e-5)
    assert "problem: regression" in task.notices[-1]
    bare = columns_of(make_task(model, problem="regression"), SENTENCES)["topic_score"]
    assert np.allclose(1 / (1 + np.exp(-np.array(bare))), got["topic_score"], atol=1e-6)


def test_scores_and_threshold(classifier: Made) -> None:
    model = classifier("bert")
    every = columns_of(make_task(model), SENTENCES)
    cut = sorted(every["topic_score"])[4]
    for kept, count in (("best", 1), (2, 2), (50, 4)):
        some = columns_of(make_task(model, scores=kept, threshold=cut), SENTENCES)
        assert some["topic_scores"] == [scores[:count] for scores in every["topic_scores"]]
        assert some["topic_score"] == every["topic_score"]
        assert some["topic"] == [
            label if score >= cut else None for label, score in zip(every["topic"], every["topic_score"], strict=True)
        ]
        assert some["topic"].count(None) == 4


def test_nothing_to_do_and_doubles(classifier: Made) -> None:
    for options in ({}, {"problem": "multi-label"}):
        got = columns_of(make_task(classifier("bert"), **options), [SENTENCES[0], None, "", "  ", SENTENCES[0], "</s>"])
        for column in got.values():
            assert [value is None for value in column][1:4] == [True, True, True] and column[0] == column[4]
            assert column[0] is not None or options
        assert columns_of(make_task(classifier("bert"), **options), [])["topic_scores"] == []


def test_texts_that_come_again_are_not_computed_again(classifier: Made, tmp_path: Path) -> None:
    model = classifier("roberta")
    task = make_task(model, SharedEncoder(model, CPU, tmp_path))
    texts: list[str | None] = [*NASTY, " ".join(SENTENCES)]
    first = run(task, texts)
    again = run(task, ["something new", *texts[::-1]])
    assert again.tokens == len(task.encoder.tokenizer.encode(["something new"]).ids)
    for name, column in again.columns.items():
        assert column.to_pylist()[1:] == first.columns[name].to_pylist()[::-1]


def test_labels_are_checked(classifier: Made, tiny: Tiny) -> None:
    with pytest.raises(ModelError, match=r"no trained classification head .*`labels` and a `template` with <mask>"):
        make_task(tiny("bert"))
    with pytest.raises(ModelError, match=r"gives 3 scores, but id2label in its config.json names 2 labels"):
        check_label_count(("a", "b"), 3, "m")
    with pytest.raises(ModelError, match=r"gives 2 scores, but id2label in its config.json names 1 label;"):
        check_label_count(("a",), 2, "m")

    with pytest.raises(ModelError, match="without gaps; it has 2 entries"):
        label_names(SimpleNamespace(id2label={0: "a", 2: "b"}), "m")
    with pytest.raises(ModelError, match="without gaps; it has 1 entry"):
        label_names(SimpleNamespace(id2label={1: "a"}), "m")
    hostile = SimpleNamespace(id2label={0: "a\ud800", 1: "\x1b[2J\x00\u202e"})
    assert label_names(hostile, "m") == ("a?", "\x1b[2J\x00\u202e")  # data stays as it is, where a file can hold it


def test_scores_that_are_no_numbers_are_errors_of_the_rows(classifier: Made) -> None:
    task = make_task(classifier("bert"))
    task.load()
    with torch.inference_mode():
        task.encoder.sequence_head._model.classifier._linear._bias[0] = float("inf")
    done = run(task, ["a host", None])
    assert "no numbers" in done.errors[0] and list(done.errors) == [0]
    assert all(column.null_count == 2 for column in done.columns.values())


def test_the_fingerprint_follows_what_decides_results(classifier: Made, tiny: Tiny) -> None:
    options: list[dict[str, Any]] = [{}, {"scores": "best"}, {"threshold": 0.4}, {"problem": "multi-label"}]
    assert len({make_task(classifier("bert"), **some).fingerprint() for some in options}) == 4
    said = make_task(classifier("bert"), problem="single-label")
    assert said.fingerprint() == make_task(classifier("bert")).fingerprint()
    other = {**CLOZE, "template": "<mask>: {text}"}
    order = {**CLOZE, "labels": dict(reversed(CLOZE["labels"].items()))}  # type: ignore[attr-defined]
    clozes = [CLOZE, other, order, {**CLOZE, "calibrate": False}, {**CLOZE, "threshold": 0.5}]
    assert len({make_task(tiny("roberta"), **some).fingerprint() for some in clozes}) == 5


# -- without a head: by the words that fit a mask


def own_shares(model: ResolvedModel, texts: list[str], labels: dict[str, list[str]]) -> np.ndarray:
    """Mean probability of each label's words at the mask, as a share of all labels', by the stock model."""
    own, hf = AutoModelForMaskedLM.from_pretrained(model.folder).eval(), load_tokenizer(model).hf
    found = []
    for text in texts:
        ids = hf(text.replace("<mask>", hf.mask_token), return_tensors="pt").input_ids
        with torch.inference_mode():
            (place,) = (ids[0] == hf.mask_token_id).nonzero()[-1].tolist()
            probabilities = own(ids).logits[0, place].double().softmax(-1)
        entries = {
            label: [hf(f" {word}", add_special_tokens=False).input_ids[0] for word in words]
            for label, words in labels.items()
        }
        means = np.array([probabilities[ids].mean().item() for ids in entries.values()])
        found.append(means / means.sum())
    return np.array(found)


@pytest.mark.parametrize("kind", ["roberta", "bert", "modernbert", "distilbert"])
@pytest.mark.parametrize("calibrate", [False, True])
def test_a_label_has_the_share_of_its_words(tiny: Tiny, kind: str, calibrate: bool) -> None:
    model = tiny(kind)
    labels = {"attack": ["attacker", "attack"], "host": ["host", "server"], "cash": ["payment"]}
    task = make_task(model, labels=labels, template="{text} It is <mask>!", calibrate=calibrate)
    got = columns_of(task, SENTENCES)
    wanted = own_shares(model, [f"{text} It is <mask>!" for text in SENTENCES], labels)
    if calibrate:
        prior = own_shares(model, [f"{text} It is <mask>!" for text in WITHOUT_CONTENT], labels).mean(axis=0)
        wanted = wanted / prior / (wanted / prior).sum(axis=1, keepdims=True)
    for scores, shares in zip(got["topic_scores"], wanted, strict=True):
        mine = {one["label"]: one["score"] for one in scores}
        assert np.allclose([mine[label] for label in labels], shares, atol=1e-4 if calibrate else 1e-5)
    assert [scores[0]["label"] for scores in got["topic_scores"]] == got["topic"]


def test_a_calibration_that_fails_is_no_calibration_by_nothing(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    report = BatchReport(errors={0: "the text has 8 tokens, more than the memory of cuda:0 takes at once"})
    monkeypatch.setattr(BatchRunner, "run", lambda *arguments: report)
    with pytest.raises(
        ModelError, match=r"tasks.topic cannot be calibrated: the text has 8 tokens, .* calibrate: false"
    ):
        make_task(tiny("roberta"), **CLOZE).load()
    make_task(tiny("roberta"), **CLOZE, calibrate=False).load()


def test_the_templates_mask_is_asked_whatever_the_text_holds(tiny: Tiny) -> None:
    text = "A <mask> steals <mask>"
    after = make_task(tiny("roberta"), **CLOZE)
    before = make_task(tiny("roberta"), **{**CLOZE, "template": "<mask>: {text}"})
    for task, place in ((after, -1), (before, 0)):
        encoded = task.encode(*table_of([text]))
        assert isinstance(task, ClozeTask)
        sequences = encoded.sequences
        masks = np.flatnonzero(sequences.ids == task.encoder.tokenizer.mask_id)
        assert len(masks) == 3 and task._cloze.masks(sequences).tolist() == [masks[place]]


def test_a_long_text_is_cut_and_the_template_stays(tiny: Tiny) -> None:
    long = " ".join(SENTENCES)
    for template in ("{text} It is <mask>.", "<mask>: {text}", "So <mask>, {text} and more of this template"):
        task = make_task(tiny("roberta"), **{**CLOZE, "template": template})
        tokenizer = task.encoder.tokenizer
        encoded = task.encode(*table_of([long, "short", "x" * 10_000, "<mask>" * 200]))
        assert encoded.truncated.tolist() == [True, False, True, True]
        head, tail = template.split("{text}")
        for row in range(4):
            ids = encoded.sequences[row]
            assert len(ids) <= tokenizer.max_length
            assert (ids == tokenizer.mask_id).sum() >= 1
            # decoders put or leave out spaces around the mask
            words = tokenizer.hf.decode(ids).replace(" ", "")
            assert words.startswith(f"<s>{head}".replace(" ", "")) and words.endswith(f"{tail}</s>".replace(" ", ""))
        assert len(encoded.sequences[0]) > tokenizer.max_length - 4
        assert columns_of(task, [long])["topic_truncated"] == [True]


def test_both_ways_share_the_forward_of_their_model(tiny: Tiny) -> None:
    encoder = SharedEncoder(tiny("roberta"), CPU)
    tasks: Any = {"one": make_task(encoder.model, encoder, **CLOZE), "two": make_task(encoder.model, encoder, **CLOZE)}
    for task in tasks.values():
        task.load()
    encoded = {name: task.encode(*table_of(SENTENCES)) for name, task in tasks.items()}
    computed = compute_together(tasks, encoded)
    assert computed["two"].tokens == 0 and np.array_equal(computed["one"].scores, computed["two"].scores)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"labels": {"a": ["distributed denial"], "b": ["payment"]}},
            r"tasks.topic.labels.a: only words that are single",
        ),
        ({"labels": {"a": ["payment"], "b": ["payment"]}}, r"'b' and 'a' have a word in common \('payment'\)"),
        ({"template": "word " * 70 + "{text} <mask>"}, r"template does not fit into the 64 tokens"),
    ],
)
def test_words_and_templates_that_do_not_serve(tiny: Tiny, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(JobError, match=sentence):
        make_task(tiny("roberta"), **{**CLOZE, **changes})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"labels": CLOZE["labels"]}, "labels needs template"),
        ({"template": CLOZE["template"]}, "template needs labels"),
        ({**CLOZE, "template": "{text} only"}, r"must contain \{text\} and <mask>, each once"),
        ({**CLOZE, "labels": ["one"]}, "at least two labels"),
        ({**CLOZE, "labels": ["one", ["two"]]}, "labels must be words, each once"),
        ({**CLOZE, "labels": ["one", "one"]}, "labels must be words, each once"),
        ({**CLOZE, "labels": {"one": 1, "two": {"a": "b"}}}, "labels"),
        ({**CLOZE, "labels": {True: ["a"], "two": "b"}}, r"\(no, 443\) must stand in quotes to be a word"),
        ({**CLOZE, "labels": {"one": ["a", 443], "two": "b"}}, "must stand in quotes"),
        ({**CLOZE, "labels": ["one", False]}, "must stand in quotes"),
        ({**CLOZE, "problem": "multi-label"}, "a <mask> has one best label"),
        ({"calibrate": False}, "calibrate has no effect without"),
        ({"problem": "regression", "threshold": 0.5}, "threshold has no effect"),
        ({"scores": 0}, "scores must be all, best, or a number"),
        ({"scores": True}, "scores must be all, best, or a number"),
        ({**CLOZE, "labels": {"a": [], "b": "payment"}}, "a word or a list of words each"),
        ({"threshold": 1.5}, "less than or equal to 1"),
    ],
)
def test_keys_that_contradict_each_other(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        Classify.model_validate({"type": "classify", "model": "m", "text": "text", **options})


def test_labels_that_are_their_own_words(tiny: Tiny) -> None:
    task = make_task(tiny("roberta"), labels=["malware", "payment"], template="{text} <mask>")
    assert set(columns_of(task, SENTENCES)["topic"]) <= {"malware", "payment"}
