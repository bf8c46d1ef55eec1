"""What is said of rows that a model could not do."""

import pytest

from secbatch.comparison.predictions import one_sentence
from secbatch.errors import ModelError


def test_rows_that_a_model_could_not_do() -> None:
    assert one_sentence({}, 3, "tiny") == ()
    (said,) = one_sentence({2: "late", 0: "first"}, 3, "tiny")
    assert said == "model tiny could not do 2 of 3 rows, which count as wrong (row 1: first)"
    with pytest.raises(ModelError, match=r"model tiny could do none of the 2 rows \(first\)"):
        one_sentence({1: "late", 0: "first"}, 2, "tiny")
