"""A model that writes: prompts as token ids in, clean text out. What chat and seq2seq have in common."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from secbatch.errors import ModelError
from secbatch.models.configuration import load_config
from secbatch.models.generation_settings import (
    GenerationSettings,
    position_limit,
    read_generation_config,
    settings_for,
)
from secbatch.models.generation_vllm import VllmGenerator, hindrance, installed
from secbatch.models.load import load_model
from secbatch.models.tokenizer_files import load_tokenizer
from secbatch.models.tokenizer_panics import panics_told
from secbatch.row_hash import digests
from secbatch.tasks.generated_text import clean, row_seed
from secbatch.tasks.repeats import Repeats

if TYPE_CHECKING:
    from secbatch.models.device import Compute
    from secbatch.models.generation import Generator, Prompt
    from secbatch.models.resolved import ResolvedModel
    from secbatch.task_specs import Generation


@dataclass(frozen=True)
class Written:
    """What a model makes of one prompt, or why there is nothing."""

    text: str | None
    tokens: int  # new ones, before the first end token
    error: str | None = None


class TextGenerator:
    """A model with its tokenizer and generation settings. Cheap to make; `load` brings the weights."""

    def __init__(
        self,
        generation: "Generation",
        resolved: "ResolvedModel",
        compute: "Compute",
        scratch: Path | None = None,
        runtime: Literal["auto", "torch", "vllm"] = "torch",
    ) -> None:
        """`scratch`: a folder for what is remembered of a run; None: prompts that come again are done again.
        `runtime`: what generates; `auto` is vLLM where it is installed, the model is at home there, and there is a GPU.

        Raises ModelError when the model cannot generate, JobError when not as `generation` wants it to.
        """
        self._resolved, self._compute = resolved, compute
        self.config = load_config(resolved)
        self.tokenizer = load_tokenizer(resolved)
        self.hf = self.tokenizer.hf
        self.encoder_decoder = bool(self.config.is_encoder_decoder)
        positions = position_limit(self.config) if self.encoder_decoder else self.tokenizer.max_length
        defaults = read_generation_config(resolved.folder, self.config)
        self.settings: GenerationSettings = settings_for(
            defaults, generation, positions, self.encoder_decoder, resolved.name
        )
        self.notices: tuple[str, ...] = compute.notices  # what a user should know; complete after `load`
        self._generator: Generator | VllmGenerator | None = None
        self._runtime = runtime
        self._vllm = self._goes_through_vllm()
        # In float32 on a GPU a near tie of two tokens may fall another way in another batch: nothing is remembered,
        # so that a run that is resumed gives the same text.
        steady = compute.dtype != "float32" or compute.device == "cpu"
        self._repeats = Repeats(scratch if steady and not self.settings.do_sample else None)
        self.tokens = self.padding = 0  # positions worked on so far

    @property
    def remembers(self) -> bool:
        """Whether equal prompts are generated for once in a run."""
        return self._repeats.remembers

    @property
    def samples(self) -> bool:
        """Whether texts are drawn by chance, each with its row's own random numbers."""
        return self.settings.do_sample

    def facts(self) -> dict[str, Any]:
        """What decides the text that follows given token ids, as plain JSON values."""
        resolved = self._resolved
        settings = dataclasses.asdict(self.settings)
        if not settings["renormalize"]:  # as before there was such a setting: what is done stays done
            del settings["renormalize"]
        if self._vllm and self.settings.do_sample:  # which has random numbers of its own
            settings["runtime"] = "vllm"
        return {
            "settings": settings,
            "model": [resolved.name, resolved.hub_id, resolved.revision],
            "weights": resolved.weights_hash,
            "tokenizer": resolved.tokenizer_hash,
            "config": hashlib.sha256((resolved.folder / "config.json").read_bytes()).hexdigest(),
            "precision": self._compute.dtype,
        }

    def _goes_through_vllm(self) -> bool:
        """Raises ModelError where it has to and cannot."""
        if self._runtime == "torch" or (self._runtime == "auto" and self._compute.device == "cpu"):
            return False
        if not installed():
            if self._runtime == "auto":
                return False
            raise ModelError("runtime: vllm needs vllm; install it with `pip install 'secbatch[vllm]'`")
        why = hindrance(self.settings, self.encoder_decoder, self._compute.device)
        if why is not None and self._runtime == "vllm":
            raise ModelError(f"runtime: vllm cannot be for model {self._resolved.name}: {why}")
        return why is None

    def load(self) -> None:
        self.notices = self._compute.notices
        if self._vllm:
            try:
                self._generator = VllmGenerator(self._resolved, self.settings, self._compute)
                return
            except ModelError as problem:
                if self._runtime == "vllm" or self.settings.do_sample:
                    raise
                self.notices = (*self.notices, f"{problem}; torch runs it instead (runtime: torch)")
        from secbatch.models.first_forward import first_forward
        from secbatch.models.generation import Generator
        from secbatch.models.generation_stock import check_settings

        kind: Any = "seq2seq" if self.encoder_decoder else "causal"
        loaded = load_model(self._resolved, kind, self._compute)
        with first_forward(self._resolved):
            check_settings(loaded.model, self.settings, self._resolved.name, self.hf)
            self._generator = Generator(loaded.model, self.settings, tokenizer=self.hf, owned=True)
        slower = self._compute.remarks_on_attention([self._generator.head_width])
        self.notices = (*self.notices, *loaded.notices, *slower)

    def write(self, prompts: Sequence[list[int]], rows: Sequence[str]) -> list[Written]:
        """A text for each prompt; `rows` names the row of each, which seeds its sampling.

        Equal prompts are generated for once in a run, except when tokens are sampled.
        """
        from secbatch.models.generation import Prompt

        places: dict[object, int] = {}  # what makes a text -> its place in `distinct`
        distinct: list[Prompt] = []
        wanted: list[int] = []
        for tokens, row in zip(prompts, rows, strict=True):
            seed = row_seed(self.settings.seed, row) if self.settings.do_sample else 0
            key = (tuple(tokens), seed)
            if key not in places:
                places[key] = len(distinct)
                distinct.append(Prompt(tokens, seed))
            wanted.append(places[key])
        if not distinct:
            return []
        keys = digests([np.array(prompt.tokens, np.int32).tobytes() for prompt in distinct])
        known = self._repeats.find(keys)
        new = [place for place in range(len(distinct)) if place not in known]
        made = dict(zip(new, self._generated([distinct[place] for place in new]), strict=True))
        self._remember(keys, made)
        written = [made[place] if place in made else _unpacked(known[place]) for place in range(len(distinct))]
        return [written[place] for place in wanted]

    def _generated(self, prompts: "list[Prompt]") -> list[Written]:
        assert self._generator is not None, "load() comes first"
        if not prompts:
            return []
        made = self._generator.generate(prompts)
        self.tokens, self.padding = self.tokens + made.tokens, self.padding + made.padding
        with panics_told():
            texts = self.hf.batch_decode([answer.tokens for answer in made.answers], skip_special_tokens=True)
        return [
            Written(clean(text), len(answer.tokens)) if answer.error is None else Written(None, 0, answer.error)
            for text, answer in zip(texts, made.answers, strict=True)
        ]

    def _remember(self, keys: np.ndarray, made: dict[int, Written]) -> None:
        good = [(place, _packed(one)) for place, one in made.items() if one.error is None]
        if good:
            joined = np.frombuffer(b"".join(packed for _, packed in good), np.uint8)
            sizes = np.array([len(packed) for _, packed in good], np.int64)
            self._repeats.add(keys[[place for place, _ in good]], joined, sizes)


def _packed(written: Written) -> bytes:
    return written.tokens.to_bytes(4, "little") + (written.text or "").encode()


def _unpacked(packed: bytes) -> Written:
    return Written(packed[4:].decode(), int.from_bytes(packed[:4], "little"))
