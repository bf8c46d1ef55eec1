"""Rows that models are compared on: how many there are, and what is said of those that a model could not do."""

from pathlib import Path

import pytest

from secbatch.comparison.masked_words import MaskedWords
from secbatch.comparison.predictions import one_sentence
from secbatch.errors import ModelError
from secbatch.labelled.files import LabelledFiles


def test_rows_that_a_model_could_not_do() -> None:
    assert one_sentence({}, 3, "tiny") == ()
    (said,) = one_sentence({2: "late", 0: "first"}, 3, "tiny")
    assert said == "model tiny could not do 2 of 3 rows, which count as wrong (row 1: first)"
    with pytest.raises(ModelError, match=r"model tiny could do none of the 2 rows \(first\)"):
        one_sentence({1: "late", 0: "first"}, 2, "tiny")


def test_no_more_rows_than_the_limit_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "words.csv"
    path.write_text("text,word\n" + "".join(f"an <mask> of {number},attack\n" for number in range(5)))
    assert [MaskedWords(LabelledFiles(str(path)), "text", "word", limit=most).rows for most in (None, 2)] == [5, 2]
