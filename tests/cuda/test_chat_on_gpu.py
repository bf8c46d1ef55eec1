"""Generation on a GPU against the same on the CPU, and what only a GPU has: recordings, waits, its own memory.

`python -m pytest tests/cuda`: well under a minute. Without a GPU nothing of it runs.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny_models import BLENDERBOT
from transformers import BlenderbotConfig, BlenderbotForConditionalGeneration

from secbatch.models import generation_blenderbot, generation_graph
from secbatch.models.device import choose
from secbatch.models.generation import Generator
from secbatch.models.generation_attention import attention, by_torch
from secbatch.models.generation_beams import BeamLoop
from secbatch.models.generation_blenderbot import BlenderbotSteps
from secbatch.models.generation_loop import LOOK_EVERY
from secbatch.models.generation_tokens import TokenLoop
from secbatch.task_specs import Generation
from tests.models.test_generation import answers, blenderbot, cut_at_end, generator, gpt2, llama, rows, sharpened

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

JOBS = {"its own ten beams": {}, "greedy": {"num_beams": 1}}


@pytest.fixture(autouse=True)
def strict_float32() -> Iterator[None]:
    choose("cuda", "float32")
    yield
    torch.cuda.set_sync_debug_mode("default")
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def with_heads_as_the_real_one(**generation: Any) -> Any:
    """Heads of width 40, as Blenderbot-400M has."""
    torch.manual_seed(0)
    size = {"d_model": 160, "encoder_layers": 2, "decoder_layers": 3}
    size |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    size |= {"encoder_ffn_dim": 320, "decoder_ffn_dim": 320, "max_position_embeddings": 128}
    tokens = {"pad_token_id": 0, "decoder_start_token_id": 1}
    config = BlenderbotConfig(vocab_size=300, bos_token_id=1, eos_token_id=2, **size, **tokens)
    model = BlenderbotForConditionalGeneration(config)
    model.final_logits_bias[0, 2] = 3.0
    return sharpened(model, generation, **tokens)


def alone_on_gpu(model: Any, prompt: list[int], **arguments: Any) -> list[int]:
    ids = torch.tensor([prompt], device="cuda")
    out = model.generate(ids, attention_mask=torch.ones_like(ids), **arguments)[0].tolist()
    return cut_at_end(out[1 if model.config.is_encoder_decoder else len(prompt) :], (2,))


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
@pytest.mark.parametrize("build", [blenderbot, with_heads_as_the_real_one])
def test_blenderbot_s_tokens_are_those_of_the_cpu_and_of_one_at_a_time(
    build: Any, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[Any] = []
    record = generation_graph.Recorded.__init__

    def counting(self: Any, *arguments: Any) -> None:
        recorded.append(self)
        record(self, *arguments)

    monkeypatch.setattr(generation_graph.Recorded, "__init__", counting)
    monkeypatch.setattr(generation_blenderbot, "FEWEST_SEQUENCES", 8)  # so that rows leave as well as enter
    model = build(**BLENDERBOT)
    asked, settings = rows(model, 40), Generation.model_validate(job)
    expected = answers(model, settings, asked)
    assert len({tuple(tokens) for tokens in expected}) > 20
    model = model.cuda()
    narrow = answers(model, settings, asked, budget=1000 * job.get("num_beams", 10))
    assert 2 <= len(recorded) < 16  # rows leave at the end; a step is not recorded for each step
    assert narrow == expected
    assert answers(model, settings, asked) == expected
    assert [alone_on_gpu(model, asked[place].tokens, **job) for place in range(3)] == expected[:3]


@pytest.mark.parametrize("job", [{"max_new_tokens": 24}, {"max_new_tokens": 24, "num_beams": 4}])
@pytest.mark.parametrize("build", [llama, gpt2])
def test_a_decoder_s_tokens_are_those_of_the_cpu(build: Any, job: dict[str, Any]) -> None:
    model = build(no_repeat_ngram_size=2)
    asked, settings = rows(model, 24), Generation.model_validate(job)
    expected = answers(model, settings, asked)
    model = model.cuda()
    assert answers(model, settings, asked, budget=600) == expected
    assert answers(model, settings, asked) == expected
    assert alone_on_gpu(model, asked[0].tokens, **job) == expected[0]


@pytest.mark.parametrize("build", [blenderbot, llama])
@pytest.mark.parametrize("beams", [1, 3])
def test_a_sampled_row_does_not_depend_on_its_batch(build: Any, beams: int) -> None:
    model = build().cuda()
    job = Generation(max_new_tokens=12, do_sample=True, temperature=1.5, top_p=0.95, top_k=40, num_beams=beams)
    asked = rows(model, 8)
    assert answers(model, job, asked) == [answers(model, job, [row])[0] for row in asked]


def test_rules_that_write_into_the_scores() -> None:
    generation = {"max_length": 30, "num_beams": 3, "repetition_penalty": 1.5, "forced_bos_token_id": 7}
    generation |= {"suppress_tokens": [11], "begin_suppress_tokens": [9, 2], "forced_eos_token_id": [2, 5]}
    model = blenderbot(**generation)
    asked = rows(model, 12)
    expected = answers(model, Generation(), asked)
    assert answers(model.cuda(), Generation(), asked) == expected


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_bfloat16_runs(job: dict[str, Any]) -> None:
    model = with_heads_as_the_real_one(**BLENDERBOT).cuda().to(torch.bfloat16)
    made = answers(model, Generation.model_validate(job), rows(model, 40))
    assert all(20 <= len(tokens) + 2 <= 60 for tokens in made)


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_no_step_waits_for_the_device(job: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the looks that say which rows are through, and whether there is room."""
    model = with_heads_as_the_real_one(**BLENDERBOT).cuda()
    taken: list[str] = []

    def watched(kind: type, name: str) -> None:
        function = getattr(kind, name)

        def watching(self: Any, *arguments: Any) -> Any:
            taken.append(name)
            recorded = getattr(getattr(self, "steps", self), "_recorded", None)
            torch.cuda.set_sync_debug_mode("error" if recorded else "default")
            try:
                return function(self, *arguments)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        monkeypatch.setattr(kind, name, watching)

    for kind, name in ((BeamLoop, "choose"), (TokenLoop, "choose"), (BlenderbotSteps, "step")):
        watched(kind, name)
    monkeypatch.setattr(generation_blenderbot, "STEPS_AHEAD", 60)  # room for all
    assert answers(model, Generation.model_validate(job), rows(model, 12))
    assert taken.count("step") > 20


@pytest.mark.parametrize("every", [1, 7])
def test_how_often_is_looked_changes_nothing(every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = blenderbot(**BLENDERBOT).cuda()
    asked = rows(model, 16)
    expected = answers(model, Generation(num_beams=4), asked)
    monkeypatch.setitem(LOOK_EVERY, "cuda", every)
    assert answers(model, Generation(num_beams=4), asked, budget=1000) == expected


def test_memory_that_is_short_halves_the_batch_and_goes_on() -> None:
    model = with_heads_as_the_real_one(**BLENDERBOT).cuda()
    asked = rows(model, 256)
    expected = answers(model, Generation(), asked)
    made = generator(model, Generation())
    budget = made.budget
    torch.cuda.empty_cache()
    allowed = torch.cuda.memory_reserved() + 100 * 2**20
    torch.cuda.set_per_process_memory_fraction(allowed / torch.cuda.get_device_properties(0).total_memory)
    cramped = made.generate(asked).answers
    assert [answer.tokens for answer in cramped] == expected
    assert budget / 64 < made.budget < budget


def test_a_recording_that_runs_out_of_memory_is_tried_with_half_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = blenderbot(**BLENDERBOT).cuda()
    asked = rows(model, 24)
    expected = answers(model, Generation(), asked)
    layers, failed = BlenderbotSteps._layers, []

    def cramped(self: Any, tokens: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        if torch.cuda.is_current_stream_capturing() and len(tokens) > 120:
            failed.append(len(tokens))
            torch.empty(2**46, dtype=torch.uint8, device="cuda")
        return layers(self, tokens, *others)

    monkeypatch.setattr(BlenderbotSteps, "_layers", cramped)
    stream = torch.cuda.current_stream()
    made: Generator = generator(model, Generation())
    assert [answer.tokens for answer in made.generate(asked).answers] == expected
    assert failed and torch.cuda.current_stream() == stream


@pytest.mark.parametrize("width", [16, 40, 64, 128])
@pytest.mark.parametrize(("queries", "keys"), [(1, 64), (10, 160), (16, 70), (20, 300)])
def test_the_attention_of_single_steps_is_that_of_torch(queries: int, keys: int, width: int) -> None:
    chosen = attention(torch.device("cuda", 0), torch.bfloat16, width)
    assert chosen is not by_torch, "Triton does not run here"
    torch.manual_seed(keys)
    made = torch.randn(5 * queries, 3 * 4 * width, device="cuda", dtype=torch.bfloat16)
    query = made[:, : 4 * width].view(5, queries, 4, width).transpose(1, 2)
    pairs = torch.randn(5, 4, keys, 2 * width, device="cuda", dtype=torch.bfloat16)
    for masks in (1, queries):
        seen = torch.rand(5, 1, masks, keys, device="cuda") < 0.2
        seen[1, :, :, :64] = False  # nothing of a tile
        seen[2, :, 0, :-1] = False
        seen[..., -1] = True
        mask = torch.zeros((), device="cuda", dtype=torch.bfloat16).where(seen, -torch.inf)
        expected = by_torch(query.float(), pairs.float(), mask.float())
        assert torch.allclose(chosen(query, pairs, mask).float(), expected, atol=0.03)
