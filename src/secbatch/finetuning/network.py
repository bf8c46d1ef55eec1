"""A model with its head, called on sequences without padding where its architecture allows it.

The packed forward is the model's own layers in the model's own order (Devlin et al. 2018, arXiv:1810.04805; Liu et al.
2019, arXiv:1907.11692), on [T, hidden] with T the tokens of a whole batch. Dropout stands on the embeddings, behind
each residual branch and in the head; attention weights are not dropped.
"""

from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from secbatch.finetuning.items import Batch
from secbatch.models.out_of_memory import is_out_of_memory
from secbatch.models.seeds import seed_torch
from secbatch.models.sequences import TokenSequences

PACKED = frozenset({"bert", "roberta", "xlm-roberta", "camembert"})
TOLERANCE = 1e-4  # of the largest logit, between the packed forward and the model's own


class Network(Protocol):
    """What objectives call. Gradients flow where torch's grad mode says so."""

    model: Any  # transformers' model, whose parameters are trained
    device: str

    def begin_step(self, seed: int) -> None:
        """What is dropped in the step that begins follows from `seed`."""
        ...

    def sequence_logits(self, batch: Batch) -> torch.Tensor:
        """[B, labels]"""
        ...

    def token_logits(self, batch: Batch, at: np.ndarray | None) -> torch.Tensor:
        """[m, labels] at the tokens `at` [m] of the batch's T, or [T, labels]."""
        ...


class PackedNetwork:
    """BERT, RoBERTa and their kin."""

    def __init__(self, model: Any, device: str) -> None:
        self.model, self.device = model, device
        self._base = model.base_model
        config = model.config
        self._heads = config.num_attention_heads
        self._dropout = float(config.hidden_dropout_prob)
        embeddings = self._base.embeddings
        # RoBERTa counts positions from the padding index on.
        self._first = embeddings.padding_idx + 1 if hasattr(embeddings, "padding_idx") else 0
        self.begin_step(0)

    def begin_step(self, seed: int) -> None:
        seed_torch(seed, self.device)
        # torch draws a number at a time on a CPU: ten times the time of numpy, and a tenth of a step.
        self._random = np.random.Generator(np.random.SFC64(seed))

    def sequence_logits(self, batch: Batch) -> torch.Tensor:
        states = self._states(batch, batch.sequences.offsets[:-1])[:, None]  # [B, 1, hidden]: heads look at the first
        if getattr(self._base, "pooler", None) is not None:
            states = self._base.pooler(states)
            states = self.model.dropout(states)
        logits: torch.Tensor = self.model.classifier(states)
        return logits

    def token_logits(self, batch: Batch, at: np.ndarray | None) -> torch.Tensor:
        states = self._states(batch, at)
        model = self.model
        for name in ("cls", "lm_head", "qa_outputs"):
            if hasattr(model, name):
                logits: torch.Tensor = getattr(model, name)(states)
                return logits
        logits = model.classifier(model.dropout(states))
        return logits

    def _states(self, batch: Batch, at: np.ndarray | None) -> torch.Tensor:
        """[T, hidden], or [m, hidden] at the tokens `at`."""
        sequences = batch.sequences
        lengths = sequences.lengths
        positions = np.arange(len(sequences.ids)) - np.repeat(sequences.offsets[:-1], lengths) + self._first
        embeddings = self._base.embeddings
        x = embeddings.word_embeddings(self._moved(sequences.ids))
        x = x + embeddings.position_embeddings(self._moved(positions))
        kinds = embeddings.token_type_embeddings
        x = x + (kinds.weight[0] if batch.types is None else kinds(self._moved(batch.types)))
        x = self._drop(embeddings.LayerNorm(x))
        groups = sequences.groups()
        chosen = None if at is None else self._moved(at)
        layers = list(self._base.encoder.layer)
        for layer in layers:
            attention = layer.attention
            mixed = self._attend(attention.self, x, groups)
            if chosen is not None and layer is layers[-1]:
                mixed, x = mixed[chosen], x[chosen]  # nobody looks at the others any more
            x = attention.output.LayerNorm(self._drop(attention.output.dense(mixed)) + x)
            wide = layer.intermediate.intermediate_act_fn(layer.intermediate.dense(x))
            x = layer.output.LayerNorm(self._drop(layer.output.dense(wide)) + x)
        return x

    def _attend(self, layer: Any, x: torch.Tensor, groups: list[tuple[int, int, int]]) -> torch.Tensor:
        """Attention within each sequence, [T, hidden] to [T, hidden]; sequences of one length go together."""
        queries, keys, values = (
            part(x).view(len(x), self._heads, -1) for part in (layer.query, layer.key, layer.value)
        )
        parts = []
        for first, count, length in groups:
            span = slice(first, first + count * length)
            q, k, v = (
                part[span].view(count, length, self._heads, -1).transpose(1, 2) for part in (queries, keys, values)
            )
            mixed = F.scaled_dot_product_attention(q, k, v)  # [count, heads, length, head_dim]
            parts.append(mixed.transpose(1, 2).reshape(count * length, -1))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _drop(self, x: torch.Tensor) -> torch.Tensor:
        if not (self._dropout and self.model.training):
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self._dropout)
        kept = self._random.integers(0, 1 << 16, x.shape, np.uint16) >= round(self._dropout * (1 << 16))
        return x * (torch.from_numpy(kept).to(x.dtype) / (1 - self._dropout))

    def _moved(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.int64, copy=False)).to(self.device, non_blocking=True)


class PaddedNetwork:
    """Any architecture, through the model's own forward, padded to the longest of the batch."""

    def __init__(self, model: Any, device: str, pad_id: int) -> None:
        self.model, self.device, self._pad_id = model, device, pad_id

    def begin_step(self, seed: int) -> None:
        seed_torch(seed, self.device)

    def sequence_logits(self, batch: Batch) -> torch.Tensor:
        logits: torch.Tensor = self._output(batch)[0].logits
        return logits

    def token_logits(self, batch: Batch, at: np.ndarray | None) -> torch.Tensor:
        output, real = self._output(batch)
        if "start_logits" in output:
            logits = torch.stack([output.start_logits, output.end_logits], dim=-1)
        else:
            logits = output.logits
        packed: torch.Tensor = logits[real]  # [T, labels]
        return packed if at is None else packed[torch.from_numpy(at).to(self.device)]

    def _output(self, batch: Batch) -> tuple[Any, torch.Tensor]:
        ids, mask = (torch.from_numpy(array).to(self.device) for array in batch.sequences.padded(self._pad_id))
        inputs = {"input_ids": ids, "attention_mask": mask}
        if batch.types is not None:
            types = TokenSequences(batch.types.astype(np.int32), batch.sequences.offsets).padded(0)[0]
            inputs["token_type_ids"] = torch.from_numpy(types).to(self.device)
        return self.model(**inputs), mask.bool()


def build_network(model: Any, device: str, pad_id: int, sample: Batch, whole_sequences: bool) -> Network:
    """The packed network where it gives on `sample` what the model's own forward gives, else the padded one."""
    padded = PaddedNetwork(model, device, pad_id)
    if model.config.model_type not in PACKED:
        return padded
    was_training = model.training
    model.eval()
    try:
        packed = PackedNetwork(model, device)
        with torch.no_grad():
            got, wanted = (
                network.sequence_logits(sample) if whole_sequences else network.token_logits(sample, None)
                for network in (packed, padded)
            )
        near = got.shape == wanted.shape and (got - wanted).abs().max() <= TOLERANCE * wanted.abs().max().clamp(min=1)
        return packed if bool(near) else padded
    except (AttributeError, TypeError, RuntimeError) as error:  # an architecture of that name with other parts
        if is_out_of_memory(error):  # which says nothing of it
            raise
        return padded
    finally:
        model.train(was_training)
