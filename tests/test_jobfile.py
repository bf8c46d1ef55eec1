import json
import re
from pathlib import Path
from typing import Any

import pytest

import secbatch
from secbatch.cli.run import load
from secbatch.errors import InputError, JobError
from secbatch.finetune_jobfile import load_finetune_job
from secbatch.job import Job
from secbatch.jobfile import job_read, load_job

GOOD = """\
name: nightly
input:
  path: reports/*.csv
  id: report
tasks:
  mask:
    type: fill-mask
    model: securebert
    text: sentence
  answer:
    type: chat
    model: blenderbot
    text: question
output:
  path: out
"""
SIMILARITY = """\
  near:
    type: similarity
    model: builtin/mlm
    text: sentence
    reference: {path: known.csv, id: name, text: name, delimiter: '|'}
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return str(path)


def test_a_good_job_loads_with_defaults(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, GOOD))
    assert load_job(tmp_path / "job.yaml") == job
    assert job.input.id == ("report",)
    assert job.tasks["mask"].top_k == 10
    assert job.tasks["answer"].prompt == "Under the context of network and cyber security. {text}"
    assert job.output.mode == "incremental"


def test_a_tilde_is_the_home_for_the_output_as_for_the_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_job(write(tmp_path, GOOD), ["output.path=~/out"]).output.path == f"{tmp_path}/out"
    with pytest.raises(JobError, match="a name that nobody has here"):
        load_job(write(tmp_path, GOOD), ["output.path=~no-such-person/out"])


def test_numbers_may_be_written_as_yaml_takes_for_text(tmp_path: Path) -> None:
    """It wants a point before the exponent."""
    values = {"temperature": "1e-3", "top_p": "5e-1", "repetition_penalty": "1e1"}
    settings = "\n".join(["    generation:", "      do_sample: true", *(f"      {k}: {v}" for k, v in values.items())])
    job = load_job(write(tmp_path, GOOD.replace("    text: question\n", f"    text: question\n{settings}\n")))
    assert {name: getattr(job.tasks["answer"].generation, name) for name in values} == {
        "temperature": 0.001,
        "top_p": 0.5,
        "repetition_penalty": 10.0,
    }
    with pytest.raises(JobError, match=r"generation\.temperature' is wrong: it must be a number"):
        load_job(write(tmp_path, GOOD), ["tasks.answer.generation.temperature=true"])


def test_overrides_replace_keys(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, GOOD), ["tasks.mask.top_k=5", "output.partition_by=[day]", "device=cpu"])
    assert (job.tasks["mask"].top_k, job.output.partition_by, job.device) == (5, ("day",), "cpu")


@pytest.mark.parametrize(
    "path", ["reports-😀.csv", "5", "[a]", "x: y", " a ", 'a\\b"c', "a\nb", "\x7f", "\x85", "\u2028", "a " * 100, "yes"]
)
def test_a_path_of_the_command_line_is_taken_as_it_stands(tmp_path: Path, path: str) -> None:
    with load(write(tmp_path, GOOD), ("device=cpu",), path, f"{path}out") as job:
        assert (job.input.path, job.output.path) == (path, f"{path}out")


@pytest.mark.parametrize(
    ("said", "before"),
    [
        ("tasks.mask.text: there is no column 'sentence'", "job.yaml line 9: "),
        ("input.id: there is no column 'report'", "job.yaml line 4: "),
        ("input path 'reports/*.csv' does not exist", "job.yaml line 3: "),
        ("input folder 'reports' has no files in it", "job.yaml line 3: "),
        ("tasks.answer is wrong", "job.yaml line 10: "),
        ("tasks.mask.top_k is 5", "command line: "),
        ("output.path: it is full", "command line: "),
        ("input.parquet: its schema is broken", ""),  # a file's name
        ("device: there is none", ""),  # a default
        ("Interrupted; run again", ""),
    ],
)
def test_what_turns_out_once_a_job_is_read_is_said_with_the_line_of_its_key(
    tmp_path: Path, said: str, before: str
) -> None:
    path = write(tmp_path, GOOD)
    expected = before.replace("job.yaml", path) + said
    with (
        pytest.raises(InputError, match=f"^{re.escape(expected)}$"),
        job_read(path, ["tasks.mask.top_k=5", "output={path: out}"]) as job,
    ):
        assert job.name == "nightly"
        raise InputError(said)


@pytest.mark.parametrize("text", ["!!bool maybe", "!!int ''", "!!timestamp noon", "2024-99-99"])
def test_what_is_no_yaml_on_the_command_line_is_text(tmp_path: Path, text: str) -> None:
    assert load_job(write(tmp_path, GOOD), [f"tasks.answer.system={text}"]).tasks["answer"].system == text


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("tasks.mask.topk=5", "unknown key 'tasks.mask.topk' (did you mean 'top_k'?)"),
        ("tasks.mask.top_k=many", "'tasks.mask.top_k' is wrong: it must be a whole number (given: 'many')"),
        ("output={path: out, paht: x}", "unknown key 'output.paht' (did you mean 'path'?)"),
    ],
)
def test_what_the_command_line_has_wrong_is_not_said_of_a_line_of_the_file(
    tmp_path: Path, override: str, words: str
) -> None:
    with pytest.raises(JobError) as caught:
        load_job(write(tmp_path, GOOD), ["device=cpu", override])
    assert str(caught.value).startswith(f"command line: {words}")
    with pytest.raises(JobError, match=r"job\.yaml line 15: unknown key 'output.paht'"):
        load_job(write(tmp_path, GOOD.replace("  path: out", "  paht: out")), ["output.mode=overwrite"])


def test_a_file_of_data_is_no_job(tmp_path: Path) -> None:
    for name in ("a.csv", "a.jsonl.gz"):
        (tmp_path / name).write_bytes(b"id,text\n1,a: b: c\n")
        with pytest.raises(JobError, match="is a file of data; write a job file that names it"):
            load_job(str(tmp_path / name))
    with pytest.raises(JobError, match="does not exist"):
        load_job(str(tmp_path / "none.csv"))


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("    text: sentence", "    txt: sentence", 9, "unknown key 'tasks.mask.txt' (did you mean 'text'?)"),
        ("  path: out", "  paht: out", 15, "unknown key 'output.paht' (did you mean 'path'?)"),
        ("    text: sentence", "    text: sentence\n    top_k: many", 10, "'tasks.mask.top_k' is wrong"),
        ("    text: sentence", "    text: sentence\n    top_k: 1001", 10, "less than or equal to 1000"),
        ("name: nightly", "name: [a]", 1, "'name' is wrong"),
        ("name: nightly", "name: a b", 1, "must begin with a letter or a digit and hold only these"),
        ("  path: out", "  path: out\ndevice: gpu", 16, "it must be auto, cpu, cuda or cuda:1"),
        ("  mask:", "  1 mask:", 6, "a task's name must begin with a letter"),
        ("name: nightly", "name: a b\ndevice: gpu", 1, "(given: 'a b'); 1 more after this one."),
        ("type: fill-mask", "type: fillmask", 6, "needs a type (did you mean 'fill-mask'?), one of fill-mask, embed"),
        ("    type: fill-mask\n", "", 6, "needs a type, one of fill-mask, embed, classify"),
        ("name: nightly", "name:", 1, "it must be text (given: nothing)"),
        ("name: nightly", "name: 2026", 1, "it must be text; put it in quotes (given: 2026)"),
        ("    text: sentence", "    text: {sentence}", 9, "'tasks.mask.text' is wrong: it must be text; put it in "),
        ("    text: sentence", "    text: sentence\n    top_k: yes", 10, "it must be a whole number (given: true)"),
        ("    text: sentence", "    text: sentence\n    top_k: 2.5", 10, "it must be a whole number (given: 2.5)"),
        ("  path: out", "  path: ''", 15, "it is empty; name a folder"),
        ("  path: out", "  path: out/{date}", 15, "{date} stands for nothing there; only {run_date} does"),
        ("  path: out", "  path: 'out/{run_date:%Y/%m}'", 15, "{run_date:%Y/%m} stands for nothing there; only {run"),
        (
            "  path: out",
            "  path: 'out/{ run_date }'",
            15,
            "{ run_date } stands for nothing there; only {run_date} does",
        ),
        ("  path: out", "  path: out\n  path: two", 16, "stands twice"),
        ("  path: out", "  path: out\nmax_rejects: lots", 16, "max_rejects must be a count"),
        ("  path: out", "  path: out\n  mode: add", 16, "'output.mode' is wrong: it must be 'incremental', "),
        ("  path: out", "  path: out\n  partition_by: [day, day]", 16, "column 'day' stands there twice"),
        ("  id: report", "  settle: yes", 4, "'input.settle' is wrong: it must be a number (given: true)"),
        ("  id: report", "  settle: .inf", 4, "'input.settle' is wrong: it must be a finite number"),
        ("    text: question", "    text: question\n    generation: {temperature: .inf}", 14, "a finite number"),
        (
            "    text: question",
            "    text: question\n    generation: {temperature: 1.0e-45}",
            14,
            "or equal to 0.000000001",
        ),
        ("    text: question", "    text: question\n    generation: {length_penalty: 400}", 14, "or equal to 50"),
        ("    text: question", "    text: question\n    generation: {no_repeat_ngram_size: 100000}", 14, "10000"),
        (
            "    text: question",
            "    text: question\n    generation: {min_new_tokens: 20, max_new_tokens: 10}",
            14,
            "min_new_tokens (20) is more than max_new_tokens (10)",
        ),
        ("    text: question", "    text: question\n    prompt: no place", 14, "must contain {text}"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, old: str, new: str, line: int, words: str) -> None:
    with pytest.raises(JobError) as caught:
        load_job(write(tmp_path, GOOD.replace(old, new)))
    assert words in str(caught.value)
    assert f"line {line}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (GOOD[GOOD.index("  mask") : GOOD.index("output")], "  {}\n", "line 5: 'tasks' is wrong: it must not be empty"),
        ("  id: report", "  delimiter: ';;'", "line 4: 'input.delimiter' is wrong: delimiter must be one ASCII"),
        ("    text: question", f"    text: question\n{SIMILARITY}    threshold: 2\n", "must be from -1 to 1"),
        ("    text: question", f"    text: question\n{SIMILARITY}".replace("'|'", "''"), "delimiter must be one ASCII"),
    ],
)
def test_values_out_of_bounds_are_said_in_words_of_the_job(tmp_path: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(JobError) as caught:
        load_job(write(tmp_path, GOOD.replace(old, new)))
    assert words in str(caught.value)


def test_inner_products_may_have_any_threshold_and_references_any_delimiter(tmp_path: Path) -> None:
    near = SIMILARITY.replace("'|'", "tab") + "    threshold: 20\n    normalize: false\n"
    task = load_job(write(tmp_path, GOOD.replace("output:", f"{near}output:"))).tasks["near"]
    assert (task.threshold, task.reference.delimiter) == (20.0, "\t")


def test_a_key_in_the_place_of_its_variable_is_refused_and_not_shown(tmp_path: Path) -> None:
    endpoint = "    text: question\n    endpoint: http://127.0.0.1/v1\n    api_key_env: sk-SECRET"
    with pytest.raises(JobError, match=r"line 15: .*api_key_env' is wrong: it must be the name of") as no:
        load_job(write(tmp_path, GOOD.replace("    text: question", endpoint)))
    assert "SECRET" not in str(no.value)


def test_a_job_of_the_other_command_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="has an objective and no tasks: start it by `secbatch finetune`"):
        load_job(str(Path(__file__).parents[1] / "jobs" / "finetune-classify.yaml"))
    with pytest.raises(JobError, match="has tasks and no objective: start it by `secbatch run`"):
        load_finetune_job(write(tmp_path, GOOD))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("taks.mask.top_k=5", r"command line: unknown key 'taks' \(did you mean 'tasks'\?\)"),
        ("tasks.mack.top_k=5", "command line: 'tasks.mack' needs a type"),
        ("tasks.mask.text=In short: {a}", "'tasks.mask.text' is wrong: it must be text; put it in quotes within"),
        ("name=7", r"it must be text; put it in quotes within those of the shell, 'key=\"value\"' \(given: 7\)"),
        ("name=&a [*a]", r"command line: 'name' is wrong: .*given: '&a \[\*a\]'"),
        ('name="\\UFFFFFFFF"', "command line: 'name' is wrong"),
        ("name=!!timestamp {=: 2024-01-01}", "command line: 'name' is wrong"),
        ("=5", "--set =5: write it as key=value"),
        (".name=x", "command line: unknown key ''"),
        (".".join("a" * 3_000) + "=x", "--set has a key of more parts than any has"),
        ("output={path: out, path: two}", "--set output line 1: key 'path' stands twice; remove one"),
        ("input.types={no: int64}", "--set input.types line 1: YAML takes the key 'no' for true or false; put it in"),
        (f"name=[&a [x], &b [{'*a, ' * 300}], {'*b, ' * 300}]", "--set name has more than 50,000 values"),
    ],
)
def test_an_override_that_is_wrong_is_looked_for_on_the_command_line(tmp_path: Path, given: str, words: str) -> None:
    with pytest.raises(JobError, match=words):
        load_job(write(tmp_path, GOOD), [given])


def test_a_template_of_the_command_line_that_nearly_is_yaml_is_text(tmp_path: Path) -> None:
    given = "tasks.mask.text={title}: {sentence}"
    assert load_job(write(tmp_path, GOOD), [given]).tasks["mask"].text == "{title}: {sentence}"


@pytest.mark.parametrize("given", [None, 3, b"job.yaml", {"name": "nightly"}, ["job.yaml"]])
def test_what_is_no_path_of_a_job_file_is_said_to_be_none(given: Any) -> None:
    said = f"named by its path, as text or a Path; a value of type {type(given).__name__} is none"
    for read in (load_job, load_finetune_job, secbatch.finetune):
        with pytest.raises(JobError, match=said):
            read(given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("device=cpu", r"overrides are a list of texts such as \['device=cpu'\]; a value of type str is none"),
        ({"device": "cpu"}, "a value of type dict is none"),
        (3, "a value of type int is none"),
        ([3], "an override is a text, such as 'device=cpu'; 3 is none"),
        ([("device", "cpu")], r"\('device', 'cpu'\) is none"),
        ([None], "nothing is none"),
    ],
)
def test_overrides_that_are_no_texts_are_said_to_be_none(tmp_path: Path, given: Any, words: str) -> None:
    for read in (load_job, load_finetune_job):
        with pytest.raises(JobError, match=words):
            read(write(tmp_path, GOOD), given)


def test_a_training_job_is_read_from_a_path_as_well() -> None:
    path = Path(__file__).parents[1] / "jobs" / "finetune-classify.yaml"
    assert load_finetune_job(path) == load_finetune_job(str(path))


def test_broken_yaml_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="line 3 is not valid YAML"):
        load_job(write(tmp_path, "name: x\ninput: [a\ntasks: }"))
    with pytest.raises(JobError, match="does not exist"):
        load_job(str(tmp_path / "absent.yaml"))
    with pytest.raises(JobError, match="must be a mapping"):
        load_job(write(tmp_path, "- a\n"))
    with pytest.raises(JobError, match="write it as key=value"):
        load_job(write(tmp_path, GOOD), ["top_k"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("? [a]\n: 1\n", "a key must be a plain word"),
        ("name: x\nseen:\n  - [a, 2024-99-99]\n", "line 3 holds a value that cannot be .*; put it in quotes"),
        ("name: 1" + ":59" * 200 + ".0\n", "line 1 holds a value that cannot be"),
        ('name: "\\UFFFFFFFF"\n', "an escape that is no character"),
        ("name: x\ninput: a\x01b\n", r"line 2 holds the character '\\x01', which YAML does not allow; take it out"),
        ("tasks:\n  no: {type: embed}\n", "line 2: YAML takes the key 'no' for true or false; put it in quotes"),
        ("tasks:\n  2024-01-01: {type: embed}\n", "line 2: YAML takes the key '2024-01-01' for a date"),
        ("tasks:\n  a: {~: 1}\n", "line 2: YAML takes the key '~' for nothing"),
        ("name: 2024-01-01\n", r"line 1: 'name' is wrong: it must be text; put it in quotes \(given: 2024-01-01\)"),
        ("&a {x: *a}\n", "nested without end"),
        ('tasks: {a: [{b: "\\ud83d {text}"}]}\n', r"half of a character \('\\ud83d \{text\}'\); write"),
        ('"\\udc00": 1\n', "half of a character"),
        ("name: !!bool maybe\n", r"line 1 has a tag \(!!int or another\) before what is no such value"),
        ("name: !!int ''\n", "a tag"),
        ("name: !!timestamp noon\n", "a tag"),
        ("name: !!timestamp {=: 2024-01-01}\n", "a tag"),
        ("name: x\n---\nname: y\n", "line 2 is not valid YAML: it holds a second document; a job is one"),
        ("name: &a x\ninput: &a y\n", "line 2 is not valid YAML: an anchor stands twice"),
        ('"": x\n', "line 1: unknown key ''; known keys are"),
    ],
)
def test_odd_yaml_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(JobError, match=words):
        load_job(str(path))


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[1] / "jobs").glob("*.yaml")), ids=lambda path: path.stem
)
def test_a_job_can_be_read_again_from_its_record(path: Path) -> None:
    if path.name.startswith("finetune-"):
        pytest.skip("a job of secbatch finetune")
    job = load_job(str(path))
    assert Job.model_validate(json.loads(json.dumps(job.model_dump(mode="json")))) == job
