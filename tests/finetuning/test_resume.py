"""A training that is stopped or killed ends with the weights of one that was not, bit for bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fork_server
import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_jobs import classification_file, job, leave_out_curve, texts_file

from secbatch.errors import Interrupted, JobError, ModelError, OutputError, SecbatchError
from secbatch.finetune_job import FinetuneJob
from secbatch.finetuning.checkpoint import Checkpoints
from secbatch.finetuning.finetune import FinetuneResult, finetune
from secbatch.finetuning.reporting import Silent
from secbatch.models.resolve import resolve
from secbatch.models.resolved import ResolvedModel
from secbatch.store.checksums import checksum_of
from secbatch.store.filesystem import rename

Tiny = Callable[[str], ResolvedModel]
pytestmark = pytest.mark.usefixtures("without_curve")


def spec(tiny: Tiny, tmp_path: Path, output: str, seconds: float = 1000.0) -> FinetuneJob:
    data = classification_file(tmp_path / "a.csv")
    made = job("classify", tiny("roberta").folder, data, tmp_path / output, epochs=2, batch_tokens=64,
               early_stopping={"patience": 9}, gradient_accumulation=2)  # fmt: skip
    return made.model_copy(update={"checkpoint_seconds": seconds})


@pytest.fixture(scope="module")
def whole(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> FinetuneResult:
    """What `spec` comes to where nothing stops it; read only."""
    with pytest.MonkeyPatch.context() as patched:
        leave_out_curve(patched)
        return finetune(spec(tiny, tmp_path_factory.mktemp("whole"), "out"))


@pytest.fixture(scope="module")
def stopped(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of `spec` that was stopped in its second epoch; read only."""
    asked = spec(tiny, tmp_path_factory.mktemp("stopped"), "out")
    asks = iter(range(10**6))
    with pytest.raises(Interrupted):
        finetune(asked, stop=lambda: next(asks) >= 23)
    return Path(asked.output)


def same_weights(one: Path, other: Path) -> bool:
    first, second = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_stopped_often_and_resumed(whole: FinetuneResult, tiny: Tiny, tmp_path: Path) -> None:
    broken = spec(tiny, tmp_path, "broken")
    stops = 0
    while True:
        asked = iter(range(10**6))
        try:
            done = finetune(broken, stop=lambda asked=asked: next(asked) >= 11)  # type: ignore[misc]
            break
        except Interrupted:
            stops += 1
            assert not (tmp_path / "broken" / "training.json").exists()
            assert list((tmp_path / "broken" / "_training" / "checkpoints").glob("checkpoint-*/state.json"))
    assert stops >= 2 and done.resumed
    assert same_weights(whole.folder, done.folder)
    assert whole.record["history"] == done.record["history"] and whole.record["tokens"] == done.record["tokens"]
    assert not (done.folder / "_training" / "checkpoints").exists()


def test_what_a_text_hides_is_drawn_by_the_step(tiny: Tiny, tmp_path: Path) -> None:
    data = texts_file(tmp_path / "a.csv")
    whole, broken = (job("masked-lm", tiny("roberta").folder, data, tmp_path / name) for name in ("whole", "broken"))
    asked = iter(range(100))
    with pytest.raises(Interrupted):
        finetune(broken, stop=lambda: next(asked) >= 3)
    assert same_weights(finetune(broken).folder, finetune(whole).folder)


class Killed(BaseException):
    """As a kill: nothing catches it."""


def dies(*_: object) -> None:
    raise Killed


def test_there_is_a_checkpoint_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while a training that goes on is stopped before its next step, and writes the same once more."""
    checkpoints = Checkpoints(tmp_path)
    state: dict[str, Any] = {"step": 3, "epoch": 1, "best": None}
    checkpoints.write(state, {"weights": {"a": torch.ones(2)}})
    with monkeypatch.context() as patched:
        patched.setattr("secbatch.finetuning.checkpoint.rename", dies)
        checkpoints.write(state, {"weights": {"a": torch.ones(2)}})
        with pytest.raises(Killed):
            checkpoints.write({**state, "step": 4}, {"weights": {"a": torch.zeros(2)}})
    assert len(list(tmp_path.iterdir())) == 2
    checkpoints.write({**state, "step": 5}, {"weights": {"a": torch.zeros(2)}})
    (left,) = tmp_path.iterdir()  # nor is anything left of one that was killed amid
    found = checkpoints.read()
    assert found is not None and found[0]["step"] == 5 and left.name.startswith("checkpoint-")


def test_stopped_between_an_epochs_last_step_and_its_figures(whole: FinetuneResult, tiny: Tiny, tmp_path: Path) -> None:
    asked = iter(range(10**6))
    with pytest.raises(Interrupted):  # asked before each step, and then before the first batch of dev
        finetune(spec(tiny, tmp_path, "broken"), stop=lambda: next(asked) >= whole.record["history"][0]["step"])
    assert finetune(spec(tiny, tmp_path, "broken")).record["history"] == whole.record["history"]


def test_stopped_while_the_best_epoch_is_measured(tiny: Tiny, tmp_path: Path) -> None:
    asked: list[bool] = []
    whole = finetune(spec(tiny, tmp_path, "whole"), stop=lambda: bool(asked.append(False)))  # type: ignore[func-returns-value]
    left = iter(range(10**6))
    with pytest.raises(Interrupted, match="the training is kept"):
        finetune(spec(tiny, tmp_path, "broken"), stop=lambda: next(left) == len(asked) - 1)
    done = finetune(spec(tiny, tmp_path, "broken"))
    assert (
        done.resumed and same_weights(whole.folder, done.folder) and done.record["metrics"] == whole.record["metrics"]
    )


def test_a_model_that_has_lost_a_file_is_trained_again(whole: FinetuneResult, tiny: Tiny, tmp_path: Path) -> None:
    asked = spec(tiny, tmp_path, "out")
    folder = shutil.copytree(whole.folder, tmp_path / "out")
    (folder / "README.md").unlink()
    assert not finetune(asked).trained
    (folder / "model.safetensors").unlink()
    told: list[str] = []

    class Notices(Silent):
        def notice(self, text: str) -> None:
            told.append(text)

    assert finetune(asked, Notices()).trained and same_weights(folder, whole.folder)
    assert any(
        text.endswith("out' has lost model.safetensors of its finished model, which is trained again") for text in told
    )


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_model_without_a_file_that_it_had_is_trained_again(
    name: str, whole: FinetuneResult, tiny: Tiny, tmp_path: Path
) -> None:
    asked = spec(tiny, tmp_path, "out")
    file = shutil.copytree(whole.folder, tmp_path / "out") / name
    file.unlink()
    assert finetune(asked).trained and file.read_bytes() == (whole.folder / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("config.json", "weights or configuration"),
        ("model.safetensors", "weights or configuration"),
        ("tokenizer.json", "tokenizer"),
    ],
)
def test_a_model_that_is_not_as_it_was_written_is_not_taken_for_done(
    name: str, what: str, whole: FinetuneResult, tiny: Tiny, tmp_path: Path
) -> None:
    asked = spec(tiny, tmp_path, "out")
    file = shutil.copytree(whole.folder, tmp_path / "out") / name
    content = file.read_bytes()
    damage(file, "cut" if name == "config.json" else "flipped")
    with pytest.raises(OutputError, match=f"but not its {what} as written: damaged, or changed .* with --overwrite"):
        finetune(asked)
    file.write_bytes(content)
    assert not finetune(asked).trained
    damage(file, "flipped")
    assert finetune(asked, overwrite=True).trained and file.read_bytes() == content


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("finished", None),
        ("best_epoch", "2"),
        ("steps", 1.5),
        ("base", []),
        ("metrics", []),
        ("metrics", {"dev": None}),
    ],
)
def test_a_record_that_was_changed_is_not_taken_for_the_models(
    key: str, value: object, whole: FinetuneResult, tiny: Tiny, tmp_path: Path
) -> None:
    asked = spec(tiny, tmp_path, "out")
    file = shutil.copytree(whole.folder, tmp_path / "out") / "training.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(OutputError, match=rf"but not its record \(training.json: {key}[^)]*\) as written: damaged, or"):
        finetune(asked)
    assert finetune(asked, overwrite=True).trained and not finetune(asked).trained


def test_another_number_of_threads_is_said(tiny: Tiny, tmp_path: Path) -> None:
    asked = iter(range(100))
    with pytest.raises(Interrupted):
        finetune(spec(tiny, tmp_path, "out"), stop=lambda: next(asked) >= 3)
    (path,) = (tmp_path / "out" / "_training" / "checkpoints").glob("checkpoint-*/state.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"threads": 77}))
    checksums = path.with_name("checksums.json")
    checksums.write_text(json.dumps(json.loads(checksums.read_text()) | {"state.json": checksum_of(path)}))
    told: list[str] = []

    class Notices(Silent):
        def notice(self, text: str) -> None:
            told.append(text)

    finetune(spec(tiny, tmp_path, "out"), Notices())
    assert any(text.startswith("it began with 77 threads and goes on with") for text in told)


def test_killed_amid_and_resumed(whole: FinetuneResult, tiny: Tiny, tmp_path: Path) -> None:
    killed = spec(tiny, tmp_path, "killed", seconds=0.0)
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(killed.model_dump(mode="json", exclude_none=True)))
    asked = (["finetune", str(path)], torch.get_num_threads())
    process = fork_server.running().Process(target=fork_server.command_line, args=asked)
    process.start()
    folder = tmp_path / "killed" / "_training" / "checkpoints"
    deadline = time.monotonic() + 120
    while not any(int(entry.name.split("-")[1]) >= 9 for entry in folder.glob("checkpoint-*")):
        assert time.monotonic() < deadline and process.is_alive()
        time.sleep(0.002)
    process.kill()
    process.join()
    assert not (tmp_path / "killed" / "training.json").exists()
    done = finetune(killed.model_copy(update={"checkpoint_seconds": 1000.0}))
    assert done.resumed and same_weights(whole.folder, done.folder)
    assert whole.record["history"] == done.record["history"]


def test_an_unfinished_training_of_other_data_is_not_gone_on_with(tiny: Tiny, tmp_path: Path) -> None:
    asked = spec(tiny, tmp_path, "out")
    asks = iter(range(100))
    with pytest.raises(Interrupted):
        finetune(asked, stop=lambda: next(asks) >= 3)
    with (tmp_path / "a.csv").open("a") as file:
        file.write("one more,malware,doc11\n")
    with pytest.raises(JobError, match="unfinished training with other data"):
        finetune(asked)
    (state,) = (tmp_path / "out" / "_training" / "checkpoints").glob("checkpoint-*/state.json")
    state.write_text("{")
    with pytest.raises(OutputError, match=r"Checkpoint .* is damaged; remove it to begin anew"):
        finetune(asked)  # whose training it was nobody can say
    (state.parent / "checksums.json").unlink()
    with pytest.raises(OutputError, match=r"Checkpoint .* cannot be read \(FileNotFoundError\); remove it"):
        finetune(asked)
    shutil.rmtree(state.parent)
    assert not finetune(asked, overwrite=True).resumed


def test_files_that_are_read_in_another_order_are_other_data(tiny: Tiny, tmp_path: Path) -> None:
    """The order of the examples decides the split: what was trained on would stand in dev."""
    data = classification_file(tmp_path / "a.csv")
    header, *lines = (tmp_path / "a.csv").read_text().splitlines(keepends=True)
    for name, rows in (("a", lines[:20]), ("b", lines[20:])):
        (tmp_path / f"{name}.csv").write_text(header + "".join(rows))
    data["train"] = str(tmp_path / "*.csv")
    asked, asks = job("classify", tiny("roberta").folder, data, tmp_path / "out", epochs=1), iter(range(100))
    with pytest.raises(Interrupted):
        finetune(asked, stop=lambda: next(asks) >= 3)
    (tmp_path / "a.csv").rename(tmp_path / "aa.csv")
    assert finetune(asked).resumed  # names alone do not count
    (tmp_path / "aa.csv").rename(tmp_path / "c.csv")
    with pytest.raises(JobError, match="another training"):
        finetune(asked)


@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
@pytest.mark.parametrize("name", ["weights", "optimizer", "average", "best"])
def test_a_damaged_checkpoint_is_said_and_the_training_begins_anew(
    name: str, how: str, whole: FinetuneResult, stopped: Path, tiny: Tiny, tmp_path: Path
) -> None:
    asked = spec(tiny, tmp_path, "out")
    shutil.copytree(stopped, tmp_path / "out")
    (file,) = (tmp_path / "out" / "_training" / "checkpoints").rglob(f"{name}*.safetensors")
    damage(file, how)
    told: list[str] = []

    class Notices(Silent):
        def notice(self, text: str) -> None:
            told.append(text)

    done = finetune(asked, Notices())
    assert f"checkpoint '{file}' is damaged, or gone: the training begins anew" in told
    assert not done.resumed and same_weights(done.folder, whole.folder)


def damage(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how == "gone":
        file.unlink()
        return
    content[-7] ^= 1
    file.write_bytes(content[:-4] if how == "cut" else content)


def test_weights_of_the_best_epoch_that_are_damaged_meanwhile_are_no_model(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checksum = checkpoints.write_best(2, {"a": torch.ones(9)})
    assert checkpoints.read_best(2, checksum)["a"].sum() == 9
    damage(tmp_path / "best-00002.safetensors", "flipped")
    with pytest.raises(OutputError, match=rf"Checkpoint '{tmp_path}' is damaged; remove it to begin anew"):
        checkpoints.read_best(2, checksum)


def test_a_checkpoint_that_there_is_no_memory_for_is_not_to_blame(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, asks = spec(tiny, tmp_path, "out"), iter(range(100))
    with pytest.raises(Interrupted):
        finetune(asked, stop=lambda: next(asks) >= 3)

    def load_file(*_: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.load_file", load_file)
        with pytest.raises(SecbatchError, match="memory runs out on CPU"):
            finetune(asked)
    assert finetune(asked).resumed


def test_divergence_is_one_sentence(tiny: Tiny, tmp_path: Path) -> None:
    wild = job("classify", tiny("bert").folder, classification_file(tmp_path / "a.csv"), tmp_path / "out",
               learning_rate=1e30)  # fmt: skip
    with pytest.raises(SecbatchError, match=r"diverged at step \d+ .*lower hyperparameters\.learning_rate"):
        finetune(wild)


def test_divergence_in_the_last_step_of_all_is_no_model(tiny: Tiny, tmp_path: Path) -> None:
    wild = job("classify", tiny("bert").folder, classification_file(tmp_path / "a.csv"), tmp_path / "out",
               learning_rate=1e30, epochs=1, batch_tokens=100_000, warmup=0.0, schedule="constant")  # fmt: skip
    with pytest.raises(SecbatchError, match=r"diverged by step 1 \(.*lower hyperparameters\.learning_rate"):
        finetune(wild)
    assert not (tmp_path / "out" / "training.json").exists()


def test_sigterm_leaves_a_checkpoint_and_exits_130(tiny: Tiny, tmp_path: Path) -> None:
    asked = spec(tiny, tmp_path, "out")
    asked = asked.model_copy(update={"hyperparameters": asked.hyperparameters.model_copy(update={"epochs": 5000})})
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(asked.model_dump(mode="json", exclude_none=True)))
    command = [sys.executable, "-m", "secbatch", "finetune", str(path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stderr is not None
    line = process.stderr.readline()
    while line and not line.startswith("Epoch "):
        line = process.stderr.readline()
    assert line, "it ended before its first epoch"
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again to go on" in rest and "Traceback" not in rest
    (checkpoint,) = (tmp_path / "out" / "_training" / "checkpoints").glob("checkpoint-*")
    names = sorted(file.name for file in checkpoint.iterdir())
    tensors = ["average.safetensors", "optimizer.safetensors", "weights.safetensors"]
    assert names == sorted([*tensors, "checksums.json", "state.json"])


def test_a_full_disk_is_said_and_the_training_goes_on(whole: FinetuneResult, tiny: Tiny, tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("this machine does not let tests mount a small disk")
    try:
        asked = spec(tiny, tmp_path, "small/out", seconds=0.0)
        with pytest.raises(OutputError, match="is full"):
            finetune(asked)
        subprocess.run(["mount", "-o", "remount,size=20m", place], check=True)
        done = finetune(asked)
        assert same_weights(done.folder, whole.folder)
    finally:
        subprocess.run(["umount", place], check=True)


@contextmanager
def killed_after_moves(moved: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process ends once so many files of the model have been moved into place."""
    count = iter(range(100))

    def dying(path: Path, target: Path) -> None:
        if next(count) >= moved:
            raise Killed
        rename(path, target)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr("secbatch.finetuning.folder.rename", dying)
        yield


@pytest.mark.parametrize("moved", [0, 3, 6])
def test_killed_while_the_model_is_moved_into_place(
    moved: int, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = classification_file(tmp_path / "a.csv")
    asked = job("classify", tiny("roberta").folder, data, tmp_path / "out", epochs=1)
    with killed_after_moves(moved, monkeypatch):
        finetune(asked)
    assert not (tmp_path / "out" / "training.json").exists()
    done = finetune(asked)
    names = {file.name for file in done.folder.iterdir() if file.is_file()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "training.json"} <= names
    assert not list((done.folder / "_training").glob("model"))


@pytest.mark.parametrize("moved", [1, 4])
def test_a_model_that_takes_anothers_place_is_whole_or_none(
    moved: int, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = classification_file(tmp_path / "a.csv")
    first, second = (
        job("classify", tiny("roberta").folder, data, tmp_path / "out", seed=seed, epochs=1) for seed in (0, 1)
    )
    before = finetune(first).folder
    with killed_after_moves(moved, monkeypatch):
        finetune(second, overwrite=True)
    assert (before / "model.safetensors").exists()
    with pytest.raises(ModelError, match="a training there is not finished"):
        resolve(str(before))
    assert resolve(str(finetune(second).folder)).weights_hash == finetune(second).record["weights_hash"]
