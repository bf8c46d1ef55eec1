"""Generation on a device whose memory runs out: for good or for a moment, at any point of its work."""

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from tiny_models import BLENDERBOT

from secbatch.errors import Interrupted, SecbatchError
from secbatch.models import memory_patience
from secbatch.models.device import choose
from secbatch.models.generation import Generator, Prompt
from secbatch.models.generation_batch import Answer, Batch
from secbatch.models.generation_beams import BeamLoop
from secbatch.models.generation_blenderbot import BlenderbotSteps
from secbatch.models.generation_loop import Loop
from secbatch.models.generation_steps import DecoderSteps, EncoderDecoderSteps
from secbatch.models.generation_tokens import TokenLoop
from secbatch.task_specs import Generation
from tests.models.lacking import Clock, Lacking, LackingAttention
from tests.models.test_generation import blenderbot, generator, llama, prompts, t5

OUT = torch.OutOfMemoryError("CUDA out of memory")
# Positions that a device has for all sequences, where a row with a prompt of 33 tokens does not fit.
SHORT = {"blenderbot, beams": 90, "encoder and decoder, beams": 2 * 42}
SAMPLED = {"do_sample": True, "top_k": 20, "max_new_tokens": 12}
MODELS: dict[str, tuple[Callable[..., Any], dict[str, Any], dict[str, Any]]] = {
    "blenderbot, beams": (blenderbot, BLENDERBOT, {"num_beams": 3}),
    "blenderbot, sampled": (blenderbot, BLENDERBOT, {"num_beams": 1, **SAMPLED}),
    "decoder": (llama, {}, {"max_new_tokens": 12}),
    "encoder and decoder, beams": (t5, {}, {"max_new_tokens": 12, "num_beams": 2}),
    "one by one": (t5, {"typical_p": 0.9}, {"max_new_tokens": 12}),
}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@cache
def model_of(case: str) -> Any:
    """One for all tests: a lack of memory leaves no trace in it."""
    build, generation, _ = MODELS[case]
    return build(**generation)


def made_for(case: str, places: int = 4, count: int = 24) -> tuple[Generator, list[Prompt]]:
    model, job = model_of(case), MODELS[case][2]
    rows = [Prompt(text, seed) for seed, text in enumerate(prompts(model, count))]
    made = generator(model, Generation.model_validate(job))
    longest = made._start(max(rows, key=lambda row: len(row.tokens)))
    made.budget = places * made._positions(longest)
    return made, rows


def lacking(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, fails: Callable[[int], bool]) -> list[int]:
    """Has method `name` of `owner` lack memory at each call, counted from 1, of which `fails` says so."""
    calls = [0]
    method = getattr(owner, name)

    def called(self: Any, *arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if fails(calls[0]):
            raise OUT
        return method(self, *arguments, **named)

    monkeypatch.setattr(owner, name, called)
    return calls


POINTS = {
    "while a prompt is read": [(BlenderbotSteps, "start"), (DecoderSteps, "start"), (EncoderDecoderSteps, "start")],
    "in a step": [(BlenderbotSteps, "_layers"), (DecoderSteps, "_forward"), (EncoderDecoderSteps, "step")],
    "while rows enter": [(BlenderbotSteps, "_enter")],
    "while a token is chosen": [(TokenLoop, "choose"), (BeamLoop, "choose")],
    "while results are fetched": [(TokenLoop, "made"), (BeamLoop, "made")],
    "while rows leave": [(Loop, "_shrink")],
    "in the midst of a step": [(torch.nn.Linear, "forward")],
}


@cache
def undisturbed(case: str, count: int) -> list[Answer]:
    made, rows = made_for(case, count=count)
    answers = made.generate(rows).answers
    assert all(answer.error is None for answer in answers)
    return answers


def of_all_before(made: Generator) -> Generator:
    """As if larger batches had gone through."""
    made._patience.went_through((1000, 10_000, 1_000_000))
    return made


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("case", [case for case in MODELS if case != "one by one"])
def test_a_lack_at_any_point_changes_no_answer(
    case: str, point: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = undisturbed(case, 7)
    for number in (1, 7):
        made, rows = made_for(case, count=7)
        budget = made.budget
        with monkeypatch.context() as patch:
            for owner, name in POINTS[point]:
                lacking(patch, owner, name, lambda call, number=number: call == number)  # type: ignore[misc]
            assert of_all_before(made).generate(rows).answers == expected
        assert made.budget == budget
    assert clock.pauses <= 2  # one for each lack


@pytest.mark.parametrize("case", MODELS)
def test_a_lack_at_any_operation_changes_no_answer(case: str, clock: Clock) -> None:
    expected = undisturbed(case, 5)
    chosen = random.Random(1)
    made, rows = made_for(case, count=5)
    with Lacking() as whole:
        made.generate(rows)
    for known in (True, False):
        made, rows = made_for(case, count=5)
        if known:
            of_all_before(made)
        at = [chosen.randrange(1, whole.operations) for _ in range(2)]
        with Lacking(*at):
            assert made.generate(rows).answers == expected, at


@pytest.mark.parametrize("case", ["blenderbot, beams", "blenderbot, sampled"])
def test_a_lack_in_compiled_attention_changes_no_answer(case: str, clock: Clock) -> None:
    if not choose("cpu").compiled_attention:
        pytest.skip("no AVX-512, or no C compiler at installation")
    expected = undisturbed(case, 10)
    made, rows = made_for(case, count=10)
    with LackingAttention(lambda call: call in (1, 30)) as lacking:
        assert of_all_before(made).generate(rows).answers == expected
    assert lacking.failures == 2


def small(monkeypatch: pytest.MonkeyPatch, positions: Callable[[], int]) -> list[int]:
    """A device with room for so many positions; what was asked of it."""
    asked: list[int] = []
    asks = Batch.asks

    def seen(self: Batch, longest: int, prompts: int, wanted: int) -> None:
        asks(self, longest, prompts, wanted)
        asked.append(wanted)
        if wanted > positions():
            raise OUT

    monkeypatch.setattr(Batch, "asks", seen)
    return asked


@pytest.mark.parametrize("case", MODELS)
def test_memory_that_is_short_halves_the_budget_for_good_and_rejects_what_alone_does_not_fit(
    case: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = undisturbed(case, 16)
    made, rows = made_for(case, count=16)
    room, budget = SHORT.get(case, 42), made.budget
    asked = small(monkeypatch, lambda: room)
    answers = made.generate(rows).answers
    refused = [place for place, answer in enumerate(answers) if answer.error]
    assert 0 < len(refused) < 8
    assert all(len(rows[place].tokens) > 20 for place in refused)
    for place, answer in enumerate(answers):
        if place in refused:
            most = len(rows[place].tokens) + made._start(rows[place]).limit
            text = f"prompt and answer have up to {most} tokens, more than the memory of the device cpu takes at once"
            assert answer == Answer([], text)
        else:
            assert answer == expected[place]
    assert made.budget < budget or made.stock
    assert clock.waited <= 64
    budget, asked[:] = made.budget, []
    fits = [row for place, row in enumerate(rows) if place not in refused]
    made.generate(fits)
    assert made.budget == budget and max(asked) <= room  # it is remembered


@pytest.mark.parametrize("case", MODELS)
def test_memory_that_another_takes_for_a_while_costs_that_while(
    case: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = undisturbed(case, 16)
    made, rows = made_for(case, count=16)
    budget = made.budget
    asked: list[int] = small(monkeypatch, lambda: 0 if len(asked) > 10 and clock.waited < 40 else 1 << 30)
    of_all_before(made)
    assert made.generate(rows).answers == expected
    assert made.budget == budget and 40 <= clock.waited <= 64


@pytest.mark.parametrize("case", MODELS)
def test_memory_that_stays_away_ends_the_run_and_rejects_nobody(
    case: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, rows = made_for(case)
    asked: list[int] = small(monkeypatch, lambda: 0 if len(asked) > 3 else 1 << 30)
    of_all_before(made)
    with pytest.raises(SecbatchError, match=r"There is no memory left on the device cpu, .* what is finished is kept"):
        made.generate(rows)
    assert 60 < clock.waited < 64


def test_memory_of_which_another_keeps_a_part_is_waited_for_once(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is as if there had never been more."""
    made, rows = made_for("decoder")
    room = [1 << 30]
    small(monkeypatch, lambda: room[0])
    assert made.generate(rows).answers == undisturbed("decoder", 24)
    room[0] = 42
    for _ in range(3):
        answers = made.generate(rows).answers
        errors = {len(rows[place].tokens): answer.error for place, answer in enumerate(answers) if answer.error}
        assert list(errors) == [33]
        assert str(errors[33]).endswith(
            "45 tokens, for which the device cpu has no memory any more, though it had before"
        )
    assert 60 < clock.waited < 64


@pytest.mark.parametrize("case", ["blenderbot, beams", "decoder"])
def test_what_is_finished_is_not_done_again(case: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only rows that sit in a place when memory runs out begin anew."""
    made, rows = made_for(case, count=40)
    read: list[int] = []  # prompts at a time, 0 in a decoder's steps
    reader = made.model.get_encoder() if made.encoder_decoder else made.model.model

    def count(_module: object, _arguments: object, named: dict[str, Any]) -> None:
        ids = named["input_ids"]
        read.append(len(ids) if ids.shape[1] > 1 else 0)

    counted = reader.register_forward_pre_hook(count, with_kwargs=True)
    loop = BeamLoop if made.settings.num_beams > 1 else TokenLoop
    with monkeypatch.context() as patch:
        calls = lacking(patch, loop, "choose", lambda call: False)
        expected = made.generate(rows).answers
    once, late = sum(read), calls[0] * 3 // 4
    read.clear()
    lacking(monkeypatch, loop, "choose", lambda call: call == late)
    assert made.generate(rows).answers == expected
    assert once < sum(read) <= once + max(read)
    assert max(read) < 12
    counted.remove()


def test_an_interrupt_ends_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    made, rows = made_for("decoder")

    def interrupt(seconds: float) -> None:
        raise Interrupted("Interrupted")

    monkeypatch.setattr(memory_patience.time, "sleep", interrupt)
    small(monkeypatch, lambda: 0)
    with pytest.raises(Interrupted):
        of_all_before(made).generate(rows)


def test_a_recording_that_memory_broke_off_counts_as_out_of_memory(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, rows = made_for("decoder", places=12, count=12)
    together = Generator._together

    def broken_off(self: Generator, batch: Batch) -> None:
        if len(batch.starts) > 3:
            try:
                raise OUT
            finally:
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        together(self, batch)

    expected = made.generate(rows).answers
    made, _ = made_for("decoder", places=12, count=12)
    monkeypatch.setattr(Generator, "_together", broken_off)
    budget = made.budget
    assert made.generate(rows).answers == expected
    assert made.budget < budget and not clock.pauses

    def other(self: Generator, batch: Batch) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Generator, "_together", other)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        made.generate(rows)
