"""Work that goes on side by side on a CPU, and what becomes of it when something comes between."""

import gc
import threading
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from transformers import RobertaConfig, RobertaModel

from secbatch.models import packed_encoder
from secbatch.models.encoder_bert import PackedBert
from secbatch.models.packed import Block, blocks
from secbatch.models.sequences import TokenSequences
from secbatch.models.streams import Made, Steps
from secbatch.models.streams import side_by_side as beside

PATIENCE = 20.0  # seconds


def side_by_side(works: list[Steps[Made]]) -> list[Made]:
    """With as many streams as there may be."""
    return beside(works, len(works))


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def counted(number: int, steps: int, log: list[tuple[int, int]]) -> Steps[int]:
    for step in range(steps):
        log.append((number, step))
        yield
    return number * 10


def test_each_work_is_done_once_and_in_its_own_order() -> None:
    log: list[tuple[int, int]] = []
    assert side_by_side([counted(number, number % 4, log) for number in range(20)]) == [n * 10 for n in range(20)]
    assert sorted(log) == [(number, step) for number in range(20) for step in range(number % 4)]
    for number in range(20):
        assert [step for one, step in log if one == number] == list(range(number % 4))


def test_nothing_is_nothing() -> None:
    empty: list[Steps[int]] = []
    assert side_by_side(empty) == []


def test_first_steps_come_before_second_ones() -> None:
    torch.set_num_threads(1)
    log: list[tuple[int, int]] = []
    side_by_side([counted(number, 3, log) for number in range(5)])
    assert log == [(number, step) for step in range(3) for number in range(5)]


def meeting(barrier: threading.Barrier, seen: list[tuple[str, int, bool, bool]]) -> Steps[None]:
    barrier.wait(PATIENCE)  # until as many are at it at once
    here = threading.current_thread().name, torch.get_num_threads()
    seen.append((*here, torch.is_inference_mode_enabled(), torch.is_grad_enabled()))
    yield


@pytest.mark.parametrize(("works", "shares"), [(2, [1, 2]), (3, [1, 1, 1])])
def test_streams_divide_the_threads_and_have_the_caller_s_modes(works: int, shares: list[int]) -> None:
    for inference, grad in ((True, False), (False, True), (False, False)):
        seen: list[tuple[str, int, bool, bool]] = []
        barrier = threading.Barrier(works)
        with torch.inference_mode(inference), torch.set_grad_enabled(grad):
            side_by_side([meeting(barrier, seen) for _ in range(works)])
        assert sorted(share for _, share, _, _ in seen) == shares
        assert {(one, other) for _, _, one, other in seen} == {(inference, grad)}
        assert torch.get_num_threads() == 3


def failing(barrier: threading.Barrier, kept: list[weakref.ref[torch.Tensor]], on_helper: bool) -> Steps[None]:
    large = torch.zeros(1000)
    kept.append(weakref.ref(large))
    barrier.wait(PATIENCE)
    helper = threading.current_thread().name == "stream"
    yield
    if helper == on_helper and threading.current_thread().name == ("stream" if on_helper else "MainThread"):
        raise MemoryError("no memory for it")
    for _ in range(1000):
        yield
    large += 1


@pytest.mark.parametrize("on_helper", [True, False])
def test_what_a_step_raises_comes_to_the_caller_and_leaves_nothing_behind(on_helper: bool) -> None:
    barrier, kept = threading.Barrier(2), list[weakref.ref[torch.Tensor]]()
    torch.set_num_threads(2)
    gc.disable()
    try:
        with pytest.raises(MemoryError, match="no memory for it"):
            side_by_side([failing(barrier, kept, on_helper) for _ in range(2)])
        assert [tensor() for tensor in kept] == [None, None]
    finally:
        gc.enable()
    assert torch.get_num_threads() == 2 and "stream" not in {thread.name for thread in threading.enumerate()}


def test_an_interrupt_amid_a_step_waits_for_the_others_and_for_no_more_than_their_step() -> None:
    barrier, ended = threading.Barrier(2), threading.Event()
    steps: list[str] = []

    def work() -> Steps[None]:
        barrier.wait(PATIENCE)
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        while True:
            steps.append("")
            ended.wait(0.2)  # the interrupt comes amid it
            steps.append("whole")
            yield

    with pytest.raises(KeyboardInterrupt):
        side_by_side([work(), work()])
    done = len(steps)
    ended.wait(0.3)
    assert len(steps) == done and steps[-1:] in ([], ["whole"])
    assert torch.get_num_threads() == 3


def test_an_interrupt_as_a_stream_begins_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    log: list[tuple[int, int]] = []
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(threading.Thread, "start", interrupted)
        side_by_side([counted(number, 5, log) for number in range(3)])
    assert torch.get_num_threads() == 3
    assert side_by_side([counted(number, 1, log) for number in range(3)]) == [0, 10, 20]


def test_there_are_no_more_streams_than_are_wanted() -> None:
    shares: list[int] = []

    def work() -> Steps[None]:
        shares.append(torch.get_num_threads())
        yield

    beside([work() for _ in range(4)], 1)
    assert shares == [3] * 4


def test_a_long_text_has_all_threads_where_it_is_most_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = RobertaConfig(vocab_size=100, max_position_embeddings=6_000, **size)  # type: ignore[arg-type]
    path = PackedBert(RobertaModel(config, add_pooling_layer=False).eval(), "cpu")
    shares: list[tuple[int, int]] = []
    attend = path._attend

    def noted(layer: object, x: torch.Tensor, block: Block, context: None) -> torch.Tensor:
        shares.append((block.longest, torch.get_num_threads()))
        return attend(layer, x, block, context)  # type: ignore[arg-type]

    monkeypatch.setattr(path, "_attend", noted)
    with torch.inference_mode():
        path(TokenSequences.of([np.full(length, 7, np.int32) for length in (5_000, *[100] * 20)]))
    assert (5_000, 3) in shares and {threads for _, threads in shares} == {3}


def test_no_more_threads_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    shares: list[int] = []

    def work() -> Steps[None]:
        shares.append(torch.get_num_threads())
        yield

    side_by_side([work() for _ in range(4)])
    assert shares == [3] * 4


def test_an_encoder_gives_the_same_bits_with_any_number_of_threads() -> None:
    torch.manual_seed(0)
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
    base = RobertaModel(RobertaConfig(vocab_size=100, **size), add_pooling_layer=False).eval()  # type: ignore[arg-type]
    path = PackedBert(base, "cpu")
    drawn = np.random.default_rng(0)
    sequences = TokenSequences.of([drawn.integers(5, 100, n).astype(np.int32) for n in range(90, 5, -1)])
    places = np.arange(0, len(sequences.ids), 7)
    made: list[tuple[torch.Tensor, torch.Tensor]] = []
    with torch.inference_mode():
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            assert len(blocks(sequences, "cpu")) >= (3 if count == 1 else 8)
            made.append((path(sequences), path(sequences, places)))
    for whole, some in made[1:]:
        assert torch.allclose(whole, made[0][0], atol=1e-5, rtol=0) and torch.allclose(some, whole[places], atol=1e-5)
        if path.batch_free:
            assert torch.equal(whole, made[0][0]) and torch.equal(some, made[0][1])


def test_blocks_of_a_batch_are_at_work_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    base = RobertaModel(RobertaConfig(vocab_size=100, **size), add_pooling_layer=False).eval()  # type: ignore[arg-type]
    path = PackedBert(base, "cpu")
    torch.set_num_threads(2)
    barrier, begin = threading.Barrier(2), packed_encoder.PackedEncoder._through
    assert begin is PackedBert._through

    def met(self: PackedBert, block: object, at: object) -> Steps[object]:
        barrier.wait(PATIENCE)
        return (yield from begin(self, block, at))  # type: ignore[arg-type]

    monkeypatch.setattr(PackedBert, "_through", met)
    with torch.inference_mode():
        states = path(TokenSequences.of([np.full(100, 7, np.int32)] * 10))
    assert states.shape == (1000, 16)
