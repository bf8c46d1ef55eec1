"""From a job and its data to what the loop trains: objective, model, items."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from secbatch.errors import InputError, ModelError, UnfitModelError
from secbatch.finetune_job import LENGTH, FinetuneJob, Hyperparameters
from secbatch.finetuning.classify import Classify
from secbatch.finetuning.dataset import Dataset
from secbatch.finetuning.items import Item
from secbatch.finetuning.masked_words import FEWEST_TOKENS, MaskedWords
from secbatch.finetuning.ner import Ner
from secbatch.finetuning.objective import Objective, class_weights
from secbatch.finetuning.pairs import Pairs
from secbatch.finetuning.questions import LONGEST_ANSWER, Questions
from secbatch.labelled.examples import QuestionExample
from secbatch.models.configuration import load_config, padding_id, text_config
from secbatch.models.device import Compute
from secbatch.models.load import bring_to_device, check_vocabulary
from secbatch.models.model_kinds import check_kind
from secbatch.models.pairs import PairFrame
from secbatch.models.resolved import ResolvedModel
from secbatch.models.tokenizer import TextTokenizer
from secbatch.models.tokenizer_files import load_tokenizer
from secbatch.models.trainable import load_for_training

_DROPOUTS = ("hidden_dropout_prob", "dropout", "dropout_rate", "hidden_dropout", "embedding_dropout", "mlp_dropout")


@dataclass(frozen=True)
class Built:
    """All that a training is made of."""

    model: Any  # transformers' model on its device
    tokenizer: TextTokenizer
    objective: Objective
    items: dict[str, list[Item]]  # "train", "dev" and, where there is one, "test"
    max_length: int
    new_head: bool
    notices: tuple[str, ...]


def build(job: FinetuneJob, data: Dataset, resolved: ResolvedModel, compute: Compute) -> Built:
    """Raises ModelError for a base that cannot serve, before anything is learned."""
    import torch

    wanted = job.settled()
    tokenizer = load_tokenizer(resolved)
    if job.objective == "masked-lm" and tokenizer.mask_id is None:
        raise UnfitModelError(
            f"model {resolved.name}: its tokenizer has no mask token, which objective: masked-lm needs"
        )
    limit = min(tokenizer.max_length, LENGTH)
    max_length = min(wanted.max_length, tokenizer.max_length) if wanted.max_length else limit
    objective = _objective(job, wanted, data, tokenizer, resolved)
    torch.manual_seed(wanted.seed)
    changes = objective.config()
    before = load_config(resolved).id2label
    model, new_head, notices = load_for_training(resolved, objective.auto_class, changes, objective.new_head)
    if "id2label" in changes and not new_head:
        if before == changes["id2label"]:
            notices += (f"model {resolved.name} has a head for these labels; it is trained further",)
        else:
            which = "these labels in another order" if _alike(before, changes["id2label"]) else "other labels"
            notices += (f"model {resolved.name} has a head for {which}; it is made anew",)
            _reset_head(model)
            new_head = True
    if wanted.dropout is not None:
        _set_dropout(model, wanted.dropout)
    if padding_id(model.config) is None:
        text_config(model.config).pad_token_id = tokenizer.pad_id
    if isinstance(objective, Pairs):
        _set_start(model, resolved)
    check_vocabulary(resolved, tokenizer, model)
    items = {name: objective.items(side.examples, tokenizer, max_length) for name, side in data.sides.items()}
    for name, found in items.items():
        if not found:
            path = getattr(job.data, name) or f"the part of {job.data.train} that is kept apart"
            raise InputError(
                f"{path} ({name}): no text has {FEWEST_TOKENS} tokens to learn from; write longer texts into it"
            )
    if isinstance(objective, Ner) and wanted.class_weights != "none":
        counts = np.bincount(np.concatenate([item.targets for item in items["train"]]), minlength=len(objective.tags))
        objective.weights = class_weights(counts, wanted.class_weights)
    bring_to_device(model, resolved, compute)
    notices += _cut(objective, items["train"], max_length)
    if isinstance(objective, Questions):
        notices += _long_answers(data.train.examples, tokenizer)
    return Built(model, tokenizer, objective, items, max_length, new_head, notices)


def _alike(names: dict[int, str], others: dict[int, str]) -> bool:
    return sorted(names.values()) == sorted(others.values())


def _reset_head(model: Any) -> None:
    """Fresh weights for the linear layers on top, as transformers gives them to a head that a checkpoint lacks."""
    import torch

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and not name.startswith(f"{model.base_model_prefix}."):
            torch.nn.init.normal_(module.weight, std=getattr(model.config, "initializer_range", 0.02))
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)


def _set_start(model: Any, resolved: ResolvedModel) -> None:
    """Targets are learned behind a token that stands in the configuration; some models name it for generation alone.

    Raises ModelError for a model that names none, which could not write either.
    """
    if getattr(model.config, "decoder_start_token_id", None) is not None:
        return
    found = getattr(model.generation_config, "decoder_start_token_id", None)
    if not isinstance(found, int):
        raise ModelError(
            f"model {resolved.name}: neither config.json nor generation_config.json names a decoder_start_token_id, the"
            " token that a target is written behind; add it to config.json"
        )
    model.config.decoder_start_token_id = found


def _cut(objective: Objective, items: list[Item], max_length: int) -> tuple[str, ...]:
    """Notices on texts of which the model sees the beginning alone; the other objectives see long ones in parts."""
    lengths: dict[str, list[int]] = {}
    if isinstance(objective, Classify):
        lengths = {"texts": [len(item.ids) for item in items]}
    elif isinstance(objective, Pairs):
        lengths = {"sources": [len(item.ids) for item in items], "targets": [len(item.targets) for item in items]}
    counts = {what: sum(length == max_length for length in found) for what, found in lengths.items()}
    return tuple(
        f"{count} of the {len(items)} training {what} {'reaches' if count == 1 else 'reach'} {max_length} tokens,"
        f" beyond which {'it is' if count == 1 else 'they are'} cut"
        for what, count in counts.items()
        if count
    )


def _long_answers(examples: Sequence[QuestionExample], tokenizer: TextTokenizer) -> tuple[str, ...]:
    """A notice on answers that are never found."""
    answers = [example.answers[0].text for example in examples if example.answers]
    if not answers:
        return ()
    long = int((tokenizer.encode(answers, special_tokens=False).lengths > LONGEST_ANSWER).sum())
    if not long:
        return ()
    return (
        f"{long} of the {len(answers)} training answers {'have' if long > 1 else 'has'} more than {LONGEST_ANSWER}"
        " tokens; none of that length is found here, nor by the task qa unless its max_answer_tokens is raised",
    )


def _set_dropout(model: Any, share: float) -> None:
    """In the configuration and in the layers that were made from it; attention weights keep the base's own."""
    import torch

    for name in _DROPOUTS:
        if isinstance(getattr(model.config, name, None), int | float):
            setattr(model.config, name, share)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout) and not name.endswith("attention.self.dropout"):
            module.p = share
        elif isinstance(getattr(module, "dropout", None), float) and "Attention" not in type(module).__name__:
            module.dropout = share  # BART and its like keep the number and call the function with it


def _objective(
    job: FinetuneJob, wanted: Hyperparameters, data: Dataset, tokenizer: TextTokenizer, resolved: ResolvedModel
) -> Objective:
    smoothing = wanted.label_smoothing or 0.0
    if job.objective == "classify":
        counts = Counter(label for example in data.train.examples for label in example.labels)
        by_label = np.array([counts[label] for label in data.labels], float)
        weights = class_weights(by_label, wanted.class_weights)
        if data.multi and wanted.class_weights != "none":
            import torch

            odds = np.maximum(len(data.train.examples) - by_label, 1) / np.maximum(by_label, 1)
            positive = np.sqrt(odds) if wanted.class_weights == "sqrt" else odds
            weights = torch.tensor(positive, dtype=torch.float32)
        return Classify(data.labels, data.multi, weights, smoothing)
    if job.objective == "ner":
        return Ner(data.labels, wanted.subwords, smoothing)
    if job.objective == "qa":
        config = load_config(resolved)
        check_kind(resolved, config, "question-answering")
        return Questions(smoothing, PairFrame.of(tokenizer, config, "question-answering"))
    if job.objective == "masked-lm":
        return MaskedWords(wanted.masking, tokenizer)
    return Pairs(smoothing, tokenizer.pad_id)
