"""Whether a model gives in batches what it gives to each prompt alone: tried on a few tokens, before any row.

Architectures differ in what padding does to them and in what they keep from token to token. A batched way is taken
only when its scores are those of transformers' own `generate`, so an architecture that is laid out in another way
costs speed and never results.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from secbatch.models.configuration import padding_moves_tokens
from secbatch.models.generation_steps import NoKeysAndValuesError, Steps
from secbatch.models.laid_out import REFUSALS, lay_out
from secbatch.models.out_of_memory import is_out_of_memory
from secbatch.models.transformers_calls import quiet
from secbatch.models.trial_tokens import trial_tokens

# How a batch may be put together: of prompts of any lengths, of prompts of one length, or of one prompt.
Way = Literal["padded", "equal", "alone"]

STEPS = 3  # new tokens of a trial
LONG, SHORT = 7, 2  # tokens of its prompts; a convolution over tokens looks back on 4 as a rule
# Of what distinguishes the scores of tokens: rounding stays well below, a wrong way is far above.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.3}


@dataclass(frozen=True)
class _Alone:
    """What `generate` makes of one prompt."""

    prompt: list[int]
    tokens: Tensor  # [STEPS] int64
    logits: Tensor  # [STEPS, V] float32


@torch.inference_mode()
def lay_out_layers(model: Any) -> None:
    """Gives its linear layers the layout for inference, where it then still writes what it wrote before.

    `model`: nobody else uses it. What `generate` raises before, is raised.
    """
    prompt = trial_tokens(model, LONG).tolist()
    before = _alone(model, prompt)

    def same() -> bool:
        after = _alone(model, prompt)
        steps = 1 + int((after.tokens == before.tokens)[:-1].cumprod(0).sum())  # a near tie may fall another way
        return _close(after.logits[:steps], before.logits[:steps], _TOLERANCE[model.dtype])

    lay_out(model, same)


@torch.inference_mode()
def batched_way(model: Any, steps: Callable[[int], Steps]) -> Way:
    """The widest way in which `model` gives the scores that it gives alone.

    `steps`: makes new ones for a batch, which read so many prompt tokens at a time; here two of three prompts. What
    `generate` raises on a prompt alone, is raised.
    """
    ids = trial_tokens(model, 2 * LONG + SHORT).tolist()
    long, short = _alone(model, ids[:LONG]), _alone(model, ids[LONG : LONG + SHORT])
    if not padding_moves_tokens(model.config) and _agree(steps, [long, short, short], model.dtype):
        return "padded"
    other = _alone(model, ids[-LONG:])
    if _agree(steps, [long, other, other], model.dtype):
        return "equal"
    return "alone"


def _alone(model: Any, prompt: list[int]) -> _Alone:
    ids = torch.tensor([prompt], device=model.device)
    with quiet():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=STEPS,
            min_new_tokens=STEPS,
            do_sample=False,
            num_beams=1,
            num_return_sequences=1,
            disable_compile=True,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return _Alone(prompt, out.sequences[0, -STEPS:], torch.cat(out.logits).float())


def _agree(steps: Callable[[int], Steps], rows: list[_Alone], dtype: torch.dtype) -> bool:
    try:
        return _same(steps(2 * LONG), rows, _TOLERANCE[dtype])
    except REFUSALS as error:
        if is_out_of_memory(error):
            raise
        return False
    except NoKeysAndValuesError:
        return False


def _same(steps: Steps, rows: list[_Alone], tolerance: float) -> bool:
    """Two copies of each row: the second goes astray, becomes a copy of the first, and stays without it."""
    tokens = torch.stack([row.tokens for row in rows])  # [B, STEPS]
    wanted = torch.stack([row.logits for row in rows])  # [B, STEPS, V]
    firsts = torch.arange(len(rows), device=tokens.device) * 2
    if not _close(steps.start([row.prompt for row in rows], 2), wanted[:, 0].repeat_interleave(2, 0), tolerance):
        return False
    # the best or the second, not one of the prompt: a decoder may have another vocabulary than its encoder
    best, second = wanted[:, 0].topk(2).indices.unbind(1)
    astray = torch.where(tokens[:, 0] == best, second, best)
    logits = steps.step(torch.stack([tokens[:, 0], astray], 1).flatten())
    if not _close(logits[firsts], wanted[:, 1], tolerance):
        return False
    steps.reorder(firsts.repeat_interleave(2))
    steps.keep(firsts.flip(0) + 1)
    return _close(steps.step(tokens[:, 1].flip(0)), wanted[:, 2].flip(0), tolerance)


def _close(got: Tensor, wanted: Tensor, tolerance: float) -> bool:
    """Whether scores [R, V] are the same in each row. Entries that a model forbids say nothing."""
    if got.shape != wanted.shape:
        return False
    allowed = wanted.isfinite() & (wanted > -1e4)
    middle = wanted.masked_fill(~allowed, 0).sum(-1, keepdim=True) / allowed.sum(-1, keepdim=True)
    spread = (wanted - middle).masked_fill(~allowed, 0).norm(dim=-1)
    apart = (got - wanted).masked_fill(~allowed, 0).norm(dim=-1)
    return bool((apart <= tolerance * spread).all())
