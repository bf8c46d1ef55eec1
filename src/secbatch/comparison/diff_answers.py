"""Texts that two models answer or generate."""

import numpy as np

from secbatch.comparison.found import EXAMPLES, Example, Found, shares_of
from secbatch.comparison.predictions import Predicted
from secbatch.comparison.sample import Sample
from secbatch.errors import ModelError
from secbatch.evaluation.answers import exact_match, word_f1
from secbatch.evaluation.bootstrap import Resampling
from secbatch.evaluation.tally import Figure, Tally, ratio

NONE = "(no answer)"


def different_answers(first: Predicted, second: Predicted, sample: Sample, seed: int) -> Found:
    """Answers: how often they are the same, and how many words they share, both as SQuAD normalises texts.

    Of two answers, one of which is none, no word is shared. Shares tell how often each model answers at all.
    """
    done = [row for row in range(len(sample.texts)) if row not in first.errors and row not in second.errors]
    if not done:
        raise ModelError("no row of the sample was answered by both models")
    pairs = [(first.columns[""][row] or "", second.columns[""][row] or "") for row in done]
    outcomes = [
        # "The" is an answer, though nothing of it is left when it is normalised.
        (exact_match(one, (other,)), word_f1(one, (other,))) if bool(one) == bool(other) else (False, 0.0)
        for one, other in pairs
    ]
    tally = Tally.of(outcomes, lambda outcome: np.array([1.0, *outcome]))
    figures: dict[str, Figure] = {
        "agreement": lambda counts: ratio(counts[..., 1], counts[..., 0]),
        "word_f1_of_each_other": lambda counts: ratio(counts[..., 2], counts[..., 0]),
    }
    answered = [("(answer)" if one else NONE, "(answer)" if other else NONE) for one, other in pairs]
    least = sorted(range(len(done)), key=lambda place: outcomes[place][1])
    examples = [
        Example(
            sample.places[done[place]],
            sample.texts[done[place]] if sample.questions is None else sample.questions[done[place]],
            *(answer or NONE for answer in pairs[place]),
        )
        for place in least[:EXAMPLES]
        if not outcomes[place][0]
    ]
    return Found(
        "rows",
        len(done),
        Resampling(len(done), seed=seed).intervals(figures, tally),
        shares_of(answered),
        examples=examples,
    )
