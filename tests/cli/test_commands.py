"""The commands as a user types them: what they print, where, and how they exit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from tiny_models import make_blenderbot, make_roberta

from secbatch.cli.main import _run
from secbatch.cli.terminal import printable, sentence
from secbatch.models import content_hash

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def mask_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_roberta(tmp_path_factory.mktemp("mlm")))


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_blenderbot(tmp_path_factory.mktemp("chat")))


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str) -> str:
    Path(name).write_text(text)
    return name


def test_help_is_quick_and_imports_no_torch() -> None:
    code = (
        "import sys\nfrom secbatch.cli.main import _run\nassert _run(['--help']) == 0\n"
        "heavy = {'torch', 'transformers', 'pandas', 'pyarrow'} & set(sys.modules)\nassert not heavy, heavy"
    )
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "enrich" in done.stdout and "Exit codes" in done.stdout
    assert time.monotonic() - begin < 3  # the promise is 0.3 s; a busy test machine is given ten times that


def test_without_a_command_it_shows_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, below in (
        ([], "\nCommands:\n  ask "),
        (["models"], "securebert "),
        (["run"], "Missing argument 'JOB.yaml'"),
    ):
        assert _run(arguments) == (0 if arguments == ["models"] else 2)
        assert below in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "command", [["run", "job.yaml"], ["enrich", "in.csv", "--mask", "a", "-o"], ["run", "--x"], []]
)
def test_names_in_errors_of_usage_do_not_reach_the_terminal_as_they_are(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run([*command, "a\x1b]0;b\x07\x9b1m\u202e.csv"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("Usage: secbatch") or "should be a folder" in said
    if command != ["run", "--x"]:
        assert "a\\x1b]0;b\\x07\\x9b1m\\u202e.csv" in said
    assert "".join(said.split("\n")).isprintable()


def test_enrich_to_one_file_and_show(mask_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("in.csv", "n,text\n001,A <mask> here\n002,no mask\n003,<mask> and <mask>\n")
    assert _run(["enrich", "in.csv", "-o", "out.parquet", "--mask", "text", "--mask-model", mask_model]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "3 read · 3 enriched" in captured.err and "out.parquet · 3 rows" in captured.err
    rows = pd.read_parquet("out.parquet")
    assert rows["n"].tolist() == ["001", "002", "003"]
    assert [None if p is None else len(p) for p in rows["mask_predictions"]] == [1, None, 2]
    assert not list(Path().glob(".*secbatch*"))
    assert _run(["show", "out.parquet", "--rows", "9" * 30]) == 0
    shown = capsys.readouterr().out
    assert "Input: A <mask> here" in shown and "mask 2: " in shown and " | " in shown
    best = rows["mask_predictions"][0][0][0]["token"]
    assert f"mask: {best} | " in shown


def test_run_show_and_plan(mask_model: str, chat_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("in.csv", "text,question\nA <mask> here,What is DDoS\n<mask>,\n")
    job = f"""
name: small
input: {{path: in.csv}}
tasks:
  mask: {{type: fill-mask, model: {mask_model}, text: text}}
  vec: {{type: embed, model: {mask_model}, text: text}}
  answer: {{type: chat, model: {chat_model}, text: question, generation: {{max_new_tokens: 4, min_new_tokens: 0}}}}
output: {{path: out}}
"""
    write("job.yaml", job)
    assert _run(["plan", "job.yaml"]) == 0
    planned = capsys.readouterr().out
    assert "1 file · 2 rows · 0 lines not parseable" in planned and "2 rows in about 1 shard\n" in planned
    assert not Path("out").exists()
    assert _run(["run", "job.yaml", "--log-format", "json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert events[-1]["event"] == "summary" and events[-1]["enriched"] == 2
    assert _run(["show", "out", "--rows", "1"]) == 0
    assert "Question: What is DDoS" in capsys.readouterr().out
    assert _run(["run", "job.yaml"]) == 0
    assert "2 reused" in capsys.readouterr().err
    assert _run(["run", "job.yaml", "--dry-run"]) == 0
    assert "2 rows done already, in 1 shard" in capsys.readouterr().out


def test_mask_and_ask(mask_model: str, chat_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["mask", "A <mask> b", "--model", mask_model, "--top-k", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Input: A <mask> b" and lines[1].count(" | ") == 2
    assert _run(["mask", "no mask", "--model", mask_model]) == 2
    assert "has no <mask>" in capsys.readouterr().err
    assert _run(["ask", "What is DDoS", "--model", chat_model]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "absent.yaml"], 2, "does not exist"),
        (["enrich", "absent.csv", "-o", "o", "--mask", "text", "--mask-model", "MODEL"], 2, "does not exist"),
        (["enrich", "in.csv", "-o", "o", "--mask", "txet", "--mask-model", "MODEL"], 2, "did you mean 'text'?"),
        (["enrich", "in.csv", "-o", "o"], 2, "Say what to do"),
        (["enrich", "in.csv", "-o", "s3://bucket/o", "--mask", "text", "--mask-model", "MODEL"], 2, "local folder"),
        (["enrich", "in.csv", "-o", "in.csv/o", "--mask", "text", "--mask-model", "MODEL"], 1, "Not a directory"),
        (["enrich", "in.csv", "-o", "o", "--mask", "text", "--mask-model", "no/such-model"], 1, "no/such-model"),
        (["enrich", "in.csv", "-o", "o", "--mask", "text", "--mask-model", "builtin/mln"], 2, "no built-in model"),
        (["enrich", "in.csv", "-o", "o", "--mask", "text", "--mask-model", "builtin/chat"], 2, "has no mask token"),
        (["models", "remove", "absent"], 2, "There is no promoted model absent"),
        (["enrich", "empty.csv", "-o", "o", "--mask", "text", "--mask-model", "MODEL"], 2, "empty"),
        (["enrich", "twice.csv", "-o", "o", "--mask", "text", "--mask-model", "MODEL"], 2, "text"),
        (["enrich", "taken.csv", "-o", "o", "--mask", "text", "--mask-model", "MODEL"], 2, "mask_top"),
        (["show", "absent"], 2, "does not exist"),
        (["run", "job.yaml"], 2, "job.yaml line 3: tasks.mask.text: there is no column 'txet'"),
        (["plan", "job.yaml", "--set", "input.id=a"], 2, "Command line: input.id: there is no column 'a'"),
        (["run", "parts.yaml"], 2, "parts.yaml line 4: output.partition_by: column '_n' has a name that"),
        (["run", "job.yaml", "--set", "tasks.mask.model=./a"], 1, "tasks.mask.model: there is no model folder ./a"),
        (["finetune", "training.yaml"], 2, "training.yaml line 3: data.label: in.csv has no column 'label'"),
        (
            ["run", "absent.yaml", "--output", ""],
            2,
            "Invalid value for '--output': it is empty; give a value, or leave",
        ),
        (["run", "absent.yaml", "--until", ""], 2, "Invalid value for '--until': it is empty"),
        (
            ["enrich", "in.csv", "-o", "o", "--mask", "text", "--embed", ""],
            2,
            "Invalid value for '--embed': it is empty",
        ),
        (["models", "promote", "a", "--rollback", "--to", ""], 2, "Invalid value for '--to': it is empty"),
        (["run", "absent.yaml", "--metrics-file", ""], 2, "Invalid value for '--metrics-file': it is empty"),
        (["enrich", "in.txt", "-o", "o", "--mask", "text", "--mask-model", "MODEL"], 2, "(enrich: `--format csv`)"),
        (["enrich", "latin.csv", "-o", "o", "--mask", "text"], 2, "(enrich: `--encoding cp1252`)"),
        (["enrich", "spaced.csv", "-o", "o", "--mask", "text"], 2, "it has ' text ', n."),
        (["enrich", "quoted.csv", "-o", "o", "--mask", "text"], 2, "where quotes stand around whole lines, take them"),
        (["enrich", "in.csv", "-o", "o", "--ask", "text", "--target", "file"], 2, "say --mask COLUMN too"),
        (["enrich", "in.csv", "-o", "out.CSV", "--mask", "text", "--mask-model", "MODEL"], 2, "should be a folder or"),
        (
            ["enrich", "caf\udce9.csv", "-o", "o", "--mask", "text"],
            2,
            "'caf\\udce9.csv' cannot be used: it is not UTF-8",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence(
    arguments: list[str],
    code: int,
    words: str,
    mask_model: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write("in.csv", "text\nA <mask>\n")
    write("empty.csv", "")
    write("in.txt", "text\nA <mask>\n")
    write("spaced.csv", " text ,n\nA <mask>,1\n")
    write("quoted.csv", '"n,""text"""\n"1,""A <mask>, b"""\n')
    Path("latin.csv").write_bytes("texte é\nA <mask>\n".encode("latin-1"))
    write("twice.csv", "text,text\na,b\n")
    task = f"{{type: fill-mask, model: {mask_model}, text: txet}}"
    write("job.yaml", f"name: a\ninput: {{path: in.csv}}\ntasks: {{mask: {task}}}\noutput: {{path: o}}\n")
    write("n.csv", "text,_n\nA <mask>,1\n")
    parts = f"name: a\ninput: {{path: n.csv}}\ntasks: {{mask: {task}}}\noutput: {{path: o, partition_by: _n}}\n"
    write("parts.yaml", parts.replace("txet", "text"))
    about = f"name: a\nobjective: classify\ndata: {{train: in.csv, text: text, label: label}}\nmodel: {mask_model}\n"
    write("training.yaml", f"{about}output: o\n")
    write("taken.csv", "text,mask_top\na,b\n")
    assert _run([mask_model if argument == "MODEL" else argument for argument in arguments]) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_rejects_above_the_limit_exit_3(mask_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("in.csv", "a,text\n1,A <mask>\n2,b,c,d\n")
    assert _run(["enrich", "in.csv", "-o", "out.parquet", "--mask", "text", "--mask-model", mask_model]) == 3
    told = capsys.readouterr().err
    assert "exit code 3. `secbatch show out.parquet --rejected` tells which\n" in told
    assert "1 not parseable, in out.rejects.parquet\n" in told
    assert "out.parquet · 1 row\n" in told
    assert len(pd.read_parquet("out.parquet")) == 1
    rejects = pd.read_parquet("out.rejects.parquet")
    assert rejects["raw"].str.strip().tolist() == ["2,b,c,d"] and rejects["line"].tolist() == [3]
    assert _run(["show", "out.parquet", "--rejected"]) == 0
    assert "Rejected: in.csv line 3: 4 fields" in capsys.readouterr().out


def test_show_rejected_is_what_the_latest_run_could_not_parse(
    mask_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["enrich", "in.csv", "-o", "out", "--mask", "text", "--mask-model", mask_model]
    write("in.csv", "a,text\n1,A <mask>\n2,b,\x1b[31mc,d\n3,e,f,g\n")
    assert _run(command) == 3
    capsys.readouterr()
    assert _run(["show", "out", "--rejected"]) == 0
    shown = capsys.readouterr().out
    assert "Rejected: in.csv line 3: 4 fields" in shown and "in.csv line 4" in shown
    assert "Text: 2,b,\\x1b[31mc,d" in shown
    assert _run(["show", "out/data", "--rejected"]) == 0
    assert capsys.readouterr().out == shown
    assert _run(["show", "out/data/", "--models"]) == 0
    assert "has left no record" not in capsys.readouterr().out
    assert _run(["show", "out", "--rejected", "--rows", "1"]) == 0
    some = capsys.readouterr()
    assert "in.csv line 4" not in some.out and some.err == "This is 1 of 2 rejects; --rows 2 shows all.\n"
    write("in.csv", "a,text\n1,A <mask>\n")
    assert _run(command) == 0
    assert _run([*command, "--top-k", "3", "--mask-model", "no-such-folder"]) == 1
    capsys.readouterr()
    assert _run(["show", "out", "--rejected"]) == 0
    assert capsys.readouterr().out == "No rejected rows.\n"


def test_show_rejected_names_the_place_of_a_row_once_and_says_how_many_there_are(
    mask_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(
        "job.yaml",
        f"""name: night
input: {{path: in.csv, id: text, types: {{n: int64}}}}
tasks: {{mask: {{type: fill-mask, model: {json.dumps(mask_model)}, text: text}}}}
output: {{path: out}}
""",
    )
    write("in.csv", "n,text\nx,A <mask>\n2,\n3,c,d\n")
    assert _run(["run", "job.yaml"]) == 3
    capsys.readouterr()
    assert _run(["show", "out", "--rejected", "--rows", "1"]) == 0
    shown = capsys.readouterr()
    assert "Rejected: in.csv row 1: column 'n': 'x' is not of type int64" in shown.out
    assert shown.err == "This is 1 of 3 rejects; --rows 3 shows all.\n"
    assert _run(["show", "out", "--rejected"]) == 0
    shown = capsys.readouterr()
    assert "Rejected: in.csv row 2: id column 'text' is empty; give it a value." in shown.out
    assert "in.csv line 4" in shown.out and shown.err == ""


def test_show_rejected_is_of_the_latest_run_also_where_the_clock_was_turned_back(
    mask_model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["enrich", "in.csv", "-o", "out", "--mask", "text", "--mask-model", mask_model]
    for year, line in (("2031", "2,b,c,d"), ("2026", "3,e,f,g")):
        monkeypatch.setattr("secbatch.run_identity.new_run_id", lambda year=year: f"{year}0101T000000000Z-aaaaaa")
        write("in.csv", f"a,text\n1,A <mask>\n{line}\n")
        assert _run(command) == 3
    capsys.readouterr()
    assert _run(["show", "out", "--rejected"]) == 0
    assert "Text: 3,e,f,g" in capsys.readouterr().out
    Path("out/_secbatch/runs/latest.json").write_text('{"run": ')
    assert _run(["show", "out", "--rejected"]) == 2
    assert "latest.json' cannot be read (" in capsys.readouterr().err


def test_show_of_what_has_no_results(capsys: pytest.CaptureFixture[str]) -> None:
    Path("begun/_secbatch").mkdir(parents=True)
    assert _run(["show", "begun"]) == 2
    assert "has no results yet" in capsys.readouterr().err
    Path("many/out/_secbatch").mkdir(parents=True)
    assert _run(["show", "many"]) == 2
    assert "'many' holds outputs (out); name the one to show." in capsys.readouterr().err
    write("in.csv", "a,text\n")
    assert _run(["show", "in.csv"]) == 2
    assert "cannot be read as Parquet (" in (said := capsys.readouterr().err) and "give the output of" in said


def test_what_may_not_be_read_is_said_with_how_to_mend_it(
    mask_model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write("in.csv", "text\nA <mask>\n")
    command = ["enrich", "in.csv", "-o", "out.parquet", "--mask", "text", "--mask-model", mask_model]
    assert _run(command) == 0

    def locked(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    content_hash._known.cache_clear()
    capsys.readouterr()
    for refusing, arguments, code, words in (
        ("pathlib.Path.open", ["run", "a.yaml"], 2, "Job file 'a.yaml' cannot be read: Permission denied; mend its"),
        ("pyarrow.dataset.dataset", ["show", "out.parquet"], 1, "cannot be read (Permission denied); mend its rights"),
        ("secbatch.models.content_hash._sha256", command, 1, "cannot be read (Permission denied); mend its rights"),
        ("secbatch.sources.csv_header.read_layout", command, 2, "'in.csv' may not be read: permission denied; mend"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(refusing, locked)
            assert _run(arguments) == code
        assert words in capsys.readouterr().err


def test_show_of_one_file_in_a_folder_named_like_a_partition(
    mask_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write("in.csv", "day,text\nmonday,a <mask>\n")
    Path("day=5").mkdir()
    assert _run(["enrich", "in.csv", "-o", "day=5/out.parquet", "--mask", "text", "--mask-model", mask_model]) == 0
    capsys.readouterr()
    assert _run(["show", "day=5/out.parquet"]) == 0
    assert capsys.readouterr().out.startswith("Input: a <mask>")


def test_show_beside_input_columns_named_like_tasks(mask_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    long = "word " * 1000
    write("in.csv", f"mask,text\nm1,no mask\nm2,a <mask>\nm3,<mask> {long}\n")
    assert _run(["enrich", "in.csv", "-o", "out.parquet", "--mask", "text", "--mask-model", mask_model]) == 0
    capsys.readouterr()
    assert _run(["show", "out.parquet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Row: mask=m1 · text=no mask" and lines[2] == "Input: a <mask>"
    assert lines[5].endswith("... (5,007 characters)") and len(lines[5]) < 2100


def test_show_renders_templates_as_the_model_reads_them(mask_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("in.csv", "a,b\n{b} and {a},two <mask>\n")
    command = ["enrich", "in.csv", "-o", "out.parquet", "--mask-model", mask_model]
    assert _run([*command, "--mask", "{{json}} {a}: {b}"]) == 0
    capsys.readouterr()
    assert _run(["show", "out.parquet"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "Input: {json} {b} and {a}: two <mask>"


def test_sigterm_exits_130_and_the_next_run_goes_on(mask_model: str) -> None:
    write("in.csv", "text\n" + "".join(f"word {n} <mask> and more text\n" for n in range(60_000)))
    command = [sys.executable, "-c", "from secbatch.cli.main import main; main()"]
    command += ["enrich", "in.csv", "-o", "out", "--mask", "text", "--mask-model", mask_model]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    while not Path("out/data").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert time.monotonic() - begin < 10
    assert "run the same command again" in errors and "Traceback" not in errors
    seen = len(pd.read_parquet("out/data"))
    assert 0 < seen < 60_000


def test_nothing_from_data_reaches_the_terminal_raw(mask_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("in.csv", "text\n\x1b[31mred <mask>\x07 \u202ereversed\n")
    assert _run(["enrich", "in.csv", "-o", "out.parquet", "--mask", "text", "--mask-model", mask_model]) == 0
    assert _run(["show", "out.parquet"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b[31m" not in shown and "\x07" not in shown and "\u202e" not in shown
    assert "\\x1b[31mred" in shown
    assert printable("a\x00b\u2066c\ud800\ne") == "a\\x00b\\u2066c\\ud800 e"
    assert printable("Größe 漢字 🙂") == "Größe 漢字 🙂"


def test_messages_are_sentences() -> None:
    assert sentence("model x is broken") == "Model x is broken."
    assert sentence("in.csv is empty") == "in.csv is empty."
    assert sentence("tasks.mask.text: no\ncolumn") == "tasks.mask.text: no column."
    assert sentence("Good as it is.") == "Good as it is."


def test_python_m_secbatch_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "secbatch", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("secbatch, version")


@pytest.mark.parametrize(("command", "key"), [("run", "tasks.mask.top_k=5"), ("finetune", "hyperparameters.epochs=3")])
def test_help_shows_a_key_of_the_commands_own_jobs(command: str, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run([command, "--help"]) == 0
    assert f"--set {key}." in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("group", [[], ["models"]])
def test_no_command_is_described_by_half_a_sentence(
    group: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert _run([*group, "--help"]) == 0
    listed = capsys.readouterr().out.partition("Commands:\n")[2].splitlines()
    assert len(listed) >= 7 and all(line.endswith(".") and not line.endswith("...") for line in listed)
