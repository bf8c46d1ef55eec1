"""BERT and RoBERTa, with heads, as plain modules of torch, under the names that transformers gives their parts.

Packed encoders are made of them and tried against them, as of and against transformers' own. To import the code in
which those stand takes a fifth of a run's start.

BERT: Devlin et al. 2018 (arXiv:1810.04805). RoBERTa: Liu et al. 2019 (arXiv:1907.11692).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    MaskedLMOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from secbatch.models.masked_lm_head_packed import head_parts

# What the base model is called within one with a head.
PREFIXES = {"bert": "bert", "roberta": "roberta", "xlm-roberta": "roberta", "camembert": "roberta"}
ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU}


class Parts(nn.Module):
    """Modules under names, without a forward of its own."""

    def __init__(self, /, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


class BaseModel(nn.Module):
    """Ids [B, L] to states [B, L, hidden]."""

    embeddings: Any
    encoder: Any

    def __init__(self, config: Any, pooler: bool = False) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.embeddings = Parts(
            word_embeddings=_embedding(config.vocab_size, width),
            position_embeddings=_embedding(config.max_position_embeddings, width),
            token_type_embeddings=_embedding(config.type_vocab_size, width),
            LayerNorm=nn.LayerNorm(width, config.layer_norm_eps),
        )
        # RoBERTa counts positions from its padding token's id on, and leaves that token out.
        self.embeddings.padding_idx = None if config.model_type == "bert" else config.pad_token_id
        self.encoder = Parts(layer=nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers)))
        if pooler:
            self.pooler = Pooler(width)

    @property
    def base_model(self) -> nn.Module:
        return self

    def get_input_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.embeddings.word_embeddings
        return embeddings

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> BaseModelOutputWithPooling:
        parts = self.embeddings
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        x = parts.word_embeddings(input_ids) + parts.token_type_embeddings(types)
        x = parts.LayerNorm(x + parts.position_embeddings(self._positions(input_ids)))
        mask = None if attention_mask is None else attention_mask.bool()[:, None, None]  # [B, 1, 1, L]
        for layer in self.encoder.layer:
            x = layer(x, mask)
        pooler = getattr(self, "pooler", None)
        return BaseModelOutputWithPooling(last_hidden_state=x, pooler_output=None if pooler is None else pooler(x))

    def _positions(self, ids: torch.Tensor) -> torch.Tensor:
        padding: int | None = self.embeddings.padding_idx
        if padding is None:
            return torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        counted = (ids != padding).long()
        return counted.cumsum(1) * counted + padding


class Layer(nn.Module):
    attention: Any
    intermediate: Any
    output: Any

    def __init__(self, config: Any) -> None:
        super().__init__()
        self._heads = config.num_attention_heads
        width, wide, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        looked_at = Parts(query=nn.Linear(width, width), key=nn.Linear(width, width), value=nn.Linear(width, width))
        mixed = Parts(dense=nn.Linear(width, width), LayerNorm=nn.LayerNorm(width, eps))
        self.attention = Parts(**{"self": looked_at, "output": mixed})
        activation = ACTIVATIONS[config.hidden_act]()
        self.intermediate = Parts(dense=nn.Linear(width, wide), intermediate_act_fn=activation)
        self.output = Parts(dense=nn.Linear(wide, width), LayerNorm=nn.LayerNorm(width, eps))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """`x`: [B, L, hidden]; `mask`: [B, 1, 1, L], which keys may be looked at."""
        looked_at, mixed = self.attention.self, self.attention.output
        query, key, value = (
            part(x).unflatten(-1, (self._heads, -1)).transpose(1, 2)  # [B, heads, L, dim]
            for part in (looked_at.query, looked_at.key, looked_at.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2).flatten(2)
        x = mixed.LayerNorm(mixed.dense(attended) + x)
        wide = self.intermediate.intermediate_act_fn(self.intermediate.dense(x))
        normed: torch.Tensor = self.output.LayerNorm(self.output.dense(wide) + x)
        return normed


class Pooler(nn.Module):
    """States [B, L, hidden] to what BERT makes of each first one, [B, hidden]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.dense(states[:, 0]))


class _WithHead(nn.Module):
    def __init__(self, config: Any, pooler: bool = False) -> None:
        super().__init__()
        self.config = config
        self.base_model_prefix = PREFIXES[config.model_type]
        self.add_module(self.base_model_prefix, BaseModel(config, pooler))

    @property
    def base_model(self) -> Any:
        return self._modules[self.base_model_prefix]

    def get_input_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.base_model.get_input_embeddings()
        return embeddings


class MaskedLM(_WithHead):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        width, words = config.hidden_size, config.vocab_size
        dense, norm = nn.Linear(width, width), nn.LayerNorm(width, config.layer_norm_eps)
        vocabulary = nn.Linear(width, words)
        if config.model_type == "bert":
            transform = Parts(dense=dense, transform_act_fn=ACTIVATIONS[config.hidden_act](), LayerNorm=norm)
            self.cls = Parts(predictions=Parts(transform=transform, decoder=vocabulary))
        else:
            self.lm_head = Parts(dense=dense, layer_norm=norm, decoder=vocabulary)

    def forward(self, input_ids: torch.Tensor, **inputs: torch.Tensor) -> MaskedLMOutput:
        dense, activation, norm, vocabulary = head_parts(self)
        states = self.base_model(input_ids=input_ids, **inputs)[0]
        return MaskedLMOutput(logits=vocabulary(norm(activation(dense(states)))))


class SequenceClassifier(_WithHead):
    classifier: Any

    def __init__(self, config: Any) -> None:
        super().__init__(config, pooler=config.model_type == "bert")
        self._pooled = config.model_type == "bert"
        width, labels = config.hidden_size, config.num_labels
        head = nn.Linear(width, labels)
        self.classifier = head if self._pooled else Parts(dense=nn.Linear(width, width), out_proj=head)

    def forward(self, input_ids: torch.Tensor, **inputs: torch.Tensor) -> SequenceClassifierOutput:
        output = self.base_model(input_ids=input_ids, **inputs)
        if self._pooled:
            return SequenceClassifierOutput(logits=self.classifier(output.pooler_output))
        wide = torch.tanh(self.classifier.dense(output[0][:, 0]))
        return SequenceClassifierOutput(logits=self.classifier.out_proj(wide))


class TokenClassifier(_WithHead):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, input_ids: torch.Tensor, **inputs: torch.Tensor) -> TokenClassifierOutput:
        states = self.base_model(input_ids=input_ids, **inputs)[0]
        return TokenClassifierOutput(logits=self.classifier(states))


class QuestionAnswerer(_WithHead):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.qa_outputs = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, input_ids: torch.Tensor, **inputs: torch.Tensor) -> QuestionAnsweringModelOutput:
        starts, ends = self.qa_outputs(self.base_model(input_ids=input_ids, **inputs)[0]).unbind(-1)
        return QuestionAnsweringModelOutput(start_logits=starts, end_logits=ends)


def _embedding(entries: int, width: int) -> nn.Embedding:
    """Without the first values that torch gives it, for which it imports its compiler where no memory is taken."""
    return nn.Embedding(entries, width, _weight=torch.empty(entries, width))
