"""transformers' own `generate` of one prompt: for what the batched loops do not know, and to see what it refuses."""

from typing import Any

import torch
from torch import Tensor

from secbatch.errors import JobError, ModelError
from secbatch.models.generation_batch import cut_at_end
from secbatch.models.generation_settings import GenerationSettings
from secbatch.models.seeds import seed_torch
from secbatch.models.transformers_calls import quiet
from secbatch.models.trial_tokens import trial_tokens

STEPS = 2  # new tokens of a trial: the second one comes from what the first has left


def generate_alone(
    model: Any, settings: GenerationSettings, prompt: list[int], seed: int, tokenizer: Any = None
) -> list[int]:
    """New tokens up to the first end token, with random numbers of the row's own."""
    out = _generate(model, settings, prompt, seed, tokenizer)
    return cut_at_end(out[1 if model.config.is_encoder_decoder else len(prompt) :].tolist(), settings.end_tokens)


@torch.inference_mode()
def check_settings(model: Any, settings: GenerationSettings, name: str, tokenizer: Any = None) -> None:
    """Raises JobError when transformers has no beams for a model, ModelError when it refuses what its files ask for.

    It would do so at the first row, and the batched loops would make something of settings that mean nothing.
    """
    problem = _refusal(model, settings, tokenizer)
    if problem is None:
        return
    if settings.num_beams > 1 and _refusal(model, settings, tokenizer, num_beams=1) is None:
        raise JobError(
            f"generation.num_beams is {settings.num_beams}, which transformers has not for model {name} ({problem});"
            " set it to 1"
        ) from problem
    raise ModelError(
        f"model {name}: transformers does not generate with it as its settings say ({problem}); see its config.json and"
        " generation_config.json"
    ) from problem


def _refusal(model: Any, settings: GenerationSettings, tokenizer: Any, **changes: Any) -> Exception | None:
    prompt = trial_tokens(model, STEPS).tolist()
    try:
        with quiet():
            _generate(model, settings, prompt, 0, tokenizer, max_new_tokens=STEPS, **changes)
    except (IndexError, OverflowError, ValueError) as problem:
        return problem
    return None


def _generate(
    model: Any, settings: GenerationSettings, prompt: list[int], seed: int, tokenizer: Any, **changes: Any
) -> Tensor:
    """[L] int64: the prompt, or the decoder's start, and what follows.

    Nothing is compiled: on a GPU transformers does so for caches of a fixed size, anew for prompts of another length.
    """
    ids = torch.tensor([prompt], device=model.device)
    own = {"num_return_sequences": 1, "return_dict_in_generate": False, "disable_compile": True}
    arguments = {**dict(settings.overrides), **own, **changes}
    if model.generation_config.stop_strings is not None:
        arguments["tokenizer"] = tokenizer
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        seed_torch(seed, model.device)
        sequences: Tensor = model.generate(ids, attention_mask=torch.ones_like(ids), **arguments)
    return sequences[0]
