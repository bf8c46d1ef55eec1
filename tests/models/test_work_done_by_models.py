"""Encoders tell of tokens that went through them, generation of answers, while they are at work."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from secbatch.models.batch_runner import BatchReport, BatchRunner
from secbatch.models.device import choose
from secbatch.models.generation import Prompt
from secbatch.models.memory_patience import FEW, PAUSES, MemoryPatience, Next
from secbatch.models.resolved import ResolvedModel
from secbatch.models.sequences import TokenSequences
from secbatch.models.shared_encoder import SharedEncoder
from secbatch.models.transfer import Made
from secbatch.task_specs import Generation
from secbatch.work_done import WorkDone, work_in_hand
from tests.models.lacking import Clock
from tests.models.test_generation import blenderbot, generator, llama, prompts, t5


class Watched(WorkDone):
    """Keeps the share that is seen after each word of it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    @classmethod
    def everywhere(cls, monkeypatch: pytest.MonkeyPatch) -> "Watched":
        whole, reached = cls(), WorkDone.reached

        def told(self: WorkDone, share: float) -> None:
            reached(self, share)
            whole.seen.append(whole.share)

        monkeypatch.setattr(WorkDone, "reached", told)
        return whole


def test_an_encoder_tells_of_tokens_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched.everywhere(monkeypatch)
    sequences = TokenSequences.of([[5] * length for length in (6, 2, 2)])

    def work(rows: np.ndarray, batch: TokenSequences) -> Iterator[Made]:
        yield from ()

    with watched.in_hand():
        BatchRunner(choose("cpu", "float32"), token_budget=2).run(sequences, False, work)
    assert watched.seen == [0.6, 0.8, 1.0]


def test_heads_that_share_no_forward_are_parts_of_one_work(
    tiny: Callable[[str], ResolvedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    work_done, seen = WorkDone(), []

    def once(*_: Any) -> list[BatchReport]:
        work_in_hand().reached(0.5)
        seen.append(work_done.share)
        return [BatchReport()]

    forwards: list[object] = []
    monkeypatch.setattr(SharedEncoder, "_forward", lambda self, kind: forwards.append(object()) or forwards[-1])
    monkeypatch.setattr(SharedEncoder, "_pass", once)
    with work_done.in_hand():
        SharedEncoder(tiny("roberta"), choose("cpu", "float32")).launch([MagicMock(), MagicMock()])
    assert [*seen, work_done.share] == [0.25, 0.75, 1.0]


@pytest.mark.parametrize(("build", "beams"), [(blenderbot, 3), (llama, 1)])
def test_generation_tells_of_answers_and_of_tokens_of_those_on_their_way(
    build: Any, beams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched.everywhere(monkeypatch)
    model = build()
    rows = [Prompt(tokens) for tokens in prompts(model)]
    made = generator(model, Generation(max_new_tokens=12, num_beams=beams))
    with watched.in_hand():
        made.generate(rows)
    first, *_, last = watched.seen
    assert 0 < first < 0.2 and last == 1.0
    assert len({round(share, 3) for share in watched.seen}) >= 8  # it moves step by step, not answer by answer alone
    assert watched.seen == sorted(watched.seen)


def test_how_long_answers_were_tells_how_far_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama()
    made = generator(model, Generation(max_new_tokens=12))
    rows = [Prompt(tokens) for tokens in prompts(model)]
    long = made.settings
    made.settings = replace(long, max_new_tokens=3)
    made.generate(rows)
    made.settings = long
    watched = Watched.everywhere(monkeypatch)
    with watched.in_hand():
        made.generate(rows)
    assert watched.seen[0] >= 1 / 3 - 1e-6  # of three tokens, not of twelve


def test_generation_one_by_one_tells_of_each_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    model = t5(typical_p=0.9)
    made = generator(model, Generation(max_new_tokens=12))
    watched = Watched.everywhere(monkeypatch)
    with watched.in_hand():
        made.generate([Prompt([]), *(Prompt(tokens) for tokens in prompts(model, 3))])  # the first one is refused
    assert watched.seen == [0.5, 0.75, 1.0]


def test_only_long_waiting_for_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, watched, seen = Clock(monkeypatch), WorkDone(), []
    sleep = clock.sleep
    monkeypatch.setattr(clock, "sleep", lambda seconds: (seen.append((seconds, watched.held_up)), sleep(seconds)))
    patience = MemoryPatience("cuda:0")
    patience.went_through((10, 100))
    with watched.in_hand():
        while patience.after_failure((10, 90), alone=False, last=False) is Next.AGAIN:
            pass
    assert len(seen) == PAUSES and all(text is None for _, text in seen[:FEW])
    assert all(text and text.startswith("On cuda:0 there is no memory") for _, text in seen[FEW:])
    assert watched.held_up is None
