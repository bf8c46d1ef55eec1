"""Generation by vLLM in this process: the prompts' token ids in, as for the generator here, and new ones out.

vLLM batches continuously over paged keys and values (Kwon et al. 2023, https://arxiv.org/abs/2309.06180). It is given
token ids and gives token ids: what stands in a row stays text, whatever control tokens it spells.
"""

import importlib.util
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from secbatch.errors import ModelError, SecbatchError, cause
from secbatch.models.generation_settings import GenerationSettings

if TYPE_CHECKING:
    from secbatch.models.device import Compute
    from secbatch.models.generation import Generated, Prompt
    from secbatch.models.resolved import ResolvedModel

# Of the GPU's memory: as much as is free, less room for what the models of other tasks take while they work.
MOST_MEMORY, ROOM = 0.9, 0.1
# vLLM reports each start to a server of its makers unless it is told not to; nothing of this machine leaves it.
SETTINGS = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    # Workers that are begun anew would import the program that called secbatch.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
NEUTRAL: dict[str, Any] = {
    "num_beams": 1,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "forced_bos_token_id": None,
    "forced_eos_token_ids": (),
    "suppress_tokens": (),
    "begin_suppress_tokens": (),
    "stock": (),
}  # settings that vLLM has no equal of, with the value at which each has no effect


def installed() -> bool:
    return importlib.util.find_spec("vllm") is not None


def hindrance(settings: GenerationSettings, encoder_decoder: bool, device: str) -> str | None:
    """Why vLLM cannot do what the generator here would; None where it can."""
    if encoder_decoder:
        return "it runs decoder-only models"
    if device not in ("cpu", "cuda", "cuda:0"):
        return f"it takes the first GPU that the process sees, not {device}; set CUDA_VISIBLE_DEVICES instead"
    for name, idle in NEUTRAL.items():
        if getattr(settings, name) != idle:
            return f"it has no equal of the model's or job's {name}"
    return None


class VllmGenerator:
    """What `Generator` is to its callers. Making it loads the weights."""

    def __init__(self, resolved: "ResolvedModel", settings: GenerationSettings, compute: "Compute") -> None:
        """Raises ModelError when vLLM cannot run the model."""
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        from vllm import LLM

        self.settings = settings
        options: dict[str, Any] = {}
        if compute.device.startswith("cuda"):
            options["gpu_memory_utilization"] = _free_share(compute.device)
        try:
            self._model = LLM(
                model=str(resolved.folder),
                dtype=compute.dtype,
                seed=settings.seed,
                skip_tokenizer_init=True,
                use_tqdm_on_load=False,
                trust_remote_code=False,
                **options,
            )
        except Exception as problem:  # of any kind, by the model's architecture and the hardware
            raise ModelError(f"vLLM cannot run model {resolved.name}: {cause(problem).rstrip('.')}") from problem

    def generate(self, prompts: "Sequence[Prompt]") -> "Generated":
        """Answers for `prompts`. Raises ModelError when vLLM breaks down."""
        from secbatch.models.generation import Generated
        from secbatch.models.generation_batch import Answer, cut_at_end

        answers = [
            Answer([], None if prompt.tokens else "the tokenizer leaves nothing of the question") for prompt in prompts
        ]
        asked = [place for place, prompt in enumerate(prompts) if prompt.tokens]
        if asked:
            try:
                done = self._model.generate(
                    [{"prompt_token_ids": prompts[place].tokens} for place in asked],
                    [self._sampling(prompts[place]) for place in asked],
                    use_tqdm=False,
                )
            except SecbatchError:  # an interrupt
                raise
            except Exception as problem:  # its engine has died: nothing can be asked of it any more
                raise ModelError(f"vLLM broke down: {cause(problem).rstrip('.')}") from problem
            for place, output in zip(asked, done, strict=True):
                answers[place] = Answer(cut_at_end(list(output.outputs[0].token_ids), self.settings.end_tokens))
        tokens = sum(len(prompt.tokens) for prompt in prompts) + sum(len(answer.tokens) for answer in answers)
        return Generated(answers, tokens, 0)

    def _sampling(self, prompt: "Prompt") -> Any:
        from vllm import SamplingParams

        settings, length = self.settings, len(prompt.tokens)
        limit = settings.new_token_limit(length)
        values: dict[str, Any] = {
            "max_tokens": limit,
            "min_tokens": min(limit, max(settings.min_new_tokens, settings.min_length - length)),
            "repetition_penalty": settings.repetition_penalty,
            "stop_token_ids": list(settings.end_tokens),
            "ignore_eos": True,  # the end tokens are those of the settings
            "detokenize": False,
            "temperature": 0.0,
        }
        if settings.do_sample:
            values |= {
                "temperature": settings.temperature,
                "top_p": settings.top_p,
                "top_k": settings.top_k,
                "min_p": settings.min_p or 0.0,
                "seed": prompt.seed,
            }
        return SamplingParams(**values)


def _free_share(device: str) -> float:
    import torch

    free, total = torch.cuda.mem_get_info(device)
    return round(max(ROOM, min(MOST_MEMORY, free / total - ROOM)), 3)
