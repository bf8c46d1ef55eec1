"""Memory that runs out on a device: what is waited for, what is blamed, and that no result is another one for it."""

import random
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from secbatch.errors import Interrupted, SecbatchError
from secbatch.models.device import choose
from secbatch.models.memory_patience import FEW, HOPELESS, PAUSES, MemoryPatience, Next
from secbatch.models.resolved import ResolvedModel
from secbatch.models.shared_encoder import SharedEncoder
from secbatch.task_specs import Embed, FillMask
from secbatch.tasks.embed import EmbedTask
from secbatch.tasks.encoder_task import compute_together
from secbatch.tasks.fill_mask import FillMaskTask
from secbatch.waiting import pause
from tests.models.lacking import Clock, Lacking, LackingAttention

Tiny = Callable[[str], ResolvedModel]
CPU = choose("cpu", "float32")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_only_what_is_no_larger_than_what_had_room_is_waited_for(clock: Clock) -> None:
    patience = MemoryPatience("cuda:0")
    assert patience.after_failure((10, 100), alone=False, last=False) is Next.FEWER
    patience.went_through((10, 50))
    patience.went_through((5, 80))
    assert patience.after_failure((10, 81), alone=False, last=False) is Next.FEWER
    assert patience.after_failure((11, 11), alone=True, last=False) is Next.LATER
    assert not clock.pauses
    assert patience.after_failure((10, 80), alone=False, last=False) is Next.AGAIN
    assert clock.waited == 0.25


def test_a_row_that_may_be_too_long_is_waited_for_a_few_seconds_now_and_then(clock: Clock) -> None:
    patience = MemoryPatience("cuda:0")
    patience.went_through((10, 100))
    for _ in range(FEW):
        assert patience.after_failure((11, 11), alone=True, last=True) is Next.AGAIN
    assert clock.waited == 3.75
    for size in ((11, 11), (12, 12)):
        patience.went_through((10, 100))
        assert patience.after_failure(size, alone=True, last=True) is Next.NEVER
    assert patience.after_failure((10, 99), alone=False, last=False) is Next.AGAIN  # it had room
    patience.went_through((10, 99))
    assert patience.after_failure((11, 11), alone=True, last=True) is Next.AGAIN


def test_waiting_has_an_end_and_is_renewed_when_memory_is_back_or_time_has_passed(clock: Clock) -> None:
    patience = MemoryPatience("cuda:0")
    patience.went_through((10, 100))

    def tries() -> int:
        before = clock.pauses
        while patience.after_failure((10, 90), alone=False, last=False) is Next.AGAIN:
            pass
        return clock.pauses - before

    assert tries() == PAUSES and clock.waited == 63.75
    patience.went_through((10, 45))  # with a part of the memory; whoever has the rest keeps it
    assert tries() == 0
    patience.went_through((10, 95))
    assert tries() == PAUSES
    clock.now += 600
    assert tries() == 0  # nothing has had room since
    patience.went_through((10, 45))
    assert tries() == PAUSES


def test_a_run_ends_where_nothing_has_room_any_more_and_only_there(clock: Clock) -> None:
    patience = MemoryPatience("cuda:0")
    patience.went_through((10, 100))
    while patience.after_failure((9, 9), alone=True, last=False) is Next.AGAIN:
        pass
    for _ in range(HOPELESS - 2):
        assert patience.after_failure((9, 9), alone=True, last=False) is Next.LATER
    assert patience.after_failure((9, 9), alone=True, last=True) is Next.NEVER
    assert patience.lack((9, 9)) == "for which cuda:0 has no memory any more, though it had before"
    assert patience.after_failure((8, 8), alone=True, last=False) is Next.LATER
    assert patience.after_failure((200, 200), alone=True, last=True) is Next.NEVER  # it may be too long
    assert patience.lack((200, 200)) == "more than the memory of cuda:0 takes at once"
    with pytest.raises(SecbatchError, match=r"no memory left on cuda:0.*run the same command again"):
        patience.after_failure((8, 8), alone=True, last=True)
    patience.went_through((3, 3))
    assert patience.after_failure((8, 8), alone=True, last=True) is Next.NEVER


def test_before_anything_had_room_the_last_row_is_waited_for(clock: Clock) -> None:
    """Else memory that is away at the start would reject everything in a moment."""
    patience = MemoryPatience("cuda:0")
    assert patience.after_failure((9, 9), alone=True, last=False) is Next.LATER
    for _ in range(PAUSES):
        assert patience.after_failure((9, 9), alone=True, last=True) is Next.AGAIN
    assert patience.after_failure((9, 9), alone=True, last=True) is Next.NEVER
    assert patience.lack((9, 9)) == "more than the memory of cuda:0 takes at once"


TEXT = "The <mask> steals all passwords of users who open an infected attachment"
TABLE = pa.table({"text": [TEXT[: 10 + row * 17 % 63] for row in range(20)]})


def columns(model: ResolvedModel, known: bool, lacking: Lacking | LackingAttention) -> dict[str, pa.Array]:
    shared = SharedEncoder(model, CPU)
    shared.token_budget = 60
    tasks = {
        "mask": FillMaskTask("mask", FillMask(type="fill-mask", model="x", text="text", top_k=5), TABLE.schema, shared),
        "vec": EmbedTask("vec", Embed(type="embed", model="x", text="text"), TABLE.schema, shared),
    }
    for task in tasks.values():
        task.load()
    if known:
        shared._runner._patience.went_through((1000, 1000))
    ids, usable = pa.array(map(str, range(TABLE.num_rows))), pa.array([True] * TABLE.num_rows)
    encoded = {name: task.encode(TABLE, ids, usable) for name, task in tasks.items()}
    with lacking:
        computed = compute_together(tasks, encoded)
    done = [task.finish(computed[name]) for name, task in tasks.items()]  # type: ignore[arg-type]
    assert not any(one.errors for one in done)
    assert (shared.token_budget == 60) or not known
    return done[0].columns | done[1].columns


@pytest.mark.parametrize("kind", ["roberta", "modernbert", "albert"])
def test_a_lack_at_any_operation_changes_no_result_of_an_encoder(tiny: Tiny, kind: str, clock: Clock) -> None:
    whole = Lacking()
    expected = columns(tiny(kind), True, whole)
    chosen = random.Random(1)
    for known in (True, True, True, False, False, False):
        at = [chosen.randrange(1, whole.operations) for _ in range(2)]
        got = columns(tiny(kind), known, Lacking(*at))
        for name, values in expected.items():
            if known:  # the same batches: the same bits
                assert got[name].equals(values), (name, at)
            elif name in ("vec", "mask_score"):
                wanted, found = (np.array(one.drop_null().to_pylist()) for one in (values, got[name]))
                assert np.allclose(wanted, found, atol=1e-5), (name, at)
            elif name == "mask_top":
                assert got[name].equals(values), at


@pytest.mark.parametrize("kind", ["roberta", "modernbert"])
def test_a_lack_in_compiled_attention_changes_no_result_of_an_encoder(tiny: Tiny, kind: str, clock: Clock) -> None:
    if not CPU.compiled_attention:
        pytest.skip("no AVX-512, or no C compiler at installation")
    expected = columns(tiny(kind), True, LackingAttention(lambda call: False))
    lacking = LackingAttention(lambda call: call in (2, 7))
    got = columns(tiny(kind), True, lacking)
    assert lacking.failures == 2 and all(got[name].equals(values) for name, values in expected.items())


def test_nobody_waits_for_what_is_abandoned(clock: Clock) -> None:
    abandoned = False
    patience = MemoryPatience("cuda:0", abandoned=lambda: abandoned)
    patience.went_through((10,))
    assert patience.after_failure((9,), alone=True, last=False) is Next.AGAIN
    abandoned = True
    with pytest.raises(Interrupted):
        patience.after_failure((9,), alone=True, last=False)


def test_a_pause_ends_soon_after_it_is_over() -> None:
    begin = time.monotonic()
    pause(60, lambda: time.monotonic() - begin > 0.2)
    assert 0.2 < time.monotonic() - begin < 30
    pause(0.1, lambda: False)


def test_an_abandoned_encoder_does_no_more_batches(tiny: Tiny) -> None:
    shared = SharedEncoder(tiny("bert"), CPU)
    task = EmbedTask("vec", Embed(type="embed", model="x", text="text"), TABLE.schema, shared)
    task.load()
    encoded = task.encode(TABLE, pa.array(map(str, range(TABLE.num_rows))), pa.array([True] * TABLE.num_rows))
    shared.abandon()
    with pytest.raises(Interrupted):
        task.compute(encoded)
