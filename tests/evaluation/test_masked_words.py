import numpy as np
import pytest

from secbatch.evaluation.masked_words import masked_word_metrics, masked_word_tally, rank
from secbatch.evaluation.perplexity import PERPLEXITY, loss_tally


def test_rank_counts_different_words() -> None:
    assert rank(["Malware", "malware ", "virus"], ["virus"]) == 2
    assert rank(["virus"], ["Virus", "worm"]) == 1
    assert rank(["virus"], ["worm"]) is None
    assert rank([], ["worm"]) is None


def test_figures_by_hand() -> None:
    total = masked_word_tally([1, 2, None, 10]).total()
    figures = {name: float(figure(total)) for name, figure in masked_word_metrics().items()}
    hits = {"hit@1": 0.25, "hit@3": 0.5, "hit@5": 0.5, "hit@10": 0.75}
    assert figures == pytest.approx({**hits, "mrr": (1 + 0.5 + 0 + 0.1) / 4})


def test_perplexity_weighs_tokens() -> None:
    total = loss_tally([np.log(4), 3 * np.log(2)], [1, 3], [1, 1]).total()
    assert PERPLEXITY["perplexity"](total) == pytest.approx(np.exp((np.log(4) + 3 * np.log(2)) / 4))
    assert PERPLEXITY["word_perplexity"](total) == pytest.approx(np.exp((np.log(4) + 3 * np.log(2)) / 2))
