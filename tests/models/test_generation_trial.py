"""Which way a model generates in batches: padded, in equal lengths, or alone; always the tokens that it gives alone."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from test_generation import VOCABULARY, alone, generator, llama, prompts, sharpened, t5
from tiny_models import chat_tokenizer, resolved
from torch_threads import one_thread  # noqa: F401
from transformers import (
    AutoModelForCausalLM,
    BigBirdPegasusConfig,
    BigBirdPegasusForConditionalGeneration,
    BloomConfig,
    CpmAntConfig,
    FalconH1Config,
    FSMTConfig,
    FSMTForConditionalGeneration,
    Lfm2Config,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MambaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    ProphetNetConfig,
    ProphetNetForConditionalGeneration,
    RwkvConfig,
)

from secbatch.errors import ModelError
from secbatch.models import generation_steps
from secbatch.models.block_sparse import keep_block_sparse
from secbatch.models.device import choose
from secbatch.models.generation import Generator, Prompt
from secbatch.models.generation_cache import joined
from secbatch.models.generation_steps import DecoderSteps, EncoderDecoderSteps
from secbatch.models.resolved import ResolvedModel
from secbatch.models.trial_tokens import special_tokens, trial_tokens
from secbatch.task_specs import Generation
from secbatch.tasks.text_generator import TextGenerator

SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}
STATE = {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 8}
RWKV = "a state of its own kind"
# Names of the attributes `stock` and `pads` of a Generator that are true.
ARCHITECTURES: dict[str, tuple[PretrainedConfig, list[str]]] = {
    "keys in a window": (MistralConfig(**SMALL, **HEADS, sliding_window=4), ["pads"]),
    "positions by the mask": (BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4), ["pads"]),
    "keys and a convolution": (Lfm2Config(**SMALL, **HEADS, layer_types=["conv", "full_attention"]), ["pads"]),
    "keys and a state in one layer": (FalconH1Config(**SMALL, **HEADS, **STATE), ["pads"]),
    "a state alone": (MambaConfig(**SMALL, state_size=4), ["pads"]),
    "columns that padding moves": (MistralConfig(**SMALL, **HEADS, index_topk=4), []),
    RWKV: (RwkvConfig(**SMALL, context_length=64), ["stock"]),
    "steps of its own kind": (
        CpmAntConfig(**SMALL, num_attention_heads=4, dim_head=8, dim_ff=64, prompt_length=4, prompt_types=4),
        ["stock"],
    ),
}


def made_of(generated: Generator) -> list[str]:
    return [name for name in ("stock", "pads") if getattr(generated, name)]


@pytest.mark.parametrize("at_once", [1, 20, 1000])
@pytest.mark.parametrize(
    ("kind", "beams"), [(kind, beams) for kind in ARCHITECTURES for beams in (1, 3) if (kind, beams) != (RWKV, 3)]
)
def test_any_state_gives_the_tokens_that_a_prompt_gets_alone(
    kind: str, beams: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation_steps, "READ_AT_ONCE", at_once)
    model = made_anew(kind)
    generated = generator(model, Generation(max_new_tokens=8, num_beams=beams))
    assert made_of(generated) == ARCHITECTURES[kind][1]
    end, wanted = all_alone(kind, beams)
    model.generation_config.eos_token_id = [2, end]
    generated = generator(model, Generation(max_new_tokens=8, num_beams=beams))
    answers = generated.generate([Prompt(text) for text in TEXTS]).answers
    assert [answer.tokens for answer in answers] == wanted


TEXTS = [list(range(start, start + length)) for start, length in ((40, 9), (90, 9), (7, 4), (150, 4), (200, 1))]


def made_anew(kind: str) -> Any:
    torch.manual_seed(0)
    return sharpened(AutoModelForCausalLM.from_config(ARCHITECTURES[kind][0]), {}, pad_token_id=0)


@cache
def all_alone(kind: str, beams: int) -> tuple[int, list[list[int]]]:
    """A token at which a row leaves the others, and what each of TEXTS gets alone up to it."""
    model = made_anew(kind)
    end = alone(model, TEXTS[0], max_new_tokens=8)[3]
    model.generation_config.eos_token_id = [2, end]
    found = [alone(model, text, max_new_tokens=8, num_beams=beams) for text in TEXTS]
    return end, [tokens[: tokens.index(end)] if end in tokens else tokens for tokens in found]


@pytest.mark.parametrize("beams", [1, 3])
def test_long_texts_are_looked_at_in_blocks_after_short_ones(beams: int) -> None:
    """BigBird-Pegasus, which looks at all keys, for good, once it has seen a short text."""

    def summarizer() -> Any:
        torch.manual_seed(0)
        layers = {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "d_model": 32}
        heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 128}
        blocks = {"block_size": 4, "num_random_blocks": 1}  # for texts of more than 28 tokens
        config = BigBirdPegasusConfig(vocab_size=VOCABULARY, **layers, **heads, **blocks)
        tokens = {"pad_token_id": 0, "decoder_start_token_id": 1}
        made = sharpened(BigBirdPegasusForConditionalGeneration(config), {}, **tokens)
        for name, weight in made.named_parameters():
            if weight.ndim > 1 and "_attn" in name:  # so that much depends on what is looked at
                weight.data.mul_(4)
        return made

    model = summarizer()
    keep_block_sparse(model)
    generated = generator(model, Generation(max_new_tokens=8, num_beams=beams))
    assert made_of(generated) == ["pads"]
    texts = [list(range(start, start + length)) for start, length in ((5, 90), (60, 40), (9, 29), (80, 28), (99, 6))]
    for _ in range(2):
        answers = generated.generate([Prompt(text) for text in texts]).answers
        assert [answer.tokens for answer in answers] == [
            alone(summarizer(), text, max_new_tokens=8, num_beams=beams) for text in texts
        ]


@pytest.mark.parametrize("beams", [1, 3])
def test_an_encoder_s_output_is_handed_on_as_it_is(beams: int) -> None:
    torch.manual_seed(0)
    layers = {"num_encoder_layers": 2, "num_decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    heads = {"num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4, "max_position_embeddings": 64}
    config = ProphetNetConfig(vocab_size=VOCABULARY, hidden_size=32, **layers, **heads)
    tokens = {"pad_token_id": 0, "decoder_start_token_id": 1}
    model = sharpened(ProphetNetForConditionalGeneration(config), {}, **tokens)
    generated = generator(model, Generation(max_new_tokens=8, num_beams=beams))
    assert made_of(generated) == ["pads"]
    texts = prompts(model, 6)
    answers = generated.generate([Prompt(text) for text in texts]).answers
    assert [answer.tokens for answer in answers] == [
        alone(model, text, max_new_tokens=8, num_beams=beams) for text in texts
    ]


def translator() -> Any:
    """Its decoder has fewer words than its encoder."""
    torch.manual_seed(0)
    layers = {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "d_model": 32}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 64}
    config = FSMTConfig(langs=["en", "de"], src_vocab_size=VOCABULARY, tgt_vocab_size=40, **layers, **heads)
    return sharpened(FSMTForConditionalGeneration(config), {}, pad_token_id=1, decoder_start_token_id=2)


def test_a_decoder_has_a_smaller_vocabulary_than_its_encoder() -> None:
    model = translator()
    generated = generator(model, Generation(max_new_tokens=8))
    assert made_of(generated) == ["pads"]
    texts = prompts(model, 6)
    answers = generated.generate([Prompt(text) for text in texts]).answers
    assert [answer.tokens for answer in answers] == [alone(model, text, max_new_tokens=8) for text in texts]


@pytest.mark.parametrize("build", [llama, t5])
@pytest.mark.parametrize("fault", ["mask", "order", "error"])
def test_a_way_that_gives_other_scores_is_not_taken(build: Any, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = EncoderDecoderSteps if build is t5 else DecoderSteps
    start, reorder = kind.start, kind.reorder

    def unmasked(self: Any, prompts: list[list[int]], copies: int) -> torch.Tensor:
        longest = max(map(len, prompts))
        return start(self, [[0] * (longest - len(prompt)) + prompt for prompt in prompts], copies)

    def broken(self: Any, prompts: list[list[int]], copies: int) -> torch.Tensor:
        raise IndexError("one key too many")

    if fault == "mask":
        monkeypatch.setattr(kind, "start", unmasked)
    elif fault == "order":
        monkeypatch.setattr(kind, "reorder", lambda self, source: reorder(self, source.flip(0)))
    else:
        monkeypatch.setattr(kind, "start", broken)
    generated = generator(build(), Generation(max_new_tokens=4))
    assert made_of(generated) == ([] if fault == "mask" else ["stock"])


def test_prompts_that_are_read_apart_are_part_of_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    def astray(caches: list[Any]) -> Any:
        apart, together = len(caches) > 1, joined(caches)
        if apart:
            together.layers[0].keys.zero_()
        return together

    monkeypatch.setattr(generation_steps, "joined", astray)
    assert made_of(generator(llama(), Generation(max_new_tokens=4))) == ["stock"]


def test_a_model_that_looks_at_chosen_keys_is_not_padded() -> None:
    """Of keys with equal scores it takes those in certain columns, in texts that are longer than the trial's."""
    model = llama()
    model.config.index_topk = 2048  # as DeepSeek V3.2's
    assert made_of(generator(model, Generation(max_new_tokens=4))) == []


def test_memory_that_runs_out_in_the_trial_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(DecoderSteps, "start", full)
    with pytest.raises(torch.OutOfMemoryError):
        generator(llama(), Generation(max_new_tokens=4))


@pytest.mark.parametrize("beams", [1, 3])
def test_positions_that_are_turned_in_another_way_in_long_texts_are_those_of_a_prompt_alone(beams: int) -> None:
    """LongRoPE: in a batch the longest text would decide for all, and an answer that becomes long begins anew."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [1.5, 2.5, 4.0, 6.0]}
    turned = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 32, **factors}
    own = {"original_max_position_embeddings": 32, "max_position_embeddings": 128, "rope_parameters": turned}
    torch.manual_seed(0)
    config = Phi3Config(**SMALL, **HEADS, **own, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    model = sharpened(AutoModelForCausalLM.from_config(config), {}, pad_token_id=0)
    generated = generator(model, Generation(max_new_tokens=8, num_beams=beams))
    assert made_of(generated) == ["pads"]
    lengths = (50, 33, 28, 26, 25, 24, 9, 9, 3)  # with their answers some end at 32 tokens, some just beyond
    texts = [list(range(start, start + length)) for start, length in zip(range(5, 200, 20), lengths, strict=False)]
    answers = generated.generate([Prompt(text) for text in texts]).answers
    wanted = [alone(model, text, max_new_tokens=8, num_beams=beams) for text in texts]
    assert [answer.tokens for answer in answers] == wanted


def test_a_model_that_cannot_generate_is_one_sentence(
    tiny: Callable[[str], ResolvedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = TextGenerator(Generation(max_new_tokens=4), tiny("llama_chat"), choose("cpu", "float32"))
    monkeypatch.setattr("transformers.LlamaForCausalLM.forward", lambda *_, **__: None.last)  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match=r"a forward over a few tokens fails \('NoneType' object has no attribute"):
        made.load()


def test_a_model_that_also_takes_images_answers(tmp_path: Path) -> None:
    words = chat_tokenizer()
    text = {"model_type": "llama", "vocab_size": len(words), "hidden_size": 32, "num_hidden_layers": 2, **HEADS}
    image = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes = {"model_type": "clip_vision_model", "image_size": 8, "patch_size": 4}
    config = LlavaConfig(text_config=text, vision_config=image | sizes, image_token_index=len(words) - 1)
    torch.manual_seed(0)
    model = sharpened(LlavaForConditionalGeneration(config), {}, pad_token_id=0)
    model.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    made = TextGenerator(Generation(max_new_tokens=6), resolved(tmp_path), choose("cpu", "float32"))
    made.load()
    assert isinstance(made._generator, Generator) and made_of(made._generator) == ["pads"]
    texts = [[40, 41, 42, 43, 44], [90, 91], [7, 8, 9]]
    answers = made._generator.generate([Prompt(text) for text in texts]).answers
    assert [answer.tokens for answer in answers] == [alone(model, text, max_new_tokens=6) for text in texts]


def test_trial_tokens_are_ordinary_ones() -> None:
    model = llama()
    model.config.image_token_id, model.config.eos_token_id = 7, [2, 9]
    assert special_tokens(model.config) >= {1, 2, 7, 9}
    tokens = trial_tokens(model, 400)
    assert tokens.max() < VOCABULARY and not set(tokens.tolist()) & {2, 7, 9}
    assert (tokens[1:] != tokens[:-1]).all()
