"""How surprised a language model is: e to the mean negative log likelihood of the tokens that it had to predict."""

from collections.abc import Sequence

import numpy as np

from secbatch.evaluation.tally import Figure, Tally, ratio


def loss_tally(losses: Sequence[float] | np.ndarray, tokens: Sequence[int] | np.ndarray) -> Tally:
    """Counts: sums of negative log likelihoods (natural logarithm) and predicted tokens, [n] each, row by row."""
    outcomes = np.stack([np.asarray(losses, np.float64), np.asarray(tokens, np.float64)], axis=1)
    return Tally(outcomes, np.arange(len(outcomes)))


def mean_loss(counts: np.ndarray) -> np.ndarray:
    """Nats a token."""
    return ratio(counts[..., 0], counts[..., 1])


PERPLEXITY: dict[str, Figure] = {
    "loss": mean_loss,
    "perplexity": lambda counts: np.exp(mean_loss(counts)),
}
