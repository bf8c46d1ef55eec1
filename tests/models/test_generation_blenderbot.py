"""Blenderbot's own decoding: layer for layer what transformers computes, with rows that come and go."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny_models import BLENDERBOT

from secbatch.models import generation_blenderbot
from secbatch.models.generation import Generator, Prompt
from secbatch.models.generation_blenderbot import ALIGNED, BlenderbotDecoder, BlenderbotSteps
from secbatch.models.generation_loop import LOOK_EVERY, in_front
from secbatch.models.generation_steps import EncoderDecoderSteps
from secbatch.models.streams import Steps
from secbatch.task_specs import Generation
from tests.models.replayed import Replayed
from tests.models.test_generation import alone, blenderbot, generator, prompts


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert torch.allclose(ours, theirs, atol=1e-4), (ours - theirs).abs().max()


@pytest.mark.parametrize(
    ("staying", "at_once", "of_a_part"), [((0, 2, 4), 32, 96), ((0, 4, 2), 2, 4), ((3, 1, 0), 1, 1)]
)
@torch.inference_mode()
def test_logits_are_those_of_transformers_step_by_step(
    staying: tuple[int, ...], at_once: int, of_a_part: int, monkeypatch: pytest.MonkeyPatch, threads: None
) -> None:
    monkeypatch.setattr(generation_blenderbot, "ENTERING_AT_ONCE", at_once)
    monkeypatch.setattr(generation_blenderbot, "SEQUENCES_OF_A_PART", of_a_part)
    model, texts, beams = blenderbot(), prompts(blenderbot(), 5), 3
    ours, theirs = BlenderbotSteps(BlenderbotDecoder(model), 1, 0, positions=8), EncoderDecoderSteps(model, 1, 0)
    close(ours.start(texts, beams), theirs.start(texts, beams))
    assert theirs.padding > 0
    assert ours.padding == theirs.padding if at_once == 32 else ours.padding < theirs.padding
    chosen = torch.Generator().manual_seed(0)
    for step in range(6):
        rows = len(ours.length)
        if step == 3:
            left = torch.tensor([row * beams + beam for row in staying for beam in range(beams)])
            ours.keep(left)
            theirs.keep(left)
            rows = 3
        source = torch.randint(beams, (rows, beams), generator=chosen) + torch.arange(rows)[:, None] * beams
        ours.reorder(source.view(-1))
        theirs.reorder(source.view(-1))
        tokens = torch.randint(5, 300, (rows * beams,), generator=chosen)
        close(ours.step(tokens), theirs.step(tokens))


@pytest.mark.parametrize(("at_once", "rows"), [(1, [1] * 5), (60, None), (1000, [5])])
@torch.inference_mode()
def test_long_texts_come_in_smaller_numbers(
    at_once: int, rows: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation_blenderbot, "READ_AT_ONCE", at_once)
    model = blenderbot()
    texts = sorted(prompts(model, 5), key=len, reverse=True)
    shapes: list[tuple[int, int]] = []
    model.get_encoder().register_forward_pre_hook(
        lambda _module, _arguments, named: shapes.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    BlenderbotSteps(BlenderbotDecoder(model), 1, 0, positions=8).start(texts, 1)
    assert rows is None or [count for count, _ in shapes] == rows
    assert all(count == 1 or count * width <= at_once for count, width in shapes)
    assert sum(count for count, _ in shapes) == 5


@pytest.mark.parametrize("beams", [1, 3])
def test_parts_of_a_batch_change_no_token(beams: int, monkeypatch: pytest.MonkeyPatch, threads: None) -> None:
    model, job = blenderbot(), Generation(max_new_tokens=9, num_beams=beams)
    asked = [Prompt(prompt) for prompt in prompts(model, 7)]
    whole = generator(model, job).generate(asked).answers
    monkeypatch.setattr(generation_blenderbot, "SEQUENCES_OF_A_PART", 3)
    assert generator(model, job).generate(asked).answers == whole


@torch.inference_mode()
def test_parts_of_a_batch_are_at_work_at_the_same_time(monkeypatch: pytest.MonkeyPatch, threads: None) -> None:
    monkeypatch.setattr(generation_blenderbot, "SEQUENCES_OF_A_PART", 3)
    barrier, begin, parts = threading.Barrier(2), BlenderbotSteps._through, []

    def met(self: BlenderbotSteps, rows: slice, *inputs: torch.Tensor) -> Steps[torch.Tensor]:
        parts.append((rows.start, rows.stop))
        barrier.wait(20)
        return (yield from begin(self, rows, *inputs))

    monkeypatch.setattr(BlenderbotSteps, "_through", met)
    model = blenderbot()
    BlenderbotSteps(BlenderbotDecoder(model), 1, 0, positions=8).start(prompts(model, 7), 1)
    assert sorted(parts) == [(0, 3), (3, 7)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("amx", [False, True])
@torch.inference_mode()
def test_parts_are_as_large_as_the_processor_is_fast(
    dtype: torch.dtype, amx: bool, monkeypatch: pytest.MonkeyPatch, threads: None
) -> None:
    monkeypatch.setattr(generation_blenderbot, "cpu_has_amx_bf16", lambda: amx)
    model = blenderbot().to(dtype)
    steps = BlenderbotSteps(BlenderbotDecoder(model), 1, 0, positions=8)
    steps.start(prompts(model, 2), 10)
    wanted = [1, 1, 1, 2] if amx and dtype == torch.bfloat16 else [1, 2, 2, 2]
    assert [steps._parts(rows) for rows in (19, 20, 76, 77)] == wanted


def test_rows_that_stay_move_no_more_than_they_must() -> None:
    assert in_front([0, 1, 2]) == [0, 1, 2]
    assert in_front([1, 3]) == [3, 1]
    assert in_front([0, 2, 5, 7, 8]) == [0, 5, 2, 7, 8]
    assert in_front([4]) == [4] and in_front([]) == []


@torch.inference_mode()
def test_rows_that_stay_are_not_copied_when_others_leave() -> None:
    steps = BlenderbotSteps(BlenderbotDecoder(blenderbot()), 1, 0, positions=8)
    steps.start(prompts(blenderbot(), 5), 1)
    before = [cache[0].data_ptr() for cache in (steps.own, steps.text)]
    steps.keep(torch.tensor([0, 4, 2]))
    assert [cache[0].data_ptr() for cache in (steps.own, steps.text)] == before
    assert [len(cache[0]) for cache in (steps.own, steps.text)] == [3, 3]


def test_a_loop_lets_rows_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[list[int]] = []
    keep = BlenderbotSteps.keep

    def seen(self: Any, rows: torch.Tensor) -> None:
        kept.append(rows.tolist())
        keep(self, rows)

    monkeypatch.setattr(BlenderbotSteps, "keep", seen)
    texts = [Prompt(text, seed) for seed, text in enumerate(prompts(blenderbot(), 24))]
    generator(blenderbot(**BLENDERBOT), Generation(num_beams=1)).generate(texts)
    assert any(rows != list(range(len(rows))) for rows in kept)
    assert all(rows[row] == row for rows in kept for row in rows if row < len(rows))


@torch.inference_mode()
def test_a_row_that_enters_later_is_computed_as_from_the_beginning() -> None:
    model, texts = blenderbot(), prompts(blenderbot(), 4)
    texts = sorted(texts, key=len, reverse=True)
    ours = BlenderbotSteps(BlenderbotDecoder(model), 1, 0, positions=8)
    ours.start(texts[:3], 2)
    ours.step(torch.arange(10, 16))
    ours.enter([1], [texts[3]])
    tokens = torch.tensor([20, 21, 1, 1, 22, 23])
    alone_ = BlenderbotSteps(BlenderbotDecoder(model), 1, 0, positions=8)
    close(ours.step(tokens)[2:4], alone_.start([texts[3]], 2))
    close(ours.step(torch.tensor([30, 31, 32, 33, 34, 35]))[2:4], alone_.step(torch.tensor([32, 33])))


@pytest.mark.parametrize("job", [{}, {"num_beams": 1}, {"num_beams": 1, "do_sample": True, "top_k": 20}])
def test_rows_enter_where_others_have_finished(job: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, texts = blenderbot(**BLENDERBOT), prompts(blenderbot(), 24)
    entered: list[int] = []
    enter = BlenderbotSteps.enter

    def counting(self: Any, places: list[int], texts: list[list[int]]) -> None:
        entered.append(len(places))
        enter(self, places, texts)

    monkeypatch.setattr(BlenderbotSteps, "enter", counting)
    settings = Generation.model_validate(job)
    made = generator(model, settings, budget=400 * (job.get("num_beams", 10)))
    rows = [Prompt(text, seed) for seed, text in enumerate(texts)]
    answers = made.generate(rows).answers
    assert sum(entered) == 24 and entered[0] < 12 and len(entered) > 2
    plain = generator(model, settings, budget=400 * (job.get("num_beams", 10)))
    plain.refills = False  # transformers' own decoder, batch by batch
    assert plain.generate(rows).answers == answers
    if not settings.do_sample:
        assert [answer.tokens for answer in answers] == [alone(model, text, **job) for text in texts]


def test_a_model_derived_from_blenderbot_takes_the_general_way() -> None:
    model = blenderbot()
    derived = type("Derived", (type(model),), {})
    model.__class__ = derived
    assert not generator(model, Generation()).refills


@torch.inference_mode()
def test_slots_that_no_beam_sees_are_used_again() -> None:
    model, texts, beams = blenderbot(), prompts(blenderbot(), 3), 4
    ours, theirs = BlenderbotSteps(BlenderbotDecoder(model), 1, 0, positions=120), EncoderDecoderSteps(model, 1, 0)
    close(ours.start(texts, beams), theirs.start(texts, beams))
    chosen = torch.Generator().manual_seed(0)
    for step in range(100):
        # all beams of a row go on from one of them, and now and then each from itself
        one = torch.randint(beams, (3, 1), generator=chosen).expand(3, beams)
        beam = torch.arange(beams).expand(3, beams) if step % 10 == 0 else one
        source = (beam + torch.arange(3)[:, None] * beams).reshape(-1)
        ours.reorder(source)
        theirs.reorder(source)
        tokens = torch.randint(5, 300, (3 * beams,), generator=chosen)
        close(ours.step(tokens), theirs.step(tokens))
    live = ours.visible.any(1).sum(1)
    assert 101 <= int(live.max()) < 101 + 3 * beams  # one entry a position, not one a position and beam
    assert ours.slots < 120 * beams / 2  # it has grown, and no further than it must


@torch.inference_mode()
def test_rows_that_share_nothing_find_room_up_to_their_last_position() -> None:
    model, texts, beams = blenderbot(), prompts(blenderbot(), 2), 3
    ours, theirs = BlenderbotSteps(BlenderbotDecoder(model), 1, 0, positions=60), EncoderDecoderSteps(model, 1, 0)
    close(ours.start(texts, beams), theirs.start(texts, beams))
    for step in range(59):
        tokens = torch.arange(6) + 5 + step
        close(ours.step(tokens), theirs.step(tokens))
    assert ours.slots == 60 * beams and bool(ours.visible.any(1).all())
    ours.step(torch.arange(6))  # a row that is through begins anew, without harm to others
    assert ours.length.tolist() == [1, 1]


def test_a_model_that_is_owned_keeps_no_second_copy_of_its_decoder() -> None:
    texts = [Prompt(text) for text in prompts(blenderbot(), 4)]
    kept = generator(blenderbot(**BLENDERBOT), Generation())
    expected = kept.generate(texts).answers
    owned = Generator(blenderbot(**BLENDERBOT), kept.settings, owned=True)
    assert owned.generate(texts).answers == expected
    layer = owned.model.model.decoder.layers[0]
    assert {p.device.type for p in (layer.fc1.weight, layer.self_attn.k_proj.weight)} == {"meta"}


@pytest.mark.parametrize("job", [{}, {"num_beams": 1}, {"num_beams": 1, "do_sample": True, "top_k": 20}])
def test_fixed_shapes_and_rare_looks_give_the_same(job: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, texts = blenderbot(**BLENDERBOT), prompts(blenderbot(), 24)
    made = generator(model, Generation.model_validate(job), budget=400 * (job.get("num_beams", 10)))
    rows = [Prompt(text, seed) for seed, text in enumerate(texts)]
    expected = made.generate(rows).answers
    begin = BlenderbotSteps.__init__

    def as_on_a_gpu(self: Any, *arguments: Any) -> None:
        begin(self, *arguments)
        self.record = Replayed

    monkeypatch.setattr(BlenderbotSteps, "__init__", as_on_a_gpu)
    monkeypatch.setattr(generation_blenderbot, "FEWEST_SEQUENCES", 8)  # so that rows leave, too
    monkeypatch.setitem(LOOK_EVERY, "cpu", 7)
    Replayed.made = 0
    assert made.generate(rows).answers == expected
    assert 1 <= Replayed.made < 10  # a step is recorded for a batch, not for each step


@torch.inference_mode()
def test_a_step_is_recorded_anew_when_there_is_no_room_left_and_not_before() -> None:
    model, texts, beams = blenderbot(), prompts(blenderbot(), 3), 4
    ours, theirs = BlenderbotSteps(BlenderbotDecoder(model), 1, 0, positions=100), EncoderDecoderSteps(model, 1, 0)
    ours.record, Replayed.made = Replayed, 0  # type: ignore[assignment]
    close(ours.start(texts, beams), theirs.start(texts, beams))
    chosen = torch.Generator().manual_seed(0)
    sizes = [ours.slots]
    for _ in range(60):
        source = torch.randint(beams, (3, beams), generator=chosen) + torch.arange(3)[:, None] * beams
        for steps in (ours, theirs):
            steps.reorder(source.view(-1))
        tokens = torch.randint(5, 300, (3 * beams,), generator=chosen)
        close(ours.step(tokens), theirs.step(tokens))
        sizes.append(ours.slots)
    assert sizes == sorted(sizes) and sizes[-1] < 400
    assert Replayed.made == len(set(sizes)) > 1
    assert all(size % ALIGNED == 0 for size in sizes) and ours.text_mask.shape[-1] % ALIGNED == 0
