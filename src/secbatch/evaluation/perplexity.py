"""How surprised a language model is: e to the mean negative log likelihood of the tokens that it had to predict."""

from collections.abc import Sequence

import numpy as np

from secbatch.evaluation.tally import Figure, Tally, ratio


def loss_tally(
    losses: Sequence[float] | np.ndarray, tokens: Sequence[int] | np.ndarray, words: Sequence[int] | np.ndarray = ()
) -> Tally:
    """Counts: sums of negative log likelihoods (natural logarithm), predicted tokens and words, [n] each, row by row.

    Without `words`, tokens count as words.
    """
    parts = (losses, tokens, words if len(words) else tokens)
    outcomes = np.stack([np.asarray(part, np.float64) for part in parts], axis=1)
    return Tally(outcomes, np.arange(len(outcomes)))


def mean_loss(counts: np.ndarray) -> np.ndarray:
    """Nats a token."""
    return ratio(counts[..., 0], counts[..., 1])


PERPLEXITY: dict[str, Figure] = {
    "perplexity": lambda counts: np.exp(mean_loss(counts)),
    "word_perplexity": lambda counts: np.exp(ratio(counts[..., 0], counts[..., 2])),
    "loss": mean_loss,
}
