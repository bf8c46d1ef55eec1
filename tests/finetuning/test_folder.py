"""A model's folder holds the files of one training, whenever those that put something there were killed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from secbatch.errors import OutputError, UnfitOutputError
from secbatch.finetuning import checkpoint, folder
from secbatch.finetuning.ancestry import RECORD
from secbatch.finetuning.checkpoint import Checkpoints
from secbatch.finetuning.folder import ModelFolder

ONE = ("model.safetensors",)
TEMPLATES = ("additional_chat_templates/tool_use.jinja", "additional_chat_templates/rag.jinja")
SHARDED = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json")


class Killed(BaseException):
    """As a kill: nothing catches it."""


class Kills:
    """Ends what is done before its n-th change of a folder."""

    def __init__(self) -> None:
        self.left: int | None = None  # changes until the end; None: there is none

    def counted(self, change: Callable[..., object]) -> Callable[..., object]:
        def reached(*arguments: object, **named: object) -> object:
            if self.left == 0:
                raise Killed
            if self.left is not None:
                self.left -= 1
            return change(*arguments, **named)

        return reached


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> Kills:
    made = Kills()
    for module in (folder, checkpoint):
        for name in ("rename", "sync_folder", "remove_tree"):
            monkeypatch.setattr(module, name, made.counted(getattr(module, name)))
    monkeypatch.setattr(Path, "unlink", made.counted(Path.unlink))
    monkeypatch.setattr("os.fsync", lambda handle: None)  # a kill loses nothing that was written
    return made


def put(path: Path, *names: str) -> None:
    """What a finished training does: its files are moved into place."""
    place = ModelFolder(str(path))
    staging = place.staging()
    files = sorted({*names, "config.json", "README.md", RECORD})
    for name in files:
        (staging / name).parent.mkdir(exist_ok=True)
        (staging / name).write_text(json.dumps({"files": sorted({Path(file).parts[0] for file in files})}))
    place.checkpoints.write({"step": 1, "epoch": 0, "best": None}, {"weights": {"a": torch.ones(1)}})
    place.finish(staging)


def files(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("first", "second", "third"),
    [(ONE, SHARDED, ONE), (ONE, SHARDED, SHARDED), (SHARDED, ONE, ONE), (TEMPLATES, ONE, TEMPLATES)],
)
def test_a_model_has_its_own_files_alone_whenever_those_before_it_were_killed(
    first: tuple[str, ...], second: tuple[str, ...], third: tuple[str, ...], tmp_path: Path, kills: Kills
) -> None:
    """Weights of another training beside it would be taken for its own: transformers looks for one file first."""
    for step in range(100):
        path = tmp_path / str(step)
        put(path, *first, "vocab.txt")
        kills.left = step
        try:
            put(path, *second, "merges.txt")
        except Killed:
            kills.left = None
            put(path, *third, "spiece.model")
            assert files(path) == {*third, "spiece.model", "config.json", "README.md", RECORD}, step
            continue
        kills.left = None
        break
    assert 10 < step < 99
    assert files(path) == {*second, "merges.txt", "config.json", "README.md", RECORD}


@pytest.mark.parametrize(("first", "second", "third"), [(TEMPLATES, TEMPLATES[:1], ONE), (ONE, TEMPLATES, TEMPLATES)])
def test_folders_of_a_tokenizer_come_and_go_as_files_do(
    first: tuple[str, ...], second: tuple[str, ...], third: tuple[str, ...], tmp_path: Path
) -> None:
    for names in (first, second, third):
        put(tmp_path, *names)
        assert files(tmp_path) == {*names, "config.json", "README.md", RECORD}
    assert not (third == ONE and (tmp_path / "additional_chat_templates").exists())


def test_a_finished_training_that_was_killed_while_it_swept_is_swept(tmp_path: Path, kills: Kills) -> None:
    put(tmp_path / "whole", *ONE)
    for step in range(100):
        path = tmp_path / str(step)
        kills.left = step
        try:
            put(path, *ONE)
        except Killed:
            kills.left = None
            place = ModelFolder(str(path))
            if place.record() is not None:
                place.tidy()
                assert files(path) == files(tmp_path / "whole"), step
            else:
                place.unfinished()  # a checkpoint that is half gone would be said to be broken
            continue
        kills.left = None
        break
    assert 10 < step < 99


def test_a_checkpoint_that_is_half_gone_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who drops an unfinished training, and is killed at it, drops it again without being told of a broken file."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write({"step": 1, "epoch": 0, "best": None}, {"weights": {"a": torch.ones(1)}})

    def dies_amid(path: Path) -> None:
        (found,) = path.rglob("state.json")
        found.unlink()
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(checkpoint, "remove_tree", dies_amid)
        patched.setattr("shutil.rmtree", dies_amid)
        checkpoints.clear()
    assert checkpoints.state() is None and checkpoints.read() is None
    checkpoints.clear()
    assert not tmp_path.exists()


def test_a_record_that_no_training_wrote_is_said(tmp_path: Path) -> None:
    for text in ("{", "[1]", "[" * 100_000):
        (tmp_path / RECORD).write_text(text)
        with pytest.raises(OutputError, match=r"training\.json' (cannot be read|is no record of a training)"):
            ModelFolder(str(tmp_path)).record()


@pytest.mark.parametrize("name", ["..", "../data", "", "a\0b", "_training", 7, None])
def test_a_record_has_no_others_files_removed(name: object, tmp_path: Path) -> None:
    """Whoever made a model says in it which files are the model's: they go when another takes its place."""
    path = tmp_path / "models" / "topics"
    put(path, *ONE)
    for file in (RECORD, "_training/files.json"):
        kept = (path / file).read_bytes() if file == RECORD else None
        names = [*ONE, name]
        (path / file).write_text(json.dumps({"files": names} if file == RECORD else names))
        with pytest.raises(OutputError, match=r"is no record of a training|is not as a training wrote it"):
            put(path, *SHARDED)
        assert (path / ONE[0]).is_file()
        if kept:
            (path / file).write_bytes(kept)


def test_an_empty_record_is_no_model_to_train_over(tmp_path: Path) -> None:
    for text in ("null", '{"files": null}', '{"files": "model.safetensors"}'):
        (tmp_path / RECORD).write_text(text)
        with pytest.raises(OutputError, match=r"training\.json' is no record of a training"):
            ModelFolder(str(tmp_path)).record()


@pytest.mark.parametrize("name", ["checkpoints", "model", "compared"])
def test_a_link_in_the_working_folder_is_refused_first(name: str, tmp_path: Path) -> None:
    (tmp_path / "out" / "_training").mkdir(parents=True)
    (tmp_path / "out" / "_training" / name).symlink_to(tmp_path)
    with pytest.raises(UnfitOutputError, match=f"_training/{name}' is a link; put a folder in its place, or choose"):
        ModelFolder(str(tmp_path / "out")).check_ours()


def test_a_working_folder_of_another_file_system_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "_training").symlink_to("/proc")
    with pytest.raises(UnfitOutputError, match=r"_training' is on another file system than '.*out', between which no"):
        ModelFolder(str(tmp_path / "out")).check_ours()
    (tmp_path / "out" / "_training").unlink()
    (tmp_path / "out" / "_training").symlink_to(tmp_path)
    ModelFolder(str(tmp_path / "out")).check_ours()
