"""What a GPU would refuse or wait for, found without one; see pretended_gpu.py. On a real one: tests/cuda."""

import gc
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from subprocess import SubprocessError
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pretended_gpu import Gpu, pretended_gpu
from pydantic import TypeAdapter
from test_generation import answers, blenderbot, generator, llama, rows, t5
from test_generation_trial import translator
from tiny_models import BLENDERBOT, SENTENCES

from secbatch.comparison.hidden_words import _losses, hide, mask
from secbatch.errors import ModelError
from secbatch.models import (
    generation_attention,
    generation_blenderbot,
    kernel_refusals,
    memory_patience,
    packed_attention,
    sum_norm,
)
from secbatch.models.batch_runner import BatchRunner
from secbatch.models.device import Compute, choose
from secbatch.models.encoder_generic import StockEncoder
from secbatch.models.generation_beams import BeamLoop
from secbatch.models.generation_blenderbot import BlenderbotDecoder, BlenderbotSteps
from secbatch.models.generation_loop import LOOK_EVERY, Loop
from secbatch.models.generation_steps import DecoderSteps, EncoderDecoderSteps
from secbatch.models.generation_tokens import TokenLoop
from secbatch.models.load import load_model
from secbatch.models.masked_lm_head_packed import WORDS, PackedMaskedLMHead
from secbatch.models.nearest import NearestRows
from secbatch.models.packed import blocks
from secbatch.models.resolved import ResolvedModel
from secbatch.models.sequences import TokenSequences
from secbatch.models.shared_encoder import SharedEncoder
from secbatch.models.transfer import on_device
from secbatch.task_specs import Generation, TaskSpec
from secbatch.tasks.encoder_task import compute_together
from secbatch.tasks.registry import Encoders, build_task

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real GPU: tests/cuda")
Tiny = Callable[[str], ResolvedModel]
CHAT = {
    "Blenderbot's ten beams": (blenderbot, BLENDERBOT, {}),
    "Blenderbot, greedy": (blenderbot, BLENDERBOT, {"num_beams": 1}),
    "a decoder": (llama, {}, {"max_new_tokens": 8}),
    "text to text, with beams": (t5, {}, {"max_new_tokens": 8, "num_beams": 2}),
    "a smaller vocabulary of answers": (translator, {}, {"max_new_tokens": 8}),
}
# transformers asks at each forward whether a mask hides anything, and makes empty tensors of its caches on the host.
THEIR_OWN = ("(masking_utils.py", "(cache_utils.py")
TASKS: dict[str, dict[str, Any]] = {
    "words": {"type": "fill-mask", "top_k": 3},
    "some": {"type": "fill-mask", "targets": ["server", "host", "files"]},
    "vector": {"type": "embed"},
    "topic": {"type": "classify", "labels": {"a": ["server", "host"], "b": "files"}, "template": "{text}: <mask>"},
}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    monkeypatch.setattr(memory_patience, "PAUSE", 0.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for operators so small
    known = packed_attention.has_flash_attention, packed_attention._short_attention, generation_attention._own
    with pretended_gpu(count=2) as gpu:
        yield gpu
    torch.set_num_threads(threads)
    for one in known:  # what it said of the pretended one
        one.cache_clear()


def fails_at(gpu: Gpu, *numbers: int) -> None:
    """Of the allocations from now on, these have no memory."""
    begin = gpu.allocations

    def fail(number: int) -> None:
        if number - begin in numbers:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    gpu.before_allocation = fail


def kept_at_each_return(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Is filled with what is in use, beside what is now, whenever torch gives the GPU's memory back."""
    gc.collect()
    before, kept = gpu.bytes_in_use(), []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: kept.append(gpu.bytes_in_use() - before))
    return kept


def ours(waits: Counter[str]) -> list[str]:
    return [line for line in waits if not any(theirs in line for theirs in THEIR_OWN)]


@pytest.mark.parametrize("case", CHAT)
def test_answers_are_those_of_the_cpu_and_only_looks_wait(case: str, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    build, generation, job = CHAT[case]
    model, settings = build(**generation), Generation.model_validate(job)
    asked = rows(model, 8)
    expected = answers(model, settings, asked)
    assert not gpu.launches
    taken, waits = Counter[str](), Counter[str]()

    def watched(kind: type, name: str) -> None:
        function = getattr(kind, name)

        def watching(self: Any, *arguments: Any) -> Any:
            before = gpu.waits.copy()
            try:
                return function(self, *arguments)
            finally:
                taken[name] += 1
                if name != "_collect":
                    waits.update(gpu.waits - before)

        monkeypatch.setattr(kind, name, watching)

    for loop in (BeamLoop, TokenLoop):
        watched(loop, "choose")
    for steps in (BlenderbotSteps, DecoderSteps, EncoderDecoderSteps):
        watched(steps, "step")
    watched(Loop, "_collect")
    monkeypatch.setattr(generation_blenderbot, "STEPS_AHEAD", 60)  # room for all
    model = model.cuda()
    made = generator(model, settings)
    taken.clear(), waits.clear(), gpu.waits.clear()
    assert [answer.tokens for answer in made.generate(asked).answers] == expected
    assert not ours(waits)
    assert taken["choose"] >= 8 and taken["_collect"] <= taken["choose"] / LOOK_EVERY["cuda"] + 1
    assert not [line for line in ours(gpu.waits) if line.endswith(("__bool__", "__int__"))]  # as it begins


def test_rows_that_enter_and_leave_and_larger_caches_change_no_answer(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation_blenderbot, "FEWEST_SEQUENCES", 2)
    monkeypatch.setattr(generation_blenderbot, "SLOTS_AT_A_TIME", 4)
    model = blenderbot(**BLENDERBOT)
    asked, settings = rows(model, 12), Generation(num_beams=2)
    expected = answers(model, settings, asked)
    assert answers(model.cuda(), settings, asked, budget=600) == expected


@pytest.mark.parametrize("case", ["Blenderbot, greedy", "a decoder"])
def test_a_batch_that_has_no_memory_leaves_nothing_behind(case: str, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    build, generation, job = CHAT[case]
    model, settings = build(**generation), Generation.model_validate(job)
    asked = rows(model, 8)
    expected = answers(model, settings, asked)
    made = generator(model.cuda(), settings)
    kept = kept_at_each_return(gpu, monkeypatch)
    fails_at(gpu, 2, 150, 700)  # as it begins, in what is recorded or read, and between steps
    assert [answer.tokens for answer in made.generate(asked).answers] == expected
    assert len(kept) == 3 and max(kept) < 1000


def test_a_recording_without_memory_is_made_again(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    model = blenderbot(**BLENDERBOT)
    asked, settings = rows(model, 8), Generation(num_beams=1)
    expected = answers(model, settings, asked)
    made, layers, failed = generator(model.cuda(), settings), BlenderbotSteps._layers, []

    def cramped(self: Any, *inputs: torch.Tensor) -> torch.Tensor:
        if torch.cuda.is_current_stream_capturing() and not failed:
            failed.append(len(inputs[0]))
            fails_at(gpu, 5)
        return layers(self, *inputs)

    monkeypatch.setattr(BlenderbotSteps, "_layers", cramped)
    kept = kept_at_each_return(gpu, monkeypatch)
    assert [answer.tokens for answer in made.generate(asked).answers] == expected
    assert failed == [8] and len(kept) == 1 and kept[0] < 1000


def columns(model: ResolvedModel, compute: Compute, gpu: Gpu) -> dict[str, list[Any]]:
    """What TASKS make of some texts, in batches of few tokens. The waits are those of the batches alone."""
    table = pa.table({"text": [f"{text} The <mask> was {number}." for number, text in enumerate(SENTENCES * 3)]})
    encoders, specs = Encoders(None), TypeAdapter(TaskSpec)
    tasks: dict[str, Any] = {}
    for name, keys in TASKS.items():
        spec = specs.validate_python({"model": model.name, "text": "text", **keys})
        tasks[name] = build_task(name, spec, table.schema, model, compute, encoders)
    for task in tasks.values():
        task.load()
    tasks["words"].encoder.token_budget = 200
    ids, usable = pa.array(map(str, range(len(table)))), pa.array([True] * len(table))
    encoded = {name: task.encode(table, ids, usable) for name, task in tasks.items()}
    gpu.waits.clear()
    computed = compute_together(tasks, encoded)
    waits = gpu.waits.copy()
    landed = {name: one.land() if compute.device != "cpu" else one for name, one in computed.items()}
    gpu.waits = waits
    made = {name: task.finish(landed[name]) for name, task in tasks.items()}
    assert not any(one.errors for one in made.values())
    return {key: column.to_pylist() for one in made.values() for key, column in one.columns.items()}


def same(got: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return all(same(got[key], value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return len(got) == len(wanted) and all(map(same, got, wanted))
    return bool(abs(got - wanted) < 1e-4) if isinstance(wanted, float) else got == wanted


@pytest.mark.parametrize(("kind", "padded"), [("roberta", False), ("mpnet", True)])
def test_encoders_give_what_they_give_on_the_cpu_and_no_batch_waits(
    kind: str, padded: bool, tiny: Tiny, gpu: Gpu
) -> None:
    """MPNet is padded on a GPU."""
    expected = columns(tiny(kind), choose("cpu", "float32"), gpu)
    assert not gpu.launches
    assert same(columns(tiny(kind), choose("cuda", "float32"), gpu), expected)
    assert (ours(gpu.waits) if padded else list(gpu.waits)) == []


def test_a_vocabulary_has_rows_that_kernels_read_quickly(tiny: Tiny, gpu: Gpu) -> None:
    model, on_gpu = (
        load_model(tiny("roberta"), "masked-lm", choose(device, "float32")).model for device in ("cpu", "cuda")
    )
    words, states = model.config.vocab_size, torch.randn(5, model.config.hidden_size)
    with torch.inference_mode():
        wanted = PackedMaskedLMHead(model)(states)
        head = PackedMaskedLMHead(on_gpu)
        got = head(states.cuda())
        assert head._vocabulary(states.cuda()).shape == (5, -(-words // WORDS) * WORDS)
    assert words % WORDS and got.shape == wanted.shape
    assert torch.allclose(got.cpu(), wanted, atol=1e-5)


def test_a_vocabulary_without_room_for_a_second_one_is_taken_as_it_is(tiny: Tiny, gpu: Gpu) -> None:
    model = load_model(tiny("roberta"), "masked-lm", choose("cuda", "float32")).model
    states = torch.randn(5, model.config.hidden_size).cuda()
    with torch.inference_mode():
        wanted = PackedMaskedLMHead(model)(states)
        fails_at(gpu, 1)
        head = PackedMaskedLMHead(model)
        assert torch.allclose(head(states).cpu(), wanted.cpu(), atol=1e-5)
        assert head._vocabulary(states).shape == wanted.shape


@pytest.mark.parametrize("kind", ["roberta", "mpnet"])
def test_an_encoder_s_batch_without_memory_leaves_nothing_behind(
    kind: str, tiny: Tiny, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = columns(tiny(kind), choose("cpu", "float32"), gpu)
    run, kept = BatchRunner.run, list[int]()

    def cramped(*arguments: Any) -> Any:
        nonlocal kept
        kept = kept_at_each_return(gpu, monkeypatch)
        fails_at(gpu, 3, 40, 300)
        return run(*arguments)

    monkeypatch.setattr(BatchRunner, "run", cramped)
    assert same(columns(tiny(kind), choose("cuda", "float32"), gpu), expected)
    assert len(kept) == 3 and max(kept) <= 0


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
def test_numbers_travel_as_they_are_and_only_the_calling_thread_copies_them(
    device: str, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", raising(AssertionError("all cores copy")))
    table = np.arange(30, dtype=np.int32).reshape(5, 6)
    for numbers in (table, table[::2, 1::2], table.T, table[:0], np.array([True, False]), np.float32([[0.5]])):
        there = on_device(numbers, device)
        assert there.device == gpu.settled(device) and not gpu.waits
        back = there.cpu().numpy()
        gpu.waits.clear()
        assert back.dtype == numbers.dtype and back.shape == numbers.shape and np.array_equal(back, numbers)


def test_nearest_rows_are_those_of_the_cpu_where_memory_is_short(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(1)
    matrix, vectors = draw.random((300, 8), np.float32), draw.random((40, 8), np.float32)
    expected = NearestRows(matrix, "cpu", (70, 16)).best(vectors, 5)
    kept = kept_at_each_return(gpu, monkeypatch)
    fails_at(gpu, 2)
    scores, places = NearestRows(matrix, "cuda:0", (70, 16)).best(vectors, 5)
    assert np.array_equal(places, expected[1]) and np.allclose(scores, expected[0], atol=1e-6)
    assert len(kept) == 1 and kept[0] < 10_000


def test_a_kernel_of_ours_runs_on_the_gpu_of_its_operands(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    ran_on: list[int] = []

    def kernel(qkv: torch.Tensor, bounds: torch.Tensor, longest: int) -> torch.Tensor:
        assert bounds.device == qkv.device and longest == 3
        ran_on.append(torch.cuda.current_device())
        return qkv[:, 0].clone()

    monkeypatch.setattr(packed_attention, "short_attention", lambda *_: kernel)
    (block,) = blocks(TokenSequences.of([[5, 6, 7], [8, 9]]), "cuda:1")
    qkv = torch.ones(len(block.ids), 3, 2, 8).to("cuda:1")
    assert packed_attention.attend(qkv, block).device == torch.device("cuda:1")
    assert ran_on == [1] and torch.cuda.current_device() == 0


class TritonError(Exception):
    """Stands in for that of Triton, which is not there without a GPU."""


def kernel_of_sums(x: torch.Tensor, residual: torch.Tensor, *others: Any) -> torch.Tensor:
    weight, bias, eps = others
    return torch.nn.functional.layer_norm(x + residual, (x.shape[1],), weight, bias, eps)


@pytest.fixture
def sum_kernel(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Stands in for the kernel that norms sums, which nobody has tried yet."""
    kernel = SimpleNamespace(WIDEST=64, norm_of_sum=kernel_of_sums)
    monkeypatch.setattr(kernel_refusals, "_mendable", [])
    for name, module in {"triton": SimpleNamespace(TritonError=TritonError), "sum_norm_kernel": kernel}.items():
        monkeypatch.setitem(sys.modules, name if name == "triton" else f"secbatch.models.{name}", module)
        monkeypatch.setattr(f"secbatch.models.{name}", module, raising=False)
    sum_norm._kernel.cache_clear()
    yield kernel
    sum_norm._kernel.cache_clear()


def test_sums_are_normed_on_the_gpu_of_their_operands(sum_kernel: SimpleNamespace) -> None:
    ran_on: list[int] = []

    def noting(*operands: Any) -> torch.Tensor:
        ran_on.append(torch.cuda.current_device())
        return kernel_of_sums(*operands)

    sum_kernel.norm_of_sum = noting
    weight = torch.linspace(1, 2, 16, dtype=torch.bfloat16).to("cuda:1")
    in_one_pass = sum_norm.sum_norm(weight)
    assert in_one_pass is not None
    x = torch.randn(3, 16).bfloat16().to("cuda:1")
    got = in_one_pass(x, x, weight, weight, 1e-5)
    assert got.device == torch.device("cuda:1") and ran_on == [1, 1] and torch.cuda.current_device() == 0


def test_sums_go_torch_s_way_where_no_kernel_is_right(
    sum_kernel: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weight(width: int = 16, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.ones(width, dtype=dtype, device="cuda")

    assert sum_norm.sum_norm(weight(dtype=torch.float32)) is None
    assert sum_norm.sum_norm(weight(65)) is None and sum_norm.sum_norm(weight(64)) is not None
    sum_kernel.norm_of_sum = lambda x, *others: kernel_of_sums(x, *others) + 1
    assert sum_norm.sum_norm(weight(48)) is None
    sum_kernel.norm_of_sum = raising(OSError("no C compiler"))
    assert sum_norm.sum_norm(weight(32)) is None
    sum_kernel.norm_of_sum = raising(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        sum_norm.sum_norm(weight(24))
    sum_kernel.norm_of_sum = kernel_of_sums
    assert sum_norm.sum_norm(weight(24)) is not None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    assert sum_norm.sum_norm(weight(20)) is None


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (OSError(30, "Read-only file system", "/home/nightly/.triton"), "Read-only file system"),
        (ImportError("failed to map segment from shared object"), "failed to map segment"),
        (SubprocessError("gcc ends with 1"), "gcc ends with 1"),
        (RuntimeError("Failed to find C compiler"), "Failed to find C compiler"),
        (AssertionError("libcuda.so cannot found!"), "libcuda.so cannot found!"),
        (TritonError("out of resource: shared memory"), ""),  # nobody can mend that
        (RuntimeError("CUDA error: invalid argument"), ""),
    ],
)
def test_a_kernel_that_is_not_compiled_is_no_fault_of_the_model_and_what_can_be_mended_is_said(
    sum_kernel: SimpleNamespace, tiny: Tiny, problem: Exception, told: str
) -> None:
    sum_kernel.norm_of_sum = raising(problem)
    encoder = SharedEncoder(tiny("roberta"), choose("cuda", "bfloat16"))
    encoder.need_states()
    encoder.load()
    assert encoder.precision == "bfloat16"
    assert [told in notice and "TRITON_CACHE_DIR" in notice for notice in encoder.notices] == [True] * bool(told)


def test_what_is_told_of_a_kernel_holds_no_memory(sum_kernel: SimpleNamespace, gpu: Gpu) -> None:
    def without_a_compiler(*_: Any) -> torch.Tensor:
        raise OSError("no gcc")

    sum_kernel.norm_of_sum = without_a_compiler
    before = gpu.bytes_in_use()
    assert sum_norm.sum_norm(torch.ones(16, dtype=torch.bfloat16, device="cuda")) is None
    gc.collect()
    assert "no gcc" in kernel_refusals.obstacle() and gpu.bytes_in_use() == before


@pytest.mark.parametrize("within", [True, False])
def test_attention_that_is_not_compiled_goes_torch_s_way_and_is_told_at_once(
    within: bool, sum_kernel: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = SimpleNamespace(LONGEST=128, attend=raising(AssertionError("libcuda.so cannot found!")))
    for module in ("packed_attention_kernel", "generation_attention_kernel"):
        monkeypatch.setitem(sys.modules, f"secbatch.models.{module}", kernel)
        monkeypatch.setattr(f"secbatch.models.{module}", kernel, raising=False)
    packed_attention._short_attention.cache_clear()
    generation_attention._own.cache_clear()
    if within:
        assert packed_attention.short_attention(torch.device("cuda:0"), torch.bfloat16, 16, 27) is None
    else:
        decoder = BlenderbotDecoder(blenderbot().to("cuda", torch.bfloat16))
        assert "libcuda.so" in kernel_refusals.obstacle()
        assert BlenderbotSteps(decoder, 1, 0, 9).attention is generation_attention.by_torch
    assert "libcuda.so" in kernel_refusals.obstacle()


def raising(problem: Exception) -> Callable[..., torch.Tensor]:
    def kernel(*_: Any) -> torch.Tensor:
        raise problem

    return kernel


def test_a_lack_of_memory_says_nothing_of_a_kernel(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = torch.device("cuda:0"), torch.bfloat16, 16

    def without_memory(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def right(qkv: torch.Tensor, bounds: torch.Tensor, longest: int, window: int | None) -> torch.Tensor:
        ends = bounds.tolist()
        groups = tuple((first, 1, end - first) for first, end in pairwise(ends))
        return packed_attention.attend_by_groups(qkv, groups, window, True)

    monkeypatch.setattr(packed_attention, "flash_attention", without_memory)
    with pytest.raises(torch.OutOfMemoryError):
        packed_attention.has_flash_attention(*asked)
    monkeypatch.setattr(packed_attention, "flash_attention", right)
    assert packed_attention.has_flash_attention(*asked)


def test_our_kernels_are_not_compiled_for_gpus_without_bfloat16(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    def right(qkv: torch.Tensor, bounds: torch.Tensor, longest: int) -> torch.Tensor:
        groups = tuple((first, 1, end - first) for first, end in pairwise(bounds.tolist()))
        return packed_attention.attend_by_groups(qkv, groups, None, True)

    def over_cache(*inputs: torch.Tensor) -> torch.Tensor:
        return generation_attention.by_torch(*inputs)

    kernels = {
        "triton": SimpleNamespace(TritonError=RuntimeError),
        "secbatch.models.packed_attention_kernel": SimpleNamespace(LONGEST=128, attend=right),
        "secbatch.models.generation_attention_kernel": SimpleNamespace(attend=over_cache),
    }
    for name, kernel in kernels.items():
        monkeypatch.setitem(sys.modules, name, kernel)
        monkeypatch.setattr("secbatch.models." + name.rpartition(".")[2], kernel, raising=False)
    for capability, ours in (((9, 0), True), ((7, 5), False)):
        for known in (packed_attention._short_attention, generation_attention._own):
            known.cache_clear()
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_, found=capability: found)
        asked = torch.device("cuda:0"), torch.bfloat16, 16
        assert (packed_attention.short_attention(*asked, 27) is right) is ours
        assert (generation_attention.attention(*asked) is over_cache) is ours


def test_hidden_words_are_measured_without_a_wait(tiny: Tiny, gpu: Gpu) -> None:
    found = []
    for device in ("cpu", "cuda"):
        encoder = SharedEncoder(tiny("roberta"), choose(device, "float32"))
        encoder.need_head("masked-lm")
        encoder.load()
        masked = mask([hide(text, 3) for text in SENTENCES], encoder.tokenizer)
        gpu.waits.clear()
        losses, errors = _losses(encoder, masked)
        assert not errors and not gpu.waits
        found.append(losses)
    assert found[0].all() and np.allclose(*found, atol=1e-4)


def test_prompts_that_go_alone_are_not_compiled_for(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU transformers would, where a model's own settings ask for a cache of fixed size."""
    model = llama(typical_p=0.9, cache_implementation="static")
    asked, settings = rows(model, 3), Generation(max_new_tokens=4)
    expected = answers(model, settings, asked)
    compiled: list[str] = []

    def compiled_call(self: Any, _: Any) -> Any:
        compiled.append(type(self).__name__)
        return self.__call__

    monkeypatch.setattr(type(model), "get_compiled_call", compiled_call)
    assert answers(model.cuda(), settings, asked) == expected
    assert not compiled


def test_weights_without_memory_are_told_in_a_sentence(tiny: Tiny, gpu: Gpu) -> None:
    fails_at(gpu, 2)
    sentence = r"model bert: memory runs out on Pretended GPU \(cuda:1\) for its weights .*GiB"
    with pytest.raises(ModelError, match=sentence):
        load_model(tiny("bert"), "encoder", choose("cuda:1", "float32"))


@pytest.mark.parametrize("kind", ["roberta", "mpnet"])
def test_models_are_tried_with_products_that_round_once(
    kind: str, tiny: Tiny, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that what a GPU makes of few rows is not taken for what a model lets in of its padding."""
    settings, allowed = torch.backends.cuda.matmul, []
    forward = StockEncoder.__call__

    def watched(*given: Any) -> torch.Tensor:
        allowed.append(settings.allow_bf16_reduced_precision_reduction)
        return forward(*given)

    monkeypatch.setattr(StockEncoder, "__call__", watched)
    for device in ("cpu", "cuda"):
        encoder = with_states(tiny(kind), device)
        encoder.need_head("masked-lm")
        encoder.load()
        assert allowed and set(allowed) == {device == "cpu"}
        assert settings.allow_bf16_reduced_precision_reduction
        allowed.clear()
    monkeypatch.setattr(StockEncoder, "__call__", lambda *_: 1 / 0)
    with pytest.raises(ModelError):
        with_states(tiny(kind), "cuda").load()
    assert settings.allow_bf16_reduced_precision_reduction


def with_states(model: ResolvedModel, device: str) -> SharedEncoder:
    encoder = SharedEncoder(model, choose(device, "bfloat16"))
    encoder.need_states()
    return encoder
