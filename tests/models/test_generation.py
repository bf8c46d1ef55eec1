"""Batched generation against transformers' `generate` of one prompt at a time."""

import random
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from tiny_models import BLENDERBOT
from torch_threads import single_thread  # noqa: F401
from transformers import (
    BlenderbotConfig,
    BlenderbotForConditionalGeneration,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from secbatch.models import generation_steps
from secbatch.models.generation import Generator, Prompt
from secbatch.models.generation_batch import cut_at_end
from secbatch.models.generation_loop import LOOK_EVERY, NOT_FINITE
from secbatch.models.generation_settings import position_limit, settings_for
from secbatch.task_specs import Generation

VOCABULARY = 300


def sharpened(model: Any, generation: dict[str, Any], **tokens: int) -> Any:
    """Larger weights make tokens that stand far apart: agreement then is no accident of near-ties."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(5)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, **tokens, **generation)
    return model.eval()


def blenderbot(**generation: Any) -> Any:
    torch.manual_seed(0)
    size = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2}
    size |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    size |= {"encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "max_position_embeddings": 128}
    tokens = {"pad_token_id": 0, "decoder_start_token_id": 1}
    config = BlenderbotConfig(vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, **size, **tokens)
    model = BlenderbotForConditionalGeneration(config)
    model.final_logits_bias[0, 2] = 3.0  # so that answers end at many different lengths
    return sharpened(model, generation, **tokens)


def llama(**generation: Any) -> Any:
    torch.manual_seed(0)
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=2, max_position_embeddings=128, **size)
    return sharpened(LlamaForCausalLM(config), generation, pad_token_id=0)


def gpt2(**generation: Any) -> Any:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, n_positions=64)
    return sharpened(GPT2LMHeadModel(config), generation, pad_token_id=0)


def t5(**generation: Any) -> Any:
    torch.manual_seed(0)
    config = T5Config(vocab_size=VOCABULARY, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4)
    return sharpened(T5ForConditionalGeneration(config), generation, pad_token_id=0, decoder_start_token_id=0)


def prompts(model: Any, count: int = 12) -> list[list[int]]:
    chosen = random.Random(1)
    end = [2] if model.config.is_encoder_decoder else []
    lengths = [chosen.choice([1, 3, 8, 8, 8, 20, 33]) for _ in range(count)]
    return [[chosen.randrange(5, VOCABULARY) for _ in range(length)] + end for length in lengths]


def generator(model: Any, job: Generation, budget: int | None = None) -> Generator:
    positions, encoder_decoder = position_limit(model.config), model.config.is_encoder_decoder
    settings = settings_for(model.generation_config, job, positions, encoder_decoder, "tiny")
    return Generator(model, settings, budget)


def rows(model: Any, count: int) -> list[Prompt]:
    return [Prompt(text, seed) for seed, text in enumerate(prompts(model, count))]


def answers(model: Any, job: Generation, asked: list[Prompt], budget: int | None = None) -> list[list[int]]:
    made = generator(model, job, budget).generate(asked).answers
    assert [answer.error for answer in made] == [None] * len(asked)
    return [answer.tokens for answer in made]


def alone(model: Any, prompt: list[int], **arguments: Any) -> list[int]:
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), **arguments)[0].tolist()
    return cut_at_end(out[1 if model.config.is_encoder_decoder else len(prompt) :], (2,))


CASES = {
    "blenderbot, its own beam 10": (blenderbot, BLENDERBOT, {}),
    "blenderbot, greedy": (blenderbot, BLENDERBOT, {"num_beams": 1}),
    "beams stop early": (blenderbot, BLENDERBOT | {"early_stopping": True}, {"num_beams": 4}),
    "beams never stop early": (
        blenderbot,
        BLENDERBOT | {"early_stopping": "never", "length_penalty": 2.0, "max_length": 30},
        {"num_beams": 4},
    ),
    "repetition penalty, forced and suppressed tokens": (
        blenderbot,
        {
            "max_length": 40,
            "num_beams": 3,
            "repetition_penalty": 1.5,
            "forced_bos_token_id": 7,
            "suppress_tokens": [11],
            "begin_suppress_tokens": [9, 2],
        },
        {},
    ),
    "job's lengths": (
        blenderbot,
        BLENDERBOT | {"num_beams": 1},
        {"max_new_tokens": 30, "min_new_tokens": 5, "no_repeat_ngram_size": 2, "repetition_penalty": 1.2},
    ),
    "decoder, greedy": (llama, {}, {"max_new_tokens": 24}),
    "decoder, beam 5": (llama, {}, {"max_new_tokens": 24, "num_beams": 5, "length_penalty": 0.5}),
    "decoder, length limits of prompt and answer": (
        llama,
        {"max_length": 50, "min_length": 40, "no_repeat_ngram_size": 2, "forced_eos_token_id": 2},
        {"num_beams": 3, "repetition_penalty": 1.3},
    ),
    "decoder, n-grams of the prompt": (
        llama,
        {"encoder_no_repeat_ngram_size": 1, "forced_bos_token_id": 7},
        {"max_new_tokens": 24, "num_beams": 2},
    ),
    "decoder, two end tokens": (llama, {"eos_token_id": [2, 17]}, {"max_new_tokens": 24, "num_beams": 2}),
    "learned positions, up to the last": (gpt2, {"max_length": 64, "no_repeat_ngram_size": 2}, {}),
    "relative positions": (t5, {"no_repeat_ngram_size": 2}, {"max_new_tokens": 24, "num_beams": 3}),
    "as opus-mt": (
        t5,
        {"bad_words_ids": [[0], [9]], "renormalize_logits": True, "forced_eos_token_id": 2, "max_length": 30},
        {"num_beams": 4},
    ),
    "a rule only transformers has": (t5, {"typical_p": 0.9, "bad_words_ids": [[5]]}, {"max_new_tokens": 6}),
}


@pytest.mark.parametrize("case", CASES)
def test_each_prompt_gets_the_tokens_it_gets_alone(case: str, request: pytest.FixtureRequest) -> None:
    build, generation, job = CASES[case]
    if build is not blenderbot:
        request.getfixturevalue("single_thread")
    generation = dict(generation)
    end = generation.pop("eos_token_id", None)
    model = build(**generation)
    if end:
        model.generation_config.eos_token_id = end
    texts = prompts(model)
    # a budget small enough for several batches of several rows
    beams = job.get("num_beams", generation.get("num_beams", 1))
    made = generator(model, Generation(**job), budget=600 * beams)
    answers = made.generate([Prompt(text) for text in texts]).answers
    expected = [alone(model, text, **job) for text in texts]
    if end:
        expected = [cut_at_end(tokens, tuple(end)) for tokens in expected]
    assert [answer.error for answer in answers] == [None] * len(texts)
    assert [answer.tokens for answer in answers] == expected
    assert len({tuple(tokens) for tokens in expected}) > len(texts) // 3  # the prompts matter


@pytest.mark.usefixtures("single_thread")
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("build", [llama, gpt2, t5])
def test_how_often_is_looked_changes_nothing(build: Any, beams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(max_length=44)
    rows, job = [Prompt(text) for text in prompts(model, 6)], Generation(num_beams=beams)
    budget = 300 * beams  # two batches and more
    monkeypatch.setitem(LOOK_EVERY, "cpu", 1)
    expected = generator(model, job, budget).generate(rows).answers
    for every in (2, 8, 1000):
        monkeypatch.setitem(LOOK_EVERY, "cpu", every)
        assert generator(model, job, budget).generate(rows).answers == expected


SAMPLING = Generation(max_new_tokens=16, do_sample=True, temperature=1.5, top_p=0.95, top_k=40)


@pytest.mark.parametrize("build", [blenderbot, llama])
def test_a_sampled_row_does_not_depend_on_its_batch(build: Any) -> None:
    model = build()
    rows = [Prompt(text, seed) for seed, text in enumerate(prompts(model))]
    together = generator(model, SAMPLING).generate(rows).answers
    apart = [generator(model, SAMPLING).generate([row]).answers[0] for row in rows]
    reversed_ = generator(model, SAMPLING, budget=150).generate(rows[::-1]).answers[::-1]
    assert together == apart == reversed_


def test_the_row_s_seed_decides_what_is_sampled() -> None:
    model = llama()
    text = prompts(model)[0]
    answers = generator(model, SAMPLING).generate([Prompt(text, seed) for seed in range(20)]).answers
    assert len({tuple(answer.tokens) for answer in answers}) > 10


def test_beam_sampling_is_a_row_s_own() -> None:
    model = blenderbot()
    job = SAMPLING.model_copy(update={"num_beams": 3})
    rows = [Prompt(text, seed) for seed, text in enumerate(prompts(model, 6))]
    together = generator(model, job).generate(rows).answers
    assert together == [generator(model, job).generate([row]).answers[0] for row in rows]


def test_sampling_follows_the_probabilities_that_transformers_samples_from() -> None:
    model = llama()
    text = prompts(model)[2]
    job = SAMPLING.model_copy(update={"max_new_tokens": 1, "top_k": 5})
    answers = generator(model, job).generate([Prompt(text, seed) for seed in range(3000)]).answers
    ids = torch.tensor([text])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        return_dict_in_generate=True,
        output_scores=True,
        **job.model_dump(exclude_none=True, exclude={"seed"}),
    )
    expected = out.scores[0][0].softmax(-1)
    seen = torch.bincount(torch.tensor([(a.tokens or [2])[0] for a in answers]), minlength=VOCABULARY) / 3000
    assert torch.allclose(seen, expected, atol=0.04)
    assert set(seen.nonzero()[:, 0].tolist()) <= set(expected.nonzero()[:, 0].tolist())


def test_scores_that_are_no_numbers_spoil_only_their_row() -> None:
    for job in (Generation(max_new_tokens=8), Generation(max_new_tokens=8, num_beams=3)):
        model = llama()
        texts = [[5, 6, 7, 8], [9, 10, 11], [299, 5, 6], [12]]
        arguments = job.model_dump(exclude_none=True, exclude={"seed"})
        expected = [alone(model, text, **arguments) for text in texts]
        model.model.embed_tokens.weight.data[299] = float("nan")
        answers = generator(model, job).generate([Prompt(text) for text in texts]).answers
        assert (answers[2].tokens, answers[2].error) == ([], NOT_FINITE)
        for place in (0, 1, 3):
            assert answers[place].error is None
            # token 299 cannot be fed back without spoiling the row, so these rows must not have met it
            assert answers[place].tokens == expected[place]


def test_tokens_that_the_model_lacks_reject_the_row() -> None:
    made = generator(llama(), Generation(max_new_tokens=3))
    answers = made.generate([Prompt([5, 300]), Prompt([5]), Prompt([])]).answers
    assert answers[0].error == "the tokenizer gives token 300, but the model has only 300"
    assert answers[1].error is None and answers[1].tokens
    assert answers[2].error == "the tokenizer leaves nothing of the question"


@pytest.mark.parametrize("build", [blenderbot, llama])
def test_bfloat16_generates_whatever_the_batch(build: Any) -> None:
    model = build().to(torch.bfloat16)
    job = Generation(max_new_tokens=8, num_beams=2)
    answers = generator(model, job).generate([Prompt(text) for text in prompts(model)]).answers
    assert all(answer.error is None for answer in answers)
    assert max(len(answer.tokens) for answer in answers) > 0


def test_the_encoder_runs_once_a_row() -> None:
    model = blenderbot(**BLENDERBOT)
    rows: list[int] = []
    model.get_encoder().register_forward_pre_hook(
        lambda _module, _args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    generator(model, Generation(), budget=1 << 20).generate([Prompt(text) for text in prompts(model)])
    assert rows == [12]


@pytest.mark.usefixtures("single_thread")
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("at_once", [1, 40, 1000])
def test_an_encoder_gets_some_prompts_after_the_others(
    beams: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What more of them make in a layer would leave a CPU's caches."""
    monkeypatch.setattr(generation_steps, "READ_AT_ONCE", at_once)
    model = t5()
    texts = prompts(model)
    made = generator(model, Generation(max_new_tokens=8, num_beams=beams))
    shapes: list[tuple[int, int]] = []
    model.get_encoder().register_forward_pre_hook(
        lambda _module, _args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    answers = made.generate([Prompt(text) for text in texts]).answers
    assert sum(rows for rows, _ in shapes) == len(texts)
    assert all(rows == 1 or rows * width <= at_once for rows, width in shapes)
    widths = sorted((width for _, width in shapes), reverse=True)
    assert len(shapes) == {1: 12, 1000: 1}.get(at_once, len(shapes)) and 1 <= len(shapes) <= 12
    if at_once == 1:  # nobody is padded
        assert widths == sorted(map(len, texts), reverse=True)
    if at_once == 40:
        assert 1 < len(shapes) < 12
    assert [answer.tokens for answer in answers] == all_alone(t5, beams, 8)


@cache
def all_alone(build: Any, beams: int, tokens: int) -> list[list[int]]:
    """What each of `prompts` gets alone of a model of `build`, which is the same each time."""
    model = build()
    return [alone(model, text, max_new_tokens=tokens, num_beams=beams) for text in prompts(model)]


@pytest.mark.usefixtures("single_thread")
@pytest.mark.parametrize("build", [llama, gpt2])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("at_once", [1, 40, 1000])
def test_a_decoder_reads_some_prompts_after_the_others_and_answers_all_together(
    build: Any, beams: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation_steps, "READ_AT_ONCE", at_once)
    model = build()
    texts = prompts(model)
    made = generator(model, Generation(max_new_tokens=20, num_beams=beams), budget=1 << 20)
    shapes = shapes_read(model)
    out = made.generate([Prompt(text) for text in texts])
    read, steps = [shape for shape in shapes if shape[1] > 1], [rows for rows, width in shapes if width == 1]
    if at_once == 1000:
        assert read == [(12, 33)]
    elif at_once == 40:  # as many as fit; nobody is padded further than to the longest of those that come together
        assert read == [(1, 33)] * 4 + [(5, 8), (3, 3)]
    else:
        assert [width for _, width in read] == sorted((len(text) for text in texts if len(text) > 1), reverse=True)
        assert out.padding == 0
    assert max(steps) == 12 * beams
    assert [answer.tokens for answer in out.answers] == all_alone(build, beams, 20)


def test_a_cache_that_cannot_be_put_together_is_of_prompts_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation_steps, "READ_AT_ONCE", 40)
    monkeypatch.setattr(generation_steps, "joins", lambda _cache: False)
    model = llama()
    texts = prompts(model)
    made = generator(model, Generation(max_new_tokens=8))
    shapes = shapes_read(model)
    out = made.generate([Prompt(text) for text in texts])
    assert shapes[:2] == [(1, 33), (12, 33)] and out.padding == sum(33 - len(text) for text in texts)
    assert [answer.tokens for answer in out.answers] == [alone(model, text, max_new_tokens=8) for text in texts]


def shapes_read(model: Any) -> list[tuple[int, int]]:
    """The shapes of ids that `model` gets from now on."""
    shapes: list[tuple[int, int]] = []
    model.register_forward_pre_hook(
        lambda _module, _args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return shapes


def test_padding_and_tokens_are_counted() -> None:
    model = llama()
    made = generator(model, Generation(max_new_tokens=4))
    made = Generator(model, replace(made.settings, end_tokens=()), budget=None)
    out = made.generate([Prompt([5, 6, 7]), Prompt([8])])
    assert (out.tokens, out.padding) == (3 + 1 + 2 * 4, 2)
