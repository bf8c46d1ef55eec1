"""Sentences that several rooms say."""

import subprocess

import yaml

from secbatch.errors import (
    LONGEST_CAUSE,
    LONGEST_NAME,
    cause,
    counted,
    in_job_or_option,
    listed,
    nearest,
    shown,
    with_keys_of,
)


def test_a_sentence_about_the_input_is_told_of_another_place() -> None:
    told = f"name it, for example {in_job_or_option('encoding', 'cp1252')}; name it in `input.encoding`"
    assert "`input.encoding: cp1252` (enrich: `--encoding cp1252`)" in told
    assert with_keys_of("data", told) == "name it, for example `data.encoding: cp1252`; name it in `data.encoding`"


def test_numbers_and_names() -> None:
    assert [counted(number, "row") for number in (0, 1, 2_000)] == ["0 rows", "1 row", "2,000 rows"]
    assert listed(["a b", " c", ""]) == "a b, ' c', ''"
    assert listed([str(number) for number in range(30)]).endswith("19, … (30 in all)")


def test_of_a_very_long_name_the_beginning_is_shown() -> None:
    long = "x" * 10_000
    assert shown("a" * LONGEST_NAME) == "a" * LONGEST_NAME and shown(long) == "x" * LONGEST_NAME + "…"
    assert listed(["a", f"{long} "]) == f"a, '{shown(long)}'"
    assert nearest(long, [f"{long}y"]) == "" and nearest("malwear", [long, "malware"]) == " (did you mean 'malware'?)"


def test_white_space_in_a_name_is_told_from_plain_spaces_and_how_it_is_written() -> None:
    name = "sentence\n(required)\u00a0"
    assert listed([name]) == r"'sentence\n(required)\u00a0'" and shown("a\u00a0b c") == r"a\u00a0b c"
    hint = nearest("sentence (required)", ["id", name])
    in_yaml, in_shell = hint.split("in a job file ")[1].removesuffix("?)").split(", in a shell ")
    assert (
        hint.startswith(r" (did you mean 'sentence\n(required)\u00a0', in a job file")
        and yaml.safe_load(in_yaml) == name
    )
    said = subprocess.run(["bash", "-c", f"printf %s {in_shell}"], env={"LC_ALL": "C.UTF-8"}, capture_output=True)
    assert said.stdout.decode() == name
    assert nearest("a b", ["a b c"]) == " (did you mean 'a b c'?)"
    hostile = "sentence\u00a0'; touch it #"
    assert nearest("sentence '; touch it #", [hostile]) == r" (did you mean 'sentence\u00a0'; touch it #'?)"


def test_the_cause_is_a_line_that_holds_the_reason_behind_a_long_path() -> None:
    assert cause(OSError("a line\nand more")) == "a line" and cause(OSError()) == "OSError"
    long = cause(OSError(f"Failed to open '/{'x' * 4000}'. Detail: [errno 5] Input/output error"))
    assert len(long) == LONGEST_CAUSE + 1
    assert long.startswith("Failed to open '/x") and long.endswith("Detail: [errno 5] Input/output error")
