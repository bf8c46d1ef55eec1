"""Patterns of file names match what a shell would match."""

import time

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
        ("d[!x]*.csv", "d/a.csv", False),
        ("d[+-9]*.csv", "d/a.csv", False),
        ("**/**/*.csv", "d/a.csv", True),
        ("**/**/*.csv", "a.csv", True),
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


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("**/" * 12 + "x.csv", "/".join("abcdefghijklmnop") + "/y.csv"),
        ("**/*/" * 16 + "x.csv", "a/" * 40 + "y.csv"),
        ("*" * 40 + "x", "2026-11-28-reports.csv"),
        ("*a" * 25 + "b", "a" * 60),
    ],
)
def test_what_may_be_left_out_again_and_again_takes_no_time(pattern, name):
    wanted = glob_regex(pattern)
    start = time.perf_counter()
    assert not wanted.fullmatch(name)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("*ab*ab", "xabab"),
        ("*a*a", "aaa"),
        ("a*b*", "ab"),
        ("***a", "a"),
        ("**/a/**/a/b", "a/a/a/b"),
        ("**/.h/**/x", "d/.h/x"),
        ("**/*/**/x/**", "a/x/x/y"),
    ],
)
def test_what_may_be_left_out_finds_its_place(pattern, name):
    assert glob_regex(pattern).fullmatch(name)
    assert not glob_regex(pattern).fullmatch(f"{name}/.z")
