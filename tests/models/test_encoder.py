"""Encoders against the stock models, and what happens when memory runs out."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import FNetConfig, FNetForMaskedLM, FunnelConfig, FunnelModel

from secbatch.models import encoder, packed
from secbatch.models.batch_runner import BatchRunner
from secbatch.models.device import choose
from secbatch.models.encoder import MaskedLM, hidden_states
from secbatch.models.encoder_generic import StockEncoder, over_real_tokens
from secbatch.models.laid_out import LaidOut
from secbatch.models.linear import Linear, has_blocked_layers
from secbatch.models.load import LoadedModel, load_model
from secbatch.models.packed import ROWS
from secbatch.models.packed_encoder import PackedEncoder
from secbatch.models.resolved import ResolvedModel
from secbatch.models.sequences import TokenSequences
from secbatch.models.transfer import Made

CPU = choose("cpu", "float32")
Tiny = Callable[[str], ResolvedModel]
LENGTHS = (60, 41, 41, 41, 20, 7, 7, 3, 1)


def random_sequences(vocabulary: int) -> TokenSequences:
    generator = np.random.default_rng(1)
    return TokenSequences.of([generator.integers(5, vocabulary, length) for length in LENGTHS])


@pytest.mark.parametrize(
    ("kind", "is_packed"),
    [
        ("roberta", True),
        ("bert", True),
        ("electra", True),
        ("distilbert", True),
        ("modernbert", True),
        ("mpnet", True),
        ("albert", False),
    ],
)
def test_hidden_states_equal_those_of_each_sequence_alone(tiny: Tiny, kind: str, is_packed: bool) -> None:
    base = load_model(tiny(kind), "encoder", CPU).model
    sequences = random_sequences(base.config.vocab_size)
    with torch.inference_mode():
        alone = [
            base(input_ids=torch.from_numpy(sequences[row].astype(np.int64))[None])[0][0]
            for row in range(len(sequences))
        ]
    path = hidden_states(base, 0, CPU)
    assert path.packed is is_packed
    with torch.inference_mode():
        assert torch.allclose(path(sequences), torch.cat(alone), atol=1e-5, rtol=0)


@pytest.mark.skipif(not has_blocked_layers(torch.float32), reason="torch lays out no weights here")
@pytest.mark.parametrize("fits", [True, False])
def test_a_model_without_a_path_of_its_own_gets_the_layout_where_it_gives_the_same(
    tiny: Tiny, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, kept = (load_model(tiny("albert"), "encoder", CPU).model for _ in range(2))
    if not fits:
        forward = LaidOut.forward
        monkeypatch.setattr(LaidOut, "forward", lambda self, x: forward(self, x).flip(-1))
    path, sequences = hidden_states(base, 0, CPU), random_sequences(base.config.vocab_size)
    assert {type(m) for m in base.modules()} & {torch.nn.Linear, LaidOut} == {LaidOut if fits else torch.nn.Linear}
    with torch.inference_mode():
        wanted = StockEncoder(kept, 0, "cpu", pad=True)(sequences)
        assert torch.allclose(path(sequences), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("block", [1, packed.BLOCK_TOKENS])
def test_a_padding_token_amid_a_text_stands_where_the_model_puts_it(
    tiny: Tiny, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tokenizer of another kind, a token of ordinary text can have the number that RoBERTa's padding has."""
    monkeypatch.setattr(packed, "BLOCK_TOKENS", block)
    base = load_model(tiny("roberta"), "encoder", CPU).model
    path = hidden_states(base, 0, CPU)
    assert path.packed and base.config.pad_token_id == 1
    rows = [[0, 5, 1, 6, 1, 1, 7, 2], [0, 1, 9, 2], [1, 1, 1], [0, 5, 2], [1]]
    with torch.inference_mode():
        alone = [base(input_ids=torch.tensor([row]), attention_mask=torch.ones(1, len(row)))[0][0] for row in rows]
        assert torch.allclose(path(TokenSequences.of(rows)), torch.cat(alone), atol=1e-5, rtol=0)


def test_texts_too_short_for_an_architecture_are_padded() -> None:
    torch.manual_seed(0)
    heads = {"d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64, "block_sizes": [1, 1, 1]}
    base = FunnelModel(FunnelConfig(vocab_size=50, **heads)).eval()
    short = torch.tensor([[3, 4, 5]])
    with torch.inference_mode(), pytest.raises(RuntimeError, match="shape"):
        base(input_ids=short)
    path = hidden_states(base, 0, CPU)
    long = list(range(5, 30))
    with torch.inference_mode():
        got = path(TokenSequences.of([long, short[0].tolist()]))
        filled = F.pad(short, (0, 5))
        wanted = base(input_ids=filled, attention_mask=(filled > 0).long())[0][0, :3]
        assert torch.allclose(got[:25], base(input_ids=torch.tensor([long]))[0][0], atol=1e-5, rtol=0)
    assert torch.allclose(got[25:], wanted, atol=1e-5, rtol=0)
    assert path.packed  # padding disturbs the others


@pytest.mark.parametrize("pad", [True, False])
def test_short_batches_of_such_an_architecture(pad: bool) -> None:
    def forward(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if ids.shape[1] < 5:
            raise RuntimeError("nothing is left")
        return (ids * mask)[:, :, None].float()

    sequences = TokenSequences.of([[4, 5, 6], [7, 8], [9]])
    assert over_real_tokens(forward, sequences, 0, "cpu", pad)[:, 0].tolist() == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("layers", range(4))
def test_every_layer_of_the_fast_path_equals_the_stock_layer(tiny: Tiny, layers: int) -> None:
    """Cut after so many layers, both give the same: an error in one layer cannot hide behind another."""
    for kind in ("roberta", "modernbert"):
        base = load_model(tiny(kind), "encoder", CPU).model
        stack = base.encoder.layer if kind == "roberta" else base.layers
        del stack[max(layers, 1) :]
        path = encoder._fast_path(base, "cpu")
        assert path is not None
        sequences = random_sequences(base.config.vocab_size)
        with torch.inference_mode():
            got, wanted = path(sequences), StockEncoder(base, 0, "cpu", pad=False)(sequences)
        assert torch.allclose(got, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["roberta", "bert", "modernbert"])
@pytest.mark.parametrize("block", [1, 40, 96, 150])
def test_blocks_of_any_size_give_the_same_bits(
    tiny: Tiny, kind: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_model(tiny(kind), "encoder", CPU).model
    path = hidden_states(base, 0, CPU)
    sequences = random_sequences(base.config.vocab_size)
    types = np.arange(len(sequences.ids), dtype=np.int32) % 2 if kind == "bert" else None
    sequences = TokenSequences(sequences.ids, sequences.offsets, types)
    places = np.array([0, 59, 60, 61, 100, 101, 219, 220])  # ends and starts of sequences among them
    with torch.inference_mode():
        whole, some = path(sequences), path(sequences, places)
        monkeypatch.setattr(packed, "BLOCK_TOKENS", block)
        assert len(packed.blocks(sequences, "cpu")) > 1
        got, chosen, none = path(sequences), path(sequences, places), path(sequences, places[:0])
    if path.batch_free:
        assert torch.equal(got, whole) and torch.equal(chosen, some)
    assert torch.allclose(got, whole, atol=1e-5, rtol=0) and torch.allclose(chosen, some, atol=1e-5, rtol=0)
    assert torch.allclose(chosen, whole[places], atol=1e-5, rtol=0)
    assert none.shape == (0, whole.shape[1])


def test_a_model_that_the_fast_path_gets_wrong_takes_the_stock_one(tiny: Tiny) -> None:
    base = load_model(tiny("roberta"), "encoder", CPU).model
    base.encoder.layer[1].intermediate.intermediate_act_fn = torch.nn.ReLU()  # the fast path reads layer 0's
    sequences = random_sequences(base.config.vocab_size)
    path = hidden_states(base, 1, CPU)
    assert not path.packed
    with torch.inference_mode():
        wanted = StockEncoder(base, 1, "cpu", pad=False)(sequences)
        assert torch.allclose(path(sequences), wanted, atol=1e-5, rtol=0)


def test_an_architecture_that_padding_disturbs_is_not_padded() -> None:
    """FNet mixes all positions, padding among them."""
    torch.manual_seed(0)
    config = FNetConfig(vocab_size=120, hidden_size=32, num_hidden_layers=2, intermediate_size=64)
    lm = MaskedLM(LoadedModel(FNetForMaskedLM(config).eval(), config), 3, CPU)
    assert lm.packed
    sequences, positions = random_sequences(120), np.array([0, 70, 150])
    with torch.inference_mode():
        (got,) = [logits for _, logits in lm.logits(sequences, positions)]
        rows = [torch.from_numpy(sequences[row].astype(np.int64))[None] for row in range(len(sequences))]
        wanted = torch.cat([lm._model(input_ids=row).logits[0] for row in rows])[positions]
    assert torch.allclose(got, wanted, atol=1e-5)


def test_logits_of_chosen_positions(tiny: Tiny) -> None:
    for kind in ("roberta", "bert", "modernbert", "distilbert", "electra", "mpnet", "albert"):
        loaded = load_model(tiny(kind), "masked-lm", CPU)
        lm = MaskedLM(loaded, 0, CPU)
        sequences = random_sequences(lm.vocabulary)
        positions = np.array([0, 59, 60, 120, len(sequences.ids) - 1])
        with torch.inference_mode():
            parts = list(lm.logits(sequences, positions))
            whole = torch.cat(
                [
                    loaded.model(input_ids=torch.from_numpy(sequences[row].astype(np.int64))[None]).logits[0]
                    for row in range(len(sequences))
                ]
            )
        assert torch.allclose(torch.cat([logits for _, logits in parts]), whole[positions], atol=2e-4, rtol=1e-5)


def test_a_head_that_does_not_stand_alone_falls_back_to_full_logits(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(tiny("albert"), "masked-lm", CPU)
    reference = MaskedLM(loaded, 0, CPU)

    def refuse(self: object, hidden: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("the head wants a sequence")

    sequences, positions = random_sequences(reference.vocabulary), np.array([1, 100])
    with torch.inference_mode():
        wanted = torch.cat([logits for _, logits in reference.logits(sequences, positions)])
        for head in (encoder.MaskedLMHead, encoder.PackedMaskedLMHead):
            monkeypatch.setattr(head, "__call__", refuse)
        fallback = MaskedLM(loaded, 0, CPU)
        assert fallback.hidden is None and reference.hidden is not None
        got = torch.cat([logits for _, logits in fallback.logits(sequences, positions)])
    assert not fallback.packed
    assert torch.allclose(got, wanted, atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize(
    "problem",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("could not create a primitive"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        MemoryError("Unable to allocate 1.5 GiB for an array"),
    ],
)
def test_running_out_of_memory_halves_the_budget_and_goes_on(
    problem: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secbatch.models.memory_patience.pause", lambda seconds, over: None)
    sequences = TokenSequences.of([[1] * length for length in (50, 30, 20, 20, 10, 10, 5)])
    runner = BatchRunner(CPU, token_budget=100)
    done = np.zeros(7)

    def work(rows: np.ndarray, batch: TokenSequences) -> Iterator[Made]:
        if len(batch.ids) > 40:
            raise problem
        yield Made(done, rows, torch.ones(len(rows)))

    report = runner.run(sequences, False, work)
    assert done.tolist() == [0, 1, 1, 1, 1, 1, 1]
    assert report.errors == {0: f"the text has 50 tokens, more than the memory of {CPU.description} takes at once"}
    assert report.tokens == 95 and runner.token_budget == 25


def test_half_of_what_ran_out_of_memory_is_half_of_what_the_model_fills_it_up_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("secbatch.models.memory_patience.pause", lambda seconds, over: None)
    runner = BatchRunner(CPU, token_budget=160)
    runner.multiple = 16
    done = np.zeros(12)

    def work(rows: np.ndarray, batch: TokenSequences) -> Iterator[Made]:
        if len(rows) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        yield Made(done, rows, torch.ones(len(rows)))

    report = runner.run(TokenSequences.of([[1, 2]] * 12), True, work)
    assert done.all() and not report.errors
    assert runner.token_budget == 80


@pytest.mark.parametrize("lasting", [False, True])
def test_memory_that_another_takes_for_a_moment_costs_a_moment(lasting: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is larger than all that went through is blamed at once."""
    pauses: list[float] = []
    monkeypatch.setattr("secbatch.models.memory_patience.pause", lambda seconds, over: pauses.append(seconds))
    sequences = TokenSequences.of([[1] * length for length in (60, 50, 30, 20, 20, 10, 10, 5)])
    runner = BatchRunner(CPU, token_budget=60)
    done = np.zeros(8)

    def work(rows: np.ndarray, batch: TokenSequences) -> Iterator[Made]:
        if len(batch.ids) > 55 or (30 in batch.lengths and (lasting or len(pauses) < 3)):
            raise torch.OutOfMemoryError("CUDA out of memory")
        yield Made(done, rows, torch.ones(len(rows)))

    report = runner.run(sequences, False, work)
    assert done.tolist() == [0, 1, not lasting, 1, 1, 1, 1, 1]
    assert sorted(report.errors) == ([0, 2] if lasting else [0])
    # and the longest row, which never had room, for a few seconds at the end
    doubled = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    assert pauses == (doubled if lasting else [0.25, 0.5, 1.0, *doubled[:4]])
    assert runner.token_budget == (25 if lasting else 60)


def test_a_row_without_tokens_has_its_reason_and_goes_into_no_batch() -> None:
    sequences = TokenSequences.of([[], [1, 2], [], [1]])
    seen: list[list[int]] = []

    def work(rows: np.ndarray, batch: TokenSequences) -> list[Made]:
        seen.append(rows.tolist())
        return []

    report = BatchRunner(CPU).run(sequences, False, work)
    assert seen == [[1, 3]]
    assert report.errors == dict.fromkeys([0, 2], "the tokenizer leaves nothing of the text")
    assert BatchRunner(CPU).run(sequences.select(np.array([0, 2])), True, work).tokens == 0


def test_another_error_is_no_lack_of_memory() -> None:
    def work(rows: np.ndarray, batch: TokenSequences) -> list[Made]:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        BatchRunner(CPU).run(TokenSequences.of([[1]]), False, work)


def test_padding_is_counted() -> None:
    sequences = TokenSequences.of([[1] * 4, [1] * 2, [1]])
    report = BatchRunner(CPU).run(sequences, True, lambda rows, batch: ())
    assert (report.tokens, report.padding) == (7, 5)


@pytest.mark.parametrize("kind", ["roberta", "bert", "modernbert", "distilbert", "electra", "mpnet", "albert"])
def test_chosen_positions_have_the_states_that_they_have_among_all(tiny: Tiny, kind: str) -> None:
    base = load_model(tiny(kind), "encoder", CPU).model
    path = hidden_states(base, 0, CPU)
    sequences = random_sequences(base.config.vocab_size)
    at = np.array([0, 59, 60, 61, 150, len(sequences.ids) - 1])
    with torch.inference_mode():
        assert torch.allclose(path(sequences, at), path(sequences)[torch.from_numpy(at)], atol=1e-6, rtol=0)


def test_a_batch_of_numbers_goes_through_once(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    base = load_model(tiny("roberta"), "encoder", CPU).model
    path, sequences = hidden_states(base, 0, CPU), random_sequences(base.config.vocab_size)
    assert isinstance(path, PackedEncoder)
    passes, states = [], path._states
    monkeypatch.setattr(path, "_states", lambda parts, at: passes.append(1) or states(parts, at))
    with torch.inference_mode():
        path(sequences), path(sequences, sequences.offsets[:-1])
    assert len(passes) == 2


@pytest.mark.parametrize("kind", ["roberta", "bert", "modernbert", "distilbert", "electra", "mpnet"])
def test_logits_of_a_sequence_are_the_same_bits_in_any_batch(tiny: Tiny, kind: str) -> None:
    """What a text was given once may stand for every other row with that text: nothing hangs on its neighbours."""
    if not has_blocked_layers(torch.float32):
        pytest.skip("this build of torch has no blocked linear layers")
    loaded = load_model(tiny(kind), "masked-lm", CPU)
    lm = MaskedLM(loaded, 0, CPU)
    sequences = random_sequences(loaded.config.vocab_size)
    firsts = sequences.offsets[:-1]
    with torch.inference_mode():
        together = torch.cat([logits for _, logits in lm.logits(sequences, firsts)])
        for row in range(len(sequences)):
            alone = sequences.select(np.array([row]))
            (got,) = [logits for _, logits in lm.logits(alone, np.array([0]))]
            assert torch.equal(got[0], together[row])


@pytest.mark.parametrize("kind", ["roberta", "bert", "modernbert"])
def test_products_see_few_numbers_of_rows(tiny: Tiny, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN keeps memory for each number of rows that it meets: whatever the batches are, those are few."""
    seen: set[int] = set()
    call, plus = Linear.__call__, Linear.plus

    def counted_call(layer: Linear, x: torch.Tensor) -> torch.Tensor:
        seen.add(len(x))
        return call(layer, x)

    def counted_plus(layer: Linear, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        seen.add(len(x))
        return plus(layer, x, residual)

    model = MaskedLM(load_model(tiny(kind), "masked-lm", CPU), 0, CPU)
    monkeypatch.setattr(Linear, "__call__", counted_call)
    monkeypatch.setattr(Linear, "plus", counted_plus)
    generator = np.random.default_rng(2)
    for count in range(1, 12):
        lengths = sorted(generator.integers(1, 30, count), reverse=True)
        sequences = TokenSequences.of([generator.integers(5, model.vocabulary, length) for length in lengths])
        list(model.logits(sequences, np.arange(0, len(sequences.ids), 3)))
    assert seen <= {ROWS * many for many in range(1, 12)}
