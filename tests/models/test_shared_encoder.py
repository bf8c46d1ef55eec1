"""Tasks of one model: each gets what it gets alone, and common texts go through the model once."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from tiny_models import bert_tokenizer, make_fine_tuned, resolved
from transformers import AutoModel, LEDConfig, LongformerConfig

from secbatch.errors import ModelError
from secbatch.models import shared_encoder
from secbatch.models.batch_runner import default_token_budget
from secbatch.models.configuration import load_config
from secbatch.models.device import Compute, choose
from secbatch.models.encoder_generic import StockEncoder
from secbatch.models.first_forward import FirstForwardError
from secbatch.models.heads import SequenceHead
from secbatch.models.requests import HeadKind, Request, all_states
from secbatch.models.resolved import ResolvedModel
from secbatch.models.sequences import TokenSequences
from secbatch.models.shared_encoder import SharedEncoder
from secbatch.models.transfer import Made
from secbatch.task_specs import Embed, FillMask
from secbatch.tasks.embed import EmbedTask
from secbatch.tasks.encoder_task import compute_together
from secbatch.tasks.fill_mask import FillMaskTask

Tiny = Callable[[str], ResolvedModel]
CPU = choose("cpu", "float32")
TABLE = pa.table(
    {
        "text": ["The <mask> steals all", "nothing to fill in", "A <mask> of <mask>", None, "The <mask> steals all"],
        "other": ["The <mask> steals all", "words of <mask>", None, "one more", "and another one"],
    }
)


def tasks_of(encoder: Callable[[], SharedEncoder]) -> dict[str, FillMaskTask | EmbedTask]:
    mask = FillMask(type="fill-mask", model="tiny", text="text", top_k=5)
    mean = Embed(type="embed", model="tiny", text="text", normalize=True)
    first = Embed(type="embed", model="tiny", text="other", pooling="first")
    return {
        "mask": FillMaskTask("mask", mask, TABLE.schema, encoder()),
        "mean": EmbedTask("mean", mean, TABLE.schema, encoder()),
        "first": EmbedTask("first", first, TABLE.schema, encoder()),
    }


def columns_of(task: FillMaskTask | EmbedTask, computed: object) -> dict[str, pa.Array]:
    return task.finish(computed).columns  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["roberta", "modernbert", "albert"])
def test_each_task_gets_what_it_gets_alone(tiny: Tiny, kind: str) -> None:
    ids, usable = pa.array([str(row) for row in range(5)]), pa.array([True, True, True, True, True])
    alone: dict[str, pa.Array] = {}
    for task in tasks_of(lambda: SharedEncoder(tiny(kind), CPU)).values():
        task.load()
        alone |= columns_of(task, task.compute(task.encode(TABLE, ids, usable)))  # type: ignore[arg-type]
    shared = SharedEncoder(tiny(kind), CPU)
    tasks = tasks_of(lambda: shared)
    for task in tasks.values():
        task.load()
    encoded = {name: task.encode(TABLE, ids, usable) for name, task in tasks.items()}
    seen = []
    forward = shared._hidden
    assert forward is not None

    class Counting:
        packed = forward.packed

        def __call__(self, sequences: TokenSequences, at: np.ndarray | None = None) -> torch.Tensor:
            seen.append(len(sequences))
            return forward(sequences, at)

    counting = Counting()
    shared._hidden = counting
    assert shared.lm.hidden is forward
    shared.lm.hidden = counting
    computed = compute_together(tasks, encoded)
    # three different texts, and three that only `other` has; two of the same in `text` are one
    assert sum(seen) == 6
    for name, task in tasks.items():
        for column, values in columns_of(task, computed[name]).items():
            if pa.types.is_floating(values.type) or column in ("mean", "first"):
                wanted, got = alone[column].to_pylist(), values.to_pylist()
                for one, other in zip(wanted, got, strict=True):
                    assert (one is None) == (other is None)
                    if one is not None:
                        assert np.allclose(one, other, atol=1e-6)
            elif column == "mask_predictions":
                words = [
                    [[w["token"] for w in mask] for mask in row] if row is not None else None
                    for row in values.to_pylist()
                ]
                assert words == [
                    [[w["token"] for w in mask] for mask in row] if row is not None else None
                    for row in alone[column].to_pylist()
                ]
            else:
                assert values.equals(alone[column])


def test_a_row_that_does_not_fit_is_an_error_of_each_task_that_has_it(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secbatch.models.memory_patience.pause", lambda seconds, over: None)
    shared = SharedEncoder(tiny("roberta"), CPU)
    tasks = tasks_of(lambda: shared)
    for task in tasks.values():
        task.load()
    ids, usable = pa.array([str(row) for row in range(5)]), pa.array([True] * 5)
    encoded = {name: task.encode(TABLE, ids, usable) for name, task in tasks.items()}
    forward = shared._hidden
    assert forward is not None
    longest = int(max(one.sequences.lengths.max() for one in (encoded["mean"], encoded["first"])))  # type: ignore[union-attr]

    class Small:
        packed = True

        def __call__(self, sequences: TokenSequences, at: np.ndarray | None = None) -> torch.Tensor:
            if len(sequences.ids) >= longest:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(sequences, at)

    shared._hidden = shared.lm.hidden = Small()
    computed = compute_together(tasks, encoded)
    finished = {name: task.finish(computed[name]) for name, task in tasks.items()}  # type: ignore[arg-type]
    wrong = {name: sorted(columns.errors) for name, columns in finished.items()}
    assert any(wrong.values())
    for name, columns in finished.items():
        for text in columns.errors.values():
            assert f"{longest} tokens" in text, name
    assert shared.token_budget < longest


@pytest.mark.parametrize(("device", "keeps"), [("cpu", 1), ("cuda:0", 0)])
def test_memory_is_kept_for_the_next_batch_on_a_cpu(
    tiny: Tiny, device: str, keeps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bool] = []
    monkeypatch.setattr("secbatch.models.shared_encoder.keep_freed_memory", lambda: calls.append(True))
    encoder = SharedEncoder(tiny("roberta"), replace(CPU, device=device))
    encoder.load()  # nothing was asked for, so there are no weights to bring
    encoder.load()
    assert len(calls) == keeps


@pytest.mark.parametrize(("device", "remembers"), [("cpu", True), ("cuda:0", False)])
def test_vectors_are_remembered_where_computing_them_costs_more(
    tiny: Tiny, device: str, remembers: bool, tmp_path: Path
) -> None:
    spec = Embed(type="embed", model="tiny", text="text")
    encoder = SharedEncoder(tiny("roberta"), replace(CPU, device=device), tmp_path)
    assert EmbedTask("vector", spec, TABLE.schema, encoder).repeats.remembers is remembers


@pytest.mark.parametrize(
    ("problem", "sentence"),
    [
        ("shape '[-1, 4]' is invalid for input of size 11", r"a forward over a few tokens fails .shape .* size 11"),
        ("CUDA error: no kernel image is available", r"the GPU fails at a forward .*no kernel image.* device: cpu"),
        ("HIP error: invalid device function", r"the GPU fails at a forward .*invalid device.* device: cpu"),
        ("CUDA out of memory. Tried to allocate 2 MiB", r"memory runs out at a forward .*2 MiB\).*a smaller model"),
    ],
)
def test_a_model_whose_forward_fails_is_told_in_a_sentence(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, problem: str, sentence: str
) -> None:
    def refuse(self: object, *arguments: object) -> None:
        raise RuntimeError(problem)

    monkeypatch.setattr(StockEncoder, "__call__", refuse)
    encoder = SharedEncoder(tiny("distilbert"), CPU)
    encoder.need_states()
    with pytest.raises(ModelError, match=f"model distilbert: {sentence}"):
        encoder.load()


def test_memory_that_another_process_takes_after_a_model_s_first_forward_is_told_in_a_sentence(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB")

    encoder = SharedEncoder(tiny("distilbert"), CPU)
    encoder.need_states()
    encoder.load()
    monkeypatch.setattr(encoder, "_hidden", refuse)
    with pytest.raises(ModelError, match=r"model distilbert: memory runs out at a forward .*2 MiB\).*a smaller model"):
        encoder.width()


@pytest.mark.parametrize(("kind", "in_blocks"), [("roberta", True), ("modernbert", True), ("albert", False)])
def test_a_models_own_forward_gets_small_batches(tiny: Tiny, kind: str, in_blocks: bool) -> None:
    """What a large batch makes in a layer would leave the caches before the next operation wants it."""
    for head in (True, False):
        encoder = SharedEncoder(tiny(kind), CPU)
        if head:
            encoder.need_head("masked-lm")
        else:
            encoder.need_states()
        encoder.load()
        width = load_config(encoder.model).hidden_size
        assert encoder.token_budget == default_token_budget(CPU, in_blocks, width)
    assert default_token_budget(CPU, False) < default_token_budget(CPU, True)
    gpu = Compute("cuda:0", "bfloat16", "a GPU")
    assert default_token_budget(gpu, False) == default_token_budget(gpu, True)


@pytest.mark.parametrize("kind", ["longformer", "led"])
def test_a_model_that_fills_texts_up_to_its_window_gets_as_many_as_then_fit(kind: str, tmp_path: Path) -> None:
    """Of short ones a batch had as many as if they stayed short: gigabytes for a hundred of them."""
    small: dict[str, Any] = {"vocab_size": 300, "num_hidden_layers": 2, "attention_window": [16, 8]}
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 66}
    halves = {f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    config = LongformerConfig(**small, **sizes) if kind == "longformer" else LEDConfig(**small, d_model=32, **halves)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    bert_tokenizer().save_pretrained(tmp_path)
    encoder = SharedEncoder(resolved(tmp_path), CPU)
    encoder.need_states()
    encoder.load()
    encoder.token_budget = 64
    seen = []

    def consume(rows: np.ndarray, sequences: TokenSequences, states: torch.Tensor) -> Iterator[Made]:
        seen.append((len(rows), int(sequences.lengths.max())))
        return iter(())

    texts = TokenSequences.of([[7] * length for length in (3, 20, 3, 3, 2, 16, 3, 17)])
    encoder.run([Request(texts, all_states, consume)])
    assert seen == [(2, 20), (4, 16), (2, 3)]


@pytest.mark.parametrize("kind", ["bert", "modernbert", "distilbert", "electra", "mpnet"])
@pytest.mark.parametrize("head", ["SequenceClassification", "TokenClassification", "QuestionAnswering"])
def test_weights_of_layers_are_not_kept_twice(tmp_path: Path, kind: str, head: str) -> None:
    kinds: dict[str, HeadKind] = {
        "SequenceClassification": "sequence-classification",
        "TokenClassification": "token-classification",
        "QuestionAnswering": "question-answering",
    }
    encoder = SharedEncoder(resolved(make_fine_tuned(tmp_path, kind, head)), CPU)
    encoder.need_head(kinds[head])
    encoder.load()
    made: Any = encoder._heads[kinds[head]]
    linear = {
        n: m for n, m in made._model.base_model.named_modules() if type(m) is torch.nn.Linear and "pooler" not in n
    }
    assert linear and {layer.weight.device.type for layer in linear.values()} == {"meta"}
    sequences = encoder.tokenizer.encode(["a text of some words", "two"])
    with torch.inference_mode():
        own = (sequences,) if isinstance(made, SequenceHead) else ()
        logits = made.logits_of(made.states(sequences, made.wanted(sequences) if own else None), *own)
    assert bool(logits.isfinite().all())


def test_a_budget_that_is_smaller_already_stays(tiny: Tiny) -> None:
    encoder = SharedEncoder(tiny("albert"), CPU)
    encoder.token_budget = 60
    encoder.need_states()
    encoder.load()
    assert encoder.token_budget == 60


@pytest.mark.parametrize(("kind", "slower"), [("roberta", True), ("modernbert", True), ("albert", False)])
def test_compiled_attention_is_missed_where_a_model_would_go_through_it(tiny: Tiny, kind: str, slower: bool) -> None:
    shared = SharedEncoder(tiny(kind), replace(CPU, obstacle="attention is not compiled"))
    task = EmbedTask("mean", Embed(type="embed", model="tiny", text="text"), TABLE.schema, shared)
    assert task.notices == ()
    task.load()
    assert task.notices == (("attention is not compiled",) if slower else ())


def test_a_head_that_does_not_run_in_bfloat16_gets_states_in_float32(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the encoder whose states would serve it does."""

    def head(kind: Any, loaded: Any, tokenizer: Any, compute: Compute) -> Any:
        if compute.dtype == "bfloat16":
            raise FirstForwardError("no such kernel")
        return made(kind, loaded, tokenizer, compute)

    made = shared_encoder._head
    monkeypatch.setattr(shared_encoder, "_head", head)
    model, sequences = tiny("roberta"), TokenSequences.of([np.arange(5, 25), np.arange(7, 12)])
    logits = []
    for precision in ("bfloat16", "float32"):
        states = SharedEncoder(model, choose("cpu", precision))
        encoder = SharedEncoder(model, choose("cpu", precision), base=states)
        encoder.need_head("masked-lm")
        encoder.load()
        assert (states.precision, encoder.precision) == (precision, "float32")
        with torch.inference_mode():
            logits += [part for _, part in encoder.lm.logits(sequences, np.array([3, 22]))]
    assert logits[0].equal(logits[1])
