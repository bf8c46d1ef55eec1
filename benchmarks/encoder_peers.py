"""The peers of the encoder benchmark, each with the settings among which its best is looked for.

They start from sentences in memory and end with words and scores, or vectors, in memory: no file is read or written.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

# Of a pipeline: full run, quick run. It copies the scores of the whole vocabulary for each token.
CPU_BATCHES, CUDA_BATCHES = ((1, 4, 8, 16, 32, 64), (8, 32, 64)), ((32, 128, 512), (128, 512))
ENCODE_BATCHES = {"cpu": (8, 16, 32, 64), "cuda": (128, 512, 2048)}
OPENVINO_BATCHES = (8, 16, 32)
TOP_K = 10


@dataclass(frozen=True)
class Way:
    """A peer with one setting."""

    who: str
    setting: str
    precision: str
    batch: int
    sort: bool  # whether it is given sentences of like length together
    work: Callable[[list[str]], object]
    compiles: bool = False  # it compiles for shapes that it meets for the first time
    least: int = 1  # batches: it works on several side by side


def peers(task: str, model: Path, tokenizer: Any, device: str, precision: str, quick: bool) -> Iterator[list[Way]]:
    """Lists of ways; the ways of a list differ by their setting only."""
    if task == "fill-mask":
        batches = (CUDA_BATCHES if device.startswith("cuda") else CPU_BATCHES)[quick]
        stock = list(_pipeline(model, tokenizer, device, precision, batches))
        yield [way for way in stock if not way.sort]
        yield [way for way in stock if way.sort]
    elif find_spec("sentence_transformers"):
        sizes = ENCODE_BATCHES[device.partition(":")[0]]
        yield list(_sentence_transformers(model, device, precision, sizes[quick:]))
    if device == "cpu" and find_spec("openvino"):
        yield list(_openvino(task, model, tokenizer, precision, quick))


def missing() -> list[str]:
    return [name for name in ("sentence_transformers", "openvino") if not find_spec(name)]


def _pipeline(model: Path, tokenizer: Any, device: str, precision: str, batches: tuple[int, ...]) -> Iterator[Way]:
    from transformers import pipeline

    stock: Any = pipeline(
        "fill-mask", model=str(model), tokenizer=tokenizer, top_k=TOP_K, device=device, dtype=getattr(torch, precision)
    )

    def work(batch: int, texts: list[str]) -> object:
        return stock([text.replace("<mask>", tokenizer.mask_token) for text in texts], batch_size=batch)

    for batch in batches:
        for sort in (False, True) if batch > 1 else (False,):
            who = f"transformers pipeline{', sorted input' if sort else ''}"
            yield Way(who, f"batches of {batch}", precision, batch, sort, partial(work, batch))


def _sentence_transformers(model: Path, device: str, precision: str, batches: tuple[int, ...]) -> Iterator[Way]:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    base = Transformer(str(model), model_kwargs={"dtype": precision})
    encoder: Any = SentenceTransformer(modules=[base, Pooling(base.get_embedding_dimension(), "mean")], device=device)

    def work(batch: int, texts: list[str]) -> object:
        return encoder.encode(texts, batch_size=batch, show_progress_bar=False)

    for batch in batches:
        setting = f"batches of {batch}, sorted"
        yield Way("sentence-transformers encode", setting, precision, batch, True, partial(work, batch))


class _Graph(torch.nn.Module):
    """What OpenVINO is given to convert: with the head at the masks only and the best words chosen inside."""

    def __init__(self, task: str, model: Any) -> None:
        super().__init__()
        self.base, self.head, self._masks = model.roberta, model.lm_head, task == "fill-mask"

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, places: torch.Tensor) -> Any:
        """`places` [m]: of the masks in the flat rectangle."""
        states = self.base(input_ids=input_ids, attention_mask=attention_mask)[0]  # [B, L, hidden]
        if self._masks:
            logits = self.head(states.flatten(0, 1)[places])  # [m, vocabulary]
            top = logits.topk(TOP_K, dim=-1)
            return top.indices, (top.values - logits.logsumexp(-1, keepdim=True)).exp()
        real = attention_mask[:, :, None].to(states.dtype)
        return (states * real).sum(1) / real.sum(1) + 0 * places.sum()


@cache
def _converted(task: str, model: Path, mask_id: int) -> Any:
    import openvino
    from transformers import AutoModelForMaskedLM

    graph = _Graph(task, AutoModelForMaskedLM.from_pretrained(model, dtype=torch.float32).eval())
    ids = torch.tensor([[5, 6, mask_id, 7], [5, mask_id, 6, 7]])
    sample = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "places": torch.tensor([2, 5])}
    with torch.no_grad():
        return openvino.convert_model(graph, example_input=sample)


def _openvino(task: str, model: Path, tokenizer: Any, precision: str, quick: bool) -> Iterator[Way]:
    import openvino

    graph, core = _converted(task, model, tokenizer.mask_token_id), openvino.Core()

    def work(compiled: Any, batch: int, texts: list[str]) -> object:
        # Requests in turn, and not AsyncInferQueue: a compiled model whose queue has called back into Python now and
        # then waits for ever for its own threads when it is let go of.
        count = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        waiting = deque(compiled.create_infer_request() for _ in range(count))
        started: set[int] = set()
        results: list[list[np.ndarray]] = []

        def taken(request: Any) -> None:
            request.wait()
            outputs = range(len(request.model_outputs))
            results.append([request.get_output_tensor(output).data.copy() for output in outputs])

        for start in range(0, len(texts), batch):
            part = [text.replace("<mask>", tokenizer.mask_token) for text in texts[start : start + batch]]
            rows = tokenizer(part, padding=True, return_tensors="np", return_token_type_ids=False)
            inputs = {name: np.asarray(rows[name], np.int64) for name in ("input_ids", "attention_mask")}
            places = np.flatnonzero(inputs["input_ids"].ravel() == tokenizer.mask_token_id)
            request = waiting.popleft()
            if id(request) in started:
                taken(request)
            started.add(id(request))
            request.start_async({**inputs, "places": places})
            waiting.append(request)
        for request in waiting:
            if id(request) in started:
                taken(request)
        return results

    for hint in ("THROUGHPUT", "LATENCY")[: 1 if quick else 2]:
        settings = {
            "PERFORMANCE_HINT": hint,
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        compiled = core.compile_model(graph, "CPU", settings)
        for batch in OPENVINO_BATCHES[quick:]:
            setting = f"sorted batches of {batch}, {hint.lower()}"
            who = "OpenVINO, head at masks only" if task == "fill-mask" else "OpenVINO"
            yield Way(who, setting, precision, batch, True, partial(work, compiled, batch), compiles=True, least=4)
