"""Patterns of file names match what a shell would match."""

import pytest

from secbatch.sources.glob_pattern import glob_regex


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("*.csv", "a.csv", True),
        ("*.csv", "d/a.csv", False),
        ("*.csv", ".a.csv", False),
        ("**/*.csv", "a.csv", True),
        ("**/*.csv", "d/e/a.csv", True),
        ("**/*.csv", ".d/a.csv", False),
        ("d/**", "d/e/a.csv", True),
        ("a?.c[!x]v", "ab.csv", True),
        ("a?.c[!s]v", "ab.csv", False),
        ("a+(1).csv", "a+(1).csv", True),
        ("[", "[", True),
    ],
)
def test_glob_regex(pattern, name, matches):
    assert bool(glob_regex(pattern).fullmatch(name)) is matches


@pytest.mark.filterwarnings("error")
def test_brackets_in_a_pattern_hold_characters_only():
    assert glob_regex("[[x]*.csv").fullmatch("[1.csv")
    assert glob_regex("[a&&b].csv").fullmatch("&.csv")
    assert glob_regex("[!a^]b").fullmatch("xb")
    assert not glob_regex("[!a^]b").fullmatch("^b")
    assert glob_regex("[0-9\\]").fullmatch("\\")
