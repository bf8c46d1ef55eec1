"""The seq2seq task against transformers' tokenizer and `generate` of one row alone."""

import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tiny_models import SENTENCES
from torch_threads import one_thread  # noqa: F401
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from secbatch.errors import JobError, ModelError
from secbatch.models.device import Compute
from secbatch.models.resolved import ResolvedModel
from secbatch.models.sequences import TokenSequences
from secbatch.models.tokenizer import TextTokenizer
from secbatch.task_specs import Seq2Seq
from secbatch.tasks.base import SamplingTask, TaskColumns
from secbatch.tasks.generated_text import clean
from secbatch.tasks.seq2seq import Seq2SeqTask

CPU = Compute("cpu", "float32", "CPU")
Tiny = Callable[[str], ResolvedModel]
LONG = " ".join(SENTENCES * 6)
TEXTS = ["What is DDoS?", SENTENCES[0], SENTENCES[2], "Phishing", "Naïve façade, Москва, 北京", LONG]
SHORT = {"max_new_tokens": 10}


def build(model: ResolvedModel, columns: tuple[str, ...] = ("text",), **spec: Any) -> Seq2SeqTask:
    values = {"type": "seq2seq", "model": "tiny", "text": "text"} | spec
    schema = pa.schema([(name, pa.string()) for name in columns])
    return Seq2SeqTask("summary", Seq2Seq.model_validate(values), schema, model, CPU)


def run(task: Seq2SeqTask, usable: list[bool] | None = None, **columns: Any) -> TaskColumns:
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    ids = pa.array([f"row-{n}" for n in range(len(table))], pa.string())
    task.load()
    mask = pa.array(usable if usable is not None else [True] * len(table), pa.bool_())
    done = task.finish(task.compute(task.encode(table, ids, mask)))
    assert list(done.columns) == [field.name for field in task.fields]
    assert [column.type for column in done.columns.values()] == [pa.string(), pa.int32(), pa.bool_()]
    return done


@cache
def loaded(folder: Path) -> tuple[Any, Any]:
    return AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder).eval()


def alone(model: ResolvedModel, text: str, **arguments: Any) -> tuple[str, int]:
    """What `generate` makes of one text, cut by transformers' own truncation, and in how many tokens."""
    hf, stock = loaded(model.folder)
    inputs = hf(text, return_tensors="pt", truncation=True, max_length=64)
    ids = stock.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], **arguments)[
        0, 1:
    ].tolist()
    end = stock.config.eos_token_id
    ids = ids[: ids.index(end)] if end in ids else ids
    return clean(hf.decode(ids, skip_special_tokens=True)), len(ids)


@pytest.mark.parametrize("kind", ["t5", "bart", "marian"])
@pytest.mark.parametrize("generation", [{}, {"num_beams": 1}, {"num_beams": 3, "max_new_tokens": 8}])
def test_a_row_gets_what_generate_gives_it_alone(tiny: Tiny, kind: str, generation: dict[str, int]) -> None:
    arguments = {**(SHORT if kind == "t5" else {}), **generation}
    task = build(tiny(kind), generation=arguments, prompt="summarize: {text}")
    assert task._model.settings.stock == ()  # batched, not one by one
    done = run(task, text=TEXTS)
    expected = [alone(tiny(kind), f"summarize: {text}", **arguments) for text in TEXTS]
    assert done.columns["summary"].to_pylist() == [text for text, _ in expected]
    assert done.columns["summary_tokens"].to_pylist() == [count for _, count in expected]
    assert done.columns["summary_truncated"].to_pylist() == [False] * 5 + [True]
    assert len({text for text, _ in expected}) > 2 and done.errors == {} and done.tokens > 0


def test_nothing_to_do_gives_nulls_and_equal_rows_one_text(tiny: Tiny) -> None:
    task = build(tiny("t5"), generation=SHORT)
    done = run(task, [True] * 5 + [False], text=["Phishing", None, "", " \n", "Phishing", "Rejected"])
    for column in done.columns.values():
        assert [value is None for value in column.to_pylist()] == [False, True, True, True, False, True]
    once = run(task, text=["Phishing"])
    assert done.tokens == once.tokens and done.errors == {}
    assert done.columns["summary"].to_pylist()[4] == once.columns["summary"].to_pylist()[0]
    assert run(task, text=[]).columns["summary"].to_pylist() == []


def test_columns_stand_in_the_prompt(tiny: Tiny) -> None:
    task = build(
        tiny("t5"), ("text", "to", "from"), prompt="translate {from} to {to}: {text}", text="<{text}>", generation=SHORT
    )
    assert task.reads == ("text", "from", "to")
    done = run(task, **{"text": ["malware", "malware"], "to": ["German", None], "from": ["English", "English"]})
    assert done.columns["summary"].to_pylist() == [
        alone(tiny("t5"), "translate English to German: <malware>", **SHORT)[0],
        None,
    ]


def test_what_stands_after_a_long_text_is_kept(tiny: Tiny) -> None:
    task = build(tiny("bart"), prompt="Report: {text} In short:", generation=SHORT)
    ids = pa.array(["0", "1"])
    encoded = task.encode(pa.table({"text": [LONG, "Phishing"]}), ids, pa.array([True, True]))
    cut, whole = encoded.read
    assert cut is not None and whole is not None
    assert (cut.truncated, whole.truncated) == (True, False) and 55 <= len(cut.tokens) <= 64
    hf, _ = loaded(tiny("bart").folder)
    read = hf.decode(cut.tokens)
    assert read.startswith("<s>Report: Adversaries may") and read.endswith(" In short:</s>")
    # one character more of the text would not have fitted
    kept = len(read) - len("<s>Report:  In short:</s>")
    assert len(hf(f"Report: {LONG[: kept + 1]} In short:")["input_ids"]) > 64


def test_long_texts_are_cut_together_and_each_as_alone(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    task = build(tiny("bart"), prompt="Report: {text} In short:", generation=SHORT)
    texts = [LONG[start : start + length] for start in range(0, 40, 2) for length in (300, 500, len(LONG))]
    alone = [
        task.encode(pa.table({"text": [text]}), pa.array(["0"]), pa.array([True])).read[0] for text in [*texts, "short"]
    ]
    calls = []
    encode = TextTokenizer.encode

    def counted(self: TextTokenizer, given: list[str], special_tokens: bool = True) -> TokenSequences:
        calls.append(len(given))
        return encode(self, given, special_tokens)

    monkeypatch.setattr(TextTokenizer, "encode", counted)
    table, rows = pa.table({"text": [*texts, "short"]}), [str(row) for row in range(len(texts) + 1)]
    together = task.encode(table, pa.array(rows), pa.array([True] * len(rows))).read
    assert together == alone and sum(one is not None and one.truncated for one in together) > 40
    assert len(calls) <= 2 + len(LONG).bit_length()


def test_a_prompt_that_leaves_no_room_rejects_the_row(tiny: Tiny) -> None:
    task = build(tiny("bart"), ("text", "notes"), prompt="{notes} {text}", generation=SHORT)
    done = run(task, text=["Phishing"] * 3, notes=["Short.", LONG[:1200], "x" * 100_000])
    assert done.errors.keys() == {1, 2}
    assert "the prompt alone takes" in done.errors[1] and "of the 64 tokens that bart can read" in done.errors[1]
    assert "100,001 characters" in done.errors[2]
    assert [text is None for text in done.columns["summary"].to_pylist()] == [False, True, True]


def test_special_tokens_count_in_the_prompt_and_not_in_a_row(tiny: Tiny) -> None:
    task = build(tiny("t5"), prompt="{text} <extra_id_0> here", generation=SHORT)
    texts = ["malware", "malware</s> <extra_id_0>"]
    encoded = task.encode(pa.table({"text": texts}), pa.array(["0", "1"]), pa.array([True, True]))
    hf, _ = loaded(tiny("t5").folder)
    special = {hf.eos_token_id, hf.convert_tokens_to_ids("<extra_id_0>")}
    for one in encoded.read:
        assert one is not None and [token for token in one.tokens if token in special] == [
            hf.convert_tokens_to_ids("<extra_id_0>"),
            hf.eos_token_id,
        ]


def test_sampling_depends_on_seed_and_row_alone(tiny: Tiny) -> None:
    sampling = {"do_sample": True, "num_beams": 1, "max_new_tokens": 8, "temperature": 2.0}
    task = build(tiny("bart"), generation=sampling)
    together = run(task, text=TEXTS).columns["summary"].to_pylist()
    apart = run(task, [False] * 2 + [True] + [False] * 3, text=TEXTS).columns["summary"].to_pylist()
    assert apart[2] == together[2]
    assert isinstance(task, SamplingTask) and task.samples and not build(tiny("bart")).samples
    other = build(tiny("bart"), generation=sampling | {"seed": 1})
    assert run(other, text=TEXTS).columns["summary"].to_pylist() != together


def test_the_fingerprint_follows_what_decides_a_text(tiny: Tiny) -> None:
    columns = ("text", "other")
    changes: list[dict[str, Any]] = [
        {},
        {"text": "other"},
        {"prompt": "Now: {text}"},
        {"generation": {"num_beams": 2}},
        {"generation": {"seed": 1}},
    ]
    prints = {build(tiny("t5"), columns, **change).fingerprint() for change in changes}
    prints.add(build(tiny("bart"), columns).fingerprint())
    assert len(prints) == len(changes) + 1
    task = build(tiny("t5"), columns)
    sent = pickle.loads(pickle.dumps(task))
    assert sent.fingerprint() == task.fingerprint() in prints


def test_wrong_models_columns_and_prompts_are_named(tiny: Tiny) -> None:
    with pytest.raises(ModelError, match=r"is a llama model and cannot serve as a sequence-to-sequence model"):
        build(tiny("llama_chat"))
    with pytest.raises(ModelError, match=r"is a bert model and cannot serve as a sequence-to-sequence model"):
        build(tiny("bert"))
    with pytest.raises(JobError, match=r"tasks.summary.prompt: there is no column 'txet' in the input"):
        build(tiny("t5"), prompt="{txet}: {text}")
    with pytest.raises(JobError, match=r"tasks.summary.prompt: .* must stand in it once, not 0 times"):
        build(tiny("t5"), prompt="{{text}}")
    with pytest.raises(ValueError, match=r"prompt must contain \{text\}, the place of the text, once"):
        build(tiny("t5"), prompt="summarize")
    with pytest.raises(JobError, match="max_new_tokens is 65, but bart has only 64 positions"):
        build(tiny("bart"), generation={"max_new_tokens": 65})
