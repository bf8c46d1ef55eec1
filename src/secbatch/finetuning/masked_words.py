"""Masked LM on one's own texts (domain adaptation), masked anew each time (Liu et al. 2019, arXiv:1907.11692)."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from secbatch.finetune_job import Masking
from secbatch.finetuning.items import Batch, Item
from secbatch.finetuning.network import Network
from secbatch.finetuning.objective import Batches, Evaluation, MeanLoss, Objective
from secbatch.labelled.examples import TextExample
from secbatch.models.tokenizer import TextTokenizer

FEWEST_TOKENS = 4  # shorter pieces teach nothing


class MaskedWords(Objective):
    auto_class = "AutoModelForMaskedLM"
    new_head = False

    def __init__(self, masking: Masking, tokenizer: TextTokenizer) -> None:
        self._masking = masking
        assert tokenizer.mask_id is not None
        self._mask_id = tokenizer.mask_id
        special = set(tokenizer.hf.all_special_ids)
        self._ordinary = np.array(sorted(set(tokenizer.hf.get_vocab().values()) - special), np.int32)

    def items(self, examples: Sequence[TextExample], tokenizer: TextTokenizer, max_length: int) -> list[Item]:
        """`at`: the tokens that may be masked; `places`: [m] the word that each is of. Long texts in pieces."""
        texts = [example.text for example in examples]
        sequences, offsets = tokenizer.encode_with_offsets(texts)
        room = max_length - len(tokenizer.before) - len(tokenizer.after)
        items = []
        for number, text in enumerate(texts):
            span = slice(sequences.offsets[number], sequences.offsets[number + 1])
            words = self._words(text, offsets[span])
            for start in range(0, span.stop - span.start, room):
                body = sequences.ids[span][start : start + room]
                if len(body) < FEWEST_TOKENS:
                    continue
                ids = np.concatenate([tokenizer.before, body, tokenizer.after])
                known = np.flatnonzero(body != self._mask_id)  # what stands behind a text's own <mask> nobody knows
                if len(known):
                    at = known + len(tokenizer.before)
                    items.append(Item(ids, number, at=at, places=words[start + known]))
        return items

    def _words(self, text: str, offsets: np.ndarray) -> np.ndarray:
        """[t] numbers of words: tokens of letters and digits that touch each other are one."""
        if not self._masking.whole_words:
            return np.arange(len(offsets))
        letters = np.fromiter((character.isalnum() for character in text), bool, len(text))
        starts, ends = np.minimum(offsets[1:, 0], len(text) - 1), np.maximum(offsets[:-1, 1], 1)
        joined = (offsets[1:, 0] <= offsets[:-1, 1]) & letters[ends - 1] & letters[starts]
        return np.cumsum(np.concatenate([[True], ~joined])) - 1

    def batch(self, items: Sequence[Item], random: np.random.Generator | None) -> Batch:
        """Without `random`, an item is masked the same way every time, whatever stands beside it."""
        masked, targets = [], []
        for item in sorted(items, key=lambda one: -len(one.ids)):
            own = random or np.random.default_rng([item.example, len(item.ids), int(item.ids[len(item.ids) // 2])])
            chosen, ids = self._mask(item, own)
            masked.append(Item(ids, item.example, at=item.at[chosen]))
            targets.append(item.ids[item.at[chosen]])
        wanted = np.concatenate(targets).astype(np.int64)
        return replace(Batch.of(masked), targets=wanted, weight=float(len(wanted)))

    def _mask(self, item: Item, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """([m] bool: which of `at` are predicted, the ids with masks in place)."""
        words = np.unique(item.places, return_inverse=True)[1]
        count = int(words.max()) + 1
        hidden = np.zeros(count, bool)
        hidden[random.permutation(count)[: max(1, round(self._masking.rate * count))]] = True
        chosen = hidden[words]
        fate = random.random(count)[words]
        ids = item.ids.copy()
        body = ids[item.at]
        replaced = chosen & (fate < self._masking.replaced)
        masks = chosen & (fate >= self._masking.replaced + self._masking.kept)
        body[masks] = self._mask_id
        body[replaced] = self._ordinary[random.integers(len(self._ordinary), size=int(replaced.sum()))]
        ids[item.at] = body
        return chosen, ids

    def loss(self, network: Network, batch: Batch) -> torch.Tensor:
        logits = network.token_logits(batch, batch.at).float()
        return F.cross_entropy(logits, torch.from_numpy(batch.targets).to(logits.device))

    def evaluate(self, network: Network, examples: Sequence[TextExample], batches: Batches) -> Evaluation:
        mean = MeanLoss()
        for batch in batches():
            mean.add(self.loss(network, batch), batch.weight)
        return Evaluation({"loss": mean.value, "perplexity": mean.perplexity})
