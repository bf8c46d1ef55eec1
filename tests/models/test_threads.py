"""Threads of torch in a process that may use some of the machine's processors."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from secbatch.models import threads
from secbatch.models.device import choose
from secbatch.models.threads import FORKED, allowed_processors, restored_threads, settle_threads

Groups = Callable[[str, dict[str, str]], None]


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Groups:
    """Says which control groups the process is in, and what stands in which file."""

    def settle(own: str, files: dict[str, str]) -> None:
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    monkeypatch.setattr(threads, "CGROUPS", tmp_path)
    monkeypatch.setattr(threads, "OWN_GROUPS", tmp_path / "own")
    for name in threads.NAMED_BY:
        monkeypatch.delenv(name, raising=False)
    return settle


@pytest.fixture
def four() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("own", "files", "wanted"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "5000 100000\n"}, 1),
        ("0::/pods/one\n", {"pods/cpu.max": "150000 100000\n", "pods/one/cpu.max": "max 100000\n"}, 2),
        ("0::/gone\n", {"cpu.max": "300000 100000\n"}, 3),  # seen from inside of a container
        (
            "4:memory:/x\n2:cpu,cpuacct:/x\n",
            {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            1,
        ),
        ("2:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("0::/\n", {}, None),
        ("0::/\n", {"cpu.max": "what is this\n"}, None),
    ],
)
def test_the_quota_of_a_control_group(groups: Groups, own: str, files: dict[str, str], wanted: int | None) -> None:
    groups(own, files)
    assert allowed_processors() == wanted


def test_another_system_has_no_quota(groups: Groups) -> None:
    assert allowed_processors() is None  # no file says which groups


def test_torch_has_no_more_threads_than_the_quota(groups: Groups, four: None) -> None:
    groups("0::/\n", {"cpu.max": "200000 100000\n"})
    assert choose("cpu", "float32").description == "CPU (2 threads)"
    assert torch.get_num_threads() == 2


def test_it_is_never_given_more(groups: Groups, four: None) -> None:
    groups("0::/\n", {"cpu.max": "900000 100000\n"})
    assert settle_threads() == torch.get_num_threads() == 4


def test_a_variable_says_otherwise(groups: Groups, four: None, monkeypatch: pytest.MonkeyPatch) -> None:
    groups("0::/\n", {"cpu.max": "200000 100000\n"})
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert settle_threads() == torch.get_num_threads() == 4


def test_a_caller_gets_its_threads_back(groups: Groups, four: None) -> None:
    groups("0::/\n", {"cpu.max": "100000 100000\n"})
    with pytest.raises(ValueError, match="broken"), restored_threads():
        assert settle_threads() == 1
        raise ValueError("broken")
    assert torch.get_num_threads() == 4


def test_a_process_forked_from_one_that_has_run_a_job_has_one_thread() -> None:
    code = """
import multiprocessing, sys, torch
from secbatch.models.device import choose
torch.set_num_threads(4)
product = torch.rand(400, 400)

def forked(answers):
    chosen, again = choose("cpu", "float32"), choose("cpu", "float32")
    computed = float((product @ product).sum()) > 0  # with more threads it waits for ever
    answers.put((chosen.description, chosen.notices, again.description, computed))

assert choose("cpu", "float32").notices == ()
product @ product
fork = multiprocessing.get_context("fork")
answers = fork.Queue()
process = fork.Process(target=forked, args=(answers,), daemon=True)
process.start()
told = answers.get(timeout=60)
print(told)
assert choose("cpu", "float32").description != "CPU (1 thread)"
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "4"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ast.literal_eval(done.stdout) == ("CPU (1 thread)", (FORKED,), "CPU (1 thread)", True), done.stderr
