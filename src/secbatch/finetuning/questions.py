"""Extractive question answering: the start and the end of the answer in its context, or none."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from secbatch.evaluation.answers import answer_figures
from secbatch.finetuning.items import Batch, Item
from secbatch.finetuning.ner import windows
from secbatch.finetuning.network import Network
from secbatch.finetuning.objective import Batches, Evaluation, MeanLoss, Objective
from secbatch.labelled.examples import Answer, QuestionExample
from secbatch.models.pairs import PairFrame
from secbatch.models.tokenizer import TextTokenizer
from secbatch.task_specs import Qa

LONGEST_ANSWER: int = Qa.model_fields["max_answer_tokens"].default  # tokens that the task looks for
QUESTION_SHARE = 2  # a question has at most 1/QUESTION_SHARE of the positions


class Questions(Objective):
    auto_class = "AutoModelForQuestionAnswering"

    def __init__(self, label_smoothing: float, frame: PairFrame) -> None:
        """`frame`: that of the task `qa`, with the token that stands for "no answer"."""
        self._smoothing, self._frame = label_smoothing, frame

    def config(self) -> dict[str, Any]:
        return {"num_labels": 2}  # a base that was a classifier has as many outputs as it had labels

    def items(self, examples: Sequence[QuestionExample], tokenizer: TextTokenizer, max_length: int) -> list[Item]:
        """`targets`: [start, end]; `at`: the context's tokens; `places`: [m, 2] their characters in the context."""
        frame = self._frame
        questions = tokenizer.encode([example.question for example in examples], special_tokens=False)
        contexts, offsets = tokenizer.encode_with_offsets([example.context for example in examples])
        items = []
        for number, example in enumerate(examples):
            asked = questions[number][: (max_length - frame.special_tokens) // QUESTION_SHARE]
            span = slice(contexts.offsets[number], contexts.offsets[number + 1])
            body, places = contexts.ids[span], offsets[span]
            head = len(frame.before) + len(asked) + len(frame.between)
            room = max_length - head - len(frame.after)
            answer = _tokens_of(example.answers[0], places) if example.answers else None
            for start, stop, _, _ in windows(len(body), room):
                ids = frame.ids(asked, body[start:stop])
                targets = np.full(2, self._none(ids), np.int64)
                if answer is not None and start <= answer[0] and answer[1] < stop:
                    targets = np.array(answer, np.int64) - start + head
                types = None if frame.types is None else frame.types_of(len(asked), stop - start).astype(np.int64)
                at = np.arange(stop - start) + head
                items.append(Item(ids, number, targets, at, places[start:stop], types))
        return items

    def _none(self, ids: np.ndarray) -> int:
        """The place of the token that stands for "no answer"."""
        return self._frame.null % len(ids)

    def batch(self, items: Sequence[Item], random: np.random.Generator | None) -> Batch:
        batch = Batch.of(items)
        targets = np.stack([item.targets for item in batch.items])
        return replace(batch, targets=targets, weight=float(len(items)))

    def loss(self, network: Network, batch: Batch) -> torch.Tensor:
        return self._loss_of(network.token_logits(batch, None).float(), batch, self._smoothing)

    def _loss_of(self, logits: torch.Tensor, batch: Batch, smoothing: float) -> torch.Tensor:
        """`logits`: [T, 2]. Smoothing is over a sequence's own tokens: none falls to what is padded."""
        rows = logits.split(batch.sequences.lengths.tolist())
        targets = torch.from_numpy(batch.targets).to(logits.device)
        padded = pad_sequence(list(rows), batch_first=True, padding_value=-1e4)  # [B, L, 2]
        halves = [F.cross_entropy(padded[..., side], targets[:, side]) for side in (0, 1)]
        loss = (halves[0] + halves[1]) / 2
        if not smoothing:
            return loss
        evenly = -torch.stack([F.log_softmax(row, dim=0).mean() for row in rows]).mean()
        return (1 - smoothing) * loss + smoothing * evenly

    def evaluate(self, network: Network, examples: Sequence[QuestionExample], batches: Batches) -> Evaluation:
        """The best span of all windows, where it scores above "no answer" in each of them."""
        mean = MeanLoss()
        best: list[tuple[float, str]] = [(-np.inf, "")] * len(examples)
        none = np.full(len(examples), np.inf)
        for batch in batches():
            logits = network.token_logits(batch, None).float()
            mean.add(self._loss_of(logits, batch, 0.0), batch.weight)
            scores = logits.cpu().numpy()
            for item, start in zip(batch.items, batch.sequences.offsets[:-1], strict=True):
                none[item.example] = min(none[item.example], float(scores[start + self._none(item.ids)].sum()))
                found = best_span(scores[start + item.at])
                if found is not None and found[0] > best[item.example][0]:
                    first, last = item.places[found[1]][0], item.places[found[2]][1]
                    best[item.example] = (found[0], examples[item.example].context[first:last])
        answers = [text if score > none[number] else None for number, (score, text) in enumerate(best)]
        figures = answer_figures(answers, [[answer.text for answer in example.answers] for example in examples])
        metrics = {"loss": mean.value, "f1": figures.f1, "exact": figures.exact}
        for name in ("answerable_exact", "answerable_f1", "unanswerable"):
            if not np.isnan(value := getattr(figures, name)):
                metrics[name] = value
        return Evaluation(metrics)


def best_span(scores: np.ndarray) -> tuple[float, int, int] | None:
    """(score, first, last) of the span with the highest sum of start and end score. `scores`: [n, 2]"""
    if not len(scores):
        return None
    ends = np.append(scores[:, 1], np.full(LONGEST_ANSWER - 1, -np.inf, scores.dtype))
    # Only spans that may be one: all pairs of a window of 8,192 tokens would take gigabytes.
    sums = scores[:, :1] + np.lib.stride_tricks.sliding_window_view(ends, LONGEST_ANSWER)  # [start, tokens more]
    first, more = divmod(int(sums.argmax()), LONGEST_ANSWER)
    return float(sums[first, more]), first, first + more


def _tokens_of(answer: Answer, places: np.ndarray) -> tuple[int, int] | None:
    """The first and the last token that the answer lies in."""
    inside = np.flatnonzero((places[:, 0] < answer.start + len(answer.text)) & (places[:, 1] > answer.start))
    return (int(inside[0]), int(inside[-1])) if len(inside) else None
