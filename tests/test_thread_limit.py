"""A limit on threads is said before libraries fail for it, and where it is met later on."""

import json
import threading
from collections.abc import Callable
from multiprocessing.connection import Pipe
from pathlib import Path

import pyarrow as pa
import pytest
from fake_task import install_in
from nights import job, rows, write

from secbatch.cli.main import _run
from secbatch.errors import SecbatchError
from secbatch.runner import run_job
from secbatch.thread_limit import check_threads
from secbatch.trial import serve

JOB = "{name: n, input: {path: in.csv}, tasks: {v: {type: embed, model: builtin/mlm, text: text}}, output: {path: out}}"


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`only(5)`: five more threads can be started."""
    begin = threading.Thread.start
    monkeypatch.setenv("OMP_NUM_THREADS", "2")

    def limit(number: int) -> None:
        left = iter(range(number))

        def start(thread: threading.Thread) -> None:
            if next(left, None) is None:
                raise RuntimeError("can't start new thread")
            begin(thread)

        monkeypatch.setattr(threading.Thread, "start", start)

    return limit


def test_a_systems_least_stack_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def stack_size(size: int = 0) -> int:
        if 0 < size < 131_072:  # PTHREAD_STACK_MIN of glibc on aarch64
            raise ValueError(f"size not valid: {size} bytes")
        given.append(size)
        return 0

    monkeypatch.setattr(threading, "stack_size", stack_size)
    check_threads()
    assert len(given) == 2 and given[1] == 0  # and what was there before comes back


@pytest.mark.parametrize("command", [["run"], ["run", "--dry-run"], ["plan"]])
def test_a_run_that_cannot_have_its_threads_is_refused_at_once(
    command: list[str],
    only: Callable[[int], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.csv").write_text("text\na\n")
    Path("job.yaml").write_text(JOB)
    only(5)
    assert _run([*command, "job.yaml"]) == 1
    assert capsys.readouterr().err == (
        "Error: The system lets this process start 5 more threads, and about 18 are needed; raise the limit (ulimit -u,"
        " or pids.max of its control group), or use fewer processors (OMP_NUM_THREADS).\n"
    )
    assert not Path("out").exists()


def test_threads_that_were_looked_for_are_gone(only: Callable[[int], None]) -> None:
    before = threading.active_count()
    only(18)
    check_threads()
    assert threading.active_count() == before


def test_a_process_that_tries_rows_says_so_instead_of_dying(
    only: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secbatch.trial.resource.setrlimit", lambda *_: None)
    ours, theirs = Pipe()
    serving = threading.Thread(target=serve, args=(theirs,), daemon=True)
    serving.start()
    only(5)
    ours.send(("cpu", "float32", None))
    assert ours.poll(20)
    answer = ours.recv()
    ours.close()
    serving.join(20)
    assert isinstance(answer, SecbatchError) and "5 more threads, and about 10 are needed" in str(answer)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("can't start new thread"), pa.ArrowException("Unknown error: Failed to launch worker thread: Again")],
)
def test_a_refusal_amid_a_run_is_a_sentence_in_its_record_too(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install_in(tmp_path, monkeypatch, (10,))
    write("a.csv", "text", "a")

    def refuse(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("secbatch.publishing.Publisher.publish", refuse)
        with pytest.raises(type(error)):
            run_job(job())
    record = json.loads(Path("out/_secbatch/runs/latest.json").read_text())
    assert record["error"].startswith("the system lets this process start no more threads; raise the limit (ulimit -u")
    monkeypatch.setattr("secbatch.cli.main.cli.main", refuse)
    assert _run(["run", "x"]) == 1
    assert capsys.readouterr().err.startswith("Error: The system lets this process start no more threads")
    run_job(job())
    assert rows()["text"].tolist() == ["a"]
