"""Embeddings against the model's own hidden states."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import SENTENCES, resolved
from torch_threads import one_thread  # noqa: F401

from secbatch.errors import JobError
from secbatch.models.device import Compute, choose
from secbatch.models.load import load_model
from secbatch.models.resolved import ResolvedModel
from secbatch.models.shared_encoder import SharedEncoder
from secbatch.models.tokenizer_files import load_tokenizer
from secbatch.task_specs import Embed
from secbatch.tasks.base import TaskColumns, WideTask
from secbatch.tasks.embed import EmbedTask

CPU = choose("cpu", "float32")
Tiny = Callable[[str], ResolvedModel]
# Eight sentences, pieces of them, and doubles: many lengths, some equal.
TEXTS = [" ".join(" ".join(SENTENCES[n % 8 :]).split()[: 2 + n]) for n in range(20)] + SENTENCES[:2]


def make_task(model: ResolvedModel, table: pa.Table, compute: Compute = CPU, **options: Any) -> EmbedTask:
    spec = Embed.model_validate({"type": "embed", "model": model.name, "text": "text", **options})
    return EmbedTask("vec", spec, table.schema, SharedEncoder(model, compute))


def run(task: EmbedTask, table: pa.Table) -> TaskColumns:
    task.load()
    ids = pa.array([str(row) for row in range(table.num_rows)], pa.string())
    done = task.finish(task.compute(task.encode(table, ids, pa.array([True] * table.num_rows, pa.bool_()))))
    (field,) = task.fields
    assert list(done.columns) == ["vec"] and done.columns["vec"].type == field.type
    done.columns["vec"].validate(full=True)
    return done


@pytest.mark.parametrize(
    "kind", ["roberta", "bert", "modernbert", "distilbert", "electra", "mpnet", "albert", "llama_chat", "blenderbot"]
)
@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_equals_the_hidden_states_of_one_text_alone(tiny: Tiny, kind: str, pooling: str) -> None:
    model = tiny(kind)
    table = pa.table({"text": TEXTS})
    got = run(make_task(model, table, pooling=pooling), table).columns["vec"].to_pylist()
    base, hf = load_model(model, "encoder", CPU).model, load_tokenizer(model).hf
    base = base.get_encoder() if base.config.is_encoder_decoder else base
    limit = load_tokenizer(model).max_length
    with torch.inference_mode():
        for text, vector in zip(TEXTS, got, strict=True):
            inputs = hf(text, return_tensors="pt", truncation=True, max_length=limit)
            states = base(input_ids=inputs.input_ids).last_hidden_state[0]
            wanted = states.mean(dim=0) if pooling == "mean" else states[0]
            assert np.allclose(vector, wanted.numpy(), atol=1e-5, rtol=1e-5)


def test_normalised_vectors_have_length_one(tiny: Tiny) -> None:
    table = pa.table({"text": TEXTS})
    plain = np.array(run(make_task(tiny("roberta"), table), table).columns["vec"].to_pylist())
    unit = np.array(run(make_task(tiny("roberta"), table, normalize=True), table).columns["vec"].to_pylist())
    assert np.allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    assert np.allclose(plain / np.linalg.norm(plain, axis=1, keepdims=True), unit, atol=1e-6)


@pytest.mark.parametrize("kind", ["bert", "albert"])
def test_the_batch_does_not_matter(tiny: Tiny, kind: str) -> None:
    table = pa.table({"text": TEXTS})
    task = make_task(tiny(kind), table)
    whole = np.array(run(task, table).columns["vec"].to_pylist())
    for budget in (1, 50, 100_000):
        task.encoder.token_budget = budget
        assert np.allclose(whole, run(task, table).columns["vec"].to_pylist(), atol=1e-5)


def test_nothing_to_do_and_doubles(tiny: Tiny) -> None:
    table = pa.table({"text": ["a host", None, "", "  ", "a host", "</s> [SEP] <mask>"]})
    done = run(make_task(tiny("roberta"), table), table)
    vectors = done.columns["vec"].to_pylist()
    assert [vector is None for vector in vectors] == [False, True, True, True, False, False]
    assert vectors[0] == vectors[4] and len(vectors[0]) == 64
    empty = table.slice(0, 0)
    assert len(run(make_task(tiny("roberta"), empty), empty).columns["vec"]) == 0


def test_a_long_text_is_its_beginning(tiny: Tiny) -> None:
    table = pa.table({"text": ["the server " * 500, "the server " * 400]})
    one, other = run(make_task(tiny("roberta"), table), table).columns["vec"].to_pylist()
    assert np.allclose(one, other, atol=1e-6)


def test_the_dimension_is_checked_before_any_work(tiny: Tiny) -> None:
    table = pa.table({"text": ["x"]})
    make_task(tiny("roberta"), table, dimension=64)
    with pytest.raises(JobError, match=r"tasks.vec.dimension is 768, but vectors of model roberta have 64"):
        make_task(tiny("roberta"), table, dimension=768)
    # DistilBERT's and Blenderbot's configurations call it otherwise.
    for kind in ("distilbert", "blenderbot"):
        with pytest.raises(JobError, match="have 64"):
            make_task(tiny(kind), table, dimension=768)


def test_what_a_row_takes_is_known_before_the_weights_are_there(tiny: Tiny) -> None:
    task = make_task(tiny("roberta"), pa.table({"text": TEXTS}))
    assert task.row_bytes == 64 * 4 and isinstance(task, WideTask)


def publish(model: ResolvedModel, folder: Path, *modules: str, **pooling: Any) -> ResolvedModel:
    """The model as sentence-transformers saves it, with `modules` after the first."""
    shutil.copytree(model.folder, folder)
    named = [(kind, f"{number}_{kind}" if number else "") for number, kind in enumerate(["Transformer", *modules])]
    listed = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in named]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 64, **pooling}))
    return resolved(folder, "published")


def test_other_vectors_than_those_a_model_was_published_with_are_said(tiny: Tiny, tmp_path: Path) -> None:
    table = pa.table({"text": ["a"]})
    assert make_task(tiny("bert"), table).notices == ()
    flags = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    for number, own in enumerate([flags, {"pooling_mode": "cls"}, {"pooling_mode": ["cls"]}]):
        model = publish(tiny("bert"), tmp_path / str(number), "Pooling", "Normalize", **own)
        (said,) = make_task(model, table).notices
        assert said.startswith("model published was published for sentence-transformers, which makes other vectors")
        assert said.endswith(" (pooling: first; normalize: true)")
        assert make_task(model, table, pooling="first", normalize=True).notices == ()
    model = publish(tiny("bert"), tmp_path / "more", "Pooling", "Dense", pooling_mode_max_tokens=True)
    (model.folder / "sentence_bert_config.json").write_text('{"max_seq_length": 32, "do_lower_case": true}')
    prompts = '{"prompts": {"query": "query: "}, "default_prompt_name": "query"}'
    (model.folder / "config_sentence_transformers.json").write_text(prompts)
    (said,) = make_task(model, table).notices
    assert said.endswith(
        "(pooling max, which there is not here; a layer after it (Dense), which is not used here; the first 32 tokens"
        " of a text instead of 64; texts in lower case; a prompt before each text)"
    )
    for broken in ("", "[1]", "{}", "[{}]", "[" * 100_000, '[{"type": "a.Pooling"}]', '[{"type": 1, "path": "../.."}]'):
        (tmp_path / "0" / "modules.json").write_text(broken)
        assert make_task(resolved(tmp_path / "0", "published"), table).notices == ()


def test_the_fingerprint_follows_what_decides_results(tiny: Tiny) -> None:
    table = pa.table({"text": ["x"]})
    tasks = [{}, {"pooling": "first"}, {"normalize": True}]
    assert len({make_task(tiny("bert"), table, **options).fingerprint() for options in tasks}) == 3
    checked = make_task(tiny("bert"), table, dimension=64)
    assert checked.fingerprint() == make_task(tiny("bert"), table).fingerprint()


def test_values_that_are_no_numbers_are_errors_of_the_rows(tiny: Tiny, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny("roberta").folder, tmp_path / "broken"))
    weights = load_file(folder / "model.safetensors")
    weights["roberta.encoder.layer.2.output.LayerNorm.bias"][3] = float("inf")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    table = pa.table({"text": ["x", None]})
    done = run(make_task(resolved(folder, "broken"), table), table)
    assert list(done.errors) == [0] and "no numbers" in done.errors[0]
    assert done.columns["vec"].null_count == 2
