"""The part of vLLM's interface that is used here, with transformers' `generate` behind it."""

import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM


@dataclass
class SamplingParams:
    max_tokens: int
    min_tokens: int = 0
    repetition_penalty: float = 1.0
    stop_token_ids: list[int] = field(default_factory=list)
    ignore_eos: bool = False
    detokenize: bool = True
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None


@dataclass
class Completion:
    token_ids: tuple[int, ...]


@dataclass
class Output:
    outputs: list[Completion]


class LLM:
    made: list["LLM"]
    refuses: str | None = None  # every model, with these words
    breaks: str | None = None  # when it is asked

    def __init__(self, model: str, dtype: str, **options: Any) -> None:
        if self.refuses:
            raise ValueError(self.refuses)
        assert options.pop("trust_remote_code") is False and options.pop("skip_tokenizer_init") is True
        self.options, self.sampling = options, list[SamplingParams]()
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self.made.append(self)

    def generate(
        self, prompts: list[dict[str, list[int]]], params: list[SamplingParams], use_tqdm: bool
    ) -> list[Output]:
        if self.breaks:
            raise RuntimeError(self.breaks)
        self.sampling += params
        return [self._one(prompt, one) for prompt, one in zip(prompts, params, strict=True)]

    def _one(self, prompt: dict[str, list[int]], params: SamplingParams) -> Output:
        assert set(prompt) == {"prompt_token_ids"} and params.ignore_eos and not params.detokenize
        ids = torch.tensor([prompt["prompt_token_ids"]])
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(params.seed or 0)
            out = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=params.max_tokens,
                min_new_tokens=params.min_tokens,
                eos_token_id=params.stop_token_ids,
                do_sample=params.temperature > 0,
                repetition_penalty=params.repetition_penalty,
            )
        return Output([Completion(tuple(out[0, ids.shape[1] :].tolist()))])


def install(monkeypatch: pytest.MonkeyPatch) -> type[LLM]:
    """Makes `import vllm` find the one here."""
    module = ModuleType("vllm")
    kind = type("LLM", (LLM,), {"made": []})
    module.LLM, module.SamplingParams = kind, SamplingParams  # type: ignore[attr-defined]
    module.__spec__ = __spec__
    monkeypatch.setitem(sys.modules, "vllm", module)
    return kind
