"""`--log-format json`: every line on standard error is JSON, whoever writes it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_task import Counter, UpperTask, install

from secbatch.cli.main import _run

TASKS = "tasks: {up: {type: fill-mask, model: fake, text: text}}\n"


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter:
    monkeypatch.chdir(tmp_path)
    Path("in.csv").write_text("text,n\na,1\n\x1b[31m,2\u202e,3\nb,4\n", encoding="utf-8")
    Path("job.yaml").write_text(f"name: j\ninput: {{path: in.csv}}\n{TASKS}output: {{path: out}}\n")
    return install(monkeypatch)


def events(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    for event in found:
        assert {"time", "level", "event"} <= event.keys()
        assert event["time"].endswith("+00:00") and event["level"] in ("info", "warning", "error")
    return found


def test_a_run_from_start_to_summary(counter: Counter, capfd: pytest.CaptureFixture[str]) -> None:
    assert _run(["run", "job.yaml", "--log-format", "json"]) == 3
    captured = capfd.readouterr()
    found = events(captured.err)
    assert captured.out == "" and captured.err.isascii() and "\x1b" not in captured.err
    assert found[0]["event"] == "start" and found[0]["job"] == "j"
    assert found[-1]["event"] == "summary" and found[-1]["level"] == "warning"
    assert (found[-1]["read"], found[-1]["unparseable"], found[-1]["exit_code"]) == (2, 1, 3)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "absent.yaml", "--log-format", "json"], 2, "does not exist"),
        (["run", "--log-format=json", "job.yaml", "--wrong"], 2, "No such option"),
        (["run", "job.yaml", "--input", "gone.csv", "--log-format", "json"], 2, "gone.csv"),
        (["run", "job.yaml", "s3://KEY:SECRET@bucket", "--log-format", "json"], 2, "argument (s3://***@bucket)"),
        (["run", "job.yaml", "--output", "s3://KEY:SECRET@bucket", "--log-format", "json"], 2, "s3://***@bucket"),
    ],
)
def test_errors_are_events_too(
    arguments: list[str], code: int, words: str, counter: Counter, capfd: pytest.CaptureFixture[str]
) -> None:
    assert _run(arguments) == code
    text = capfd.readouterr().err
    last = events(text)[-1]
    assert (last["event"], last["level"], last["exit_code"]) == ("error", "error", code)
    assert words in last["text"] and "SECRET" not in text


def test_an_internal_failure_and_an_interrupt(
    counter: Counter, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, code, kind in [
        (ZeroDivisionError("x://k:SECRET@b"), 1, "error"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ]:

        def fails(self: UpperTask, encoded: Any, error: BaseException = error) -> Any:
            raise error

        monkeypatch.setattr(UpperTask, "compute", fails)
        assert _run(["run", "job.yaml", "--log-format", "json"]) == code
        text = capfd.readouterr().err
        last = events(text)[-1]
        assert (last["event"], last["exit_code"]) == (kind, code)
        assert "SECRET" not in text


@pytest.mark.parametrize("late", [0.0, 0.3])  # seconds: the pipe is read amid the end of the redirection
def test_what_libraries_write_becomes_events_in_a_process_of_its_own(late: float) -> None:
    code = f"""
import os, sys, time, warnings, logging
from secbatch.cli import log
pump, dup2 = log._pump, os.dup2
log._pump = lambda reader: (time.sleep({late}), pump(reader))
os.dup2 = lambda *descriptors: (time.sleep(2 * {late}), dup2(*descriptors))
with log.json_lines():
    print("half a line", end="", file=sys.stderr)
    print(" and its end\\rnext", file=sys.stderr)
    warnings.warn("careful \\x1b[31m")
    logging.getLogger("lib").warning("logged")
    os.write(2, "native \\u202e line\\n".encode())
    log.emit("own", level="info", text="\\u00fc", odd=object)
    print("no line end", end="", file=sys.stderr)
print("plain again", file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *lines, last = done.stderr.splitlines()
    assert last == "plain again"
    texts = {event["text"] for event in events("\n".join(lines))}
    assert texts == {
        "half a line and its end",
        "next",
        "UserWarning: careful \\x1b[31m",
        "logged",
        "native \\u202e line",
        "ü",
        "no line end",
    }
