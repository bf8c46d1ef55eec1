"""The output folder: a finished model, or the place of one that is being trained."""

import json
from pathlib import Path
from typing import Any

from secbatch.errors import JobError, OutputError, UnfitOutputError
from secbatch.finetuning.ancestry import RECORD, not_as_written
from secbatch.finetuning.checkpoint import Checkpoints
from secbatch.home import expanded
from secbatch.models.content_hash import CONFIG_FILES, TOKENIZER_FILES, tokenizer_hash, weights_hash
from secbatch.models.resolved import UNFINISHED
from secbatch.store.filesystem import (
    check_output_place,
    explain,
    make_folder,
    remove_tree,
    rename,
    sync_file,
    sync_folder,
)

CONFIG = "config.json"
_WEIGHTS = (".safetensors", ".safetensors.index.json")
_OF_A_MODEL = frozenset({*CONFIG_FILES, *TOKENIZER_FILES})
_CHECKPOINTS, _STAGING, COMPARED = _WORK = ("checkpoints", "model", "compared")  # folders in the working folder
MOVED = "files.json"  # in the working folder: names that a model's files have, or had, while one takes another's place


class ModelFolder:
    """`output` of a job. What a reader finds in it is a whole model or none."""

    def __init__(self, path: str) -> None:
        """Raises OutputError for a place that cannot keep what was written, or that is no folder."""
        self.path = expanded(path, "output", JobError)
        check_output_place(self.path)
        if self.path.exists() and not self.path.is_dir():
            raise UnfitOutputError(f"Output '{self.path}' is a file; name a folder.")
        self.work = self.path / UNFINISHED
        self.lock = self.work / "lock"
        self.checkpoints = Checkpoints(self.work / _CHECKPOINTS)

    def check_ours(self) -> None:
        """Raises JobError for a folder with files that no training wrote: they would be overwritten.

        UnfitOutputError where folders could not be removed, or files not be moved, when all is learned.
        """
        for place in (self.work / name for name in _WORK):
            if place.is_symlink():
                raise UnfitOutputError(f"'{place}' is a link; put a folder in its place, or choose another output.")
        if self.work.is_dir() and self.work.stat().st_dev != self.path.stat().st_dev:
            raise UnfitOutputError(
                f"'{self.work}' is on another file system than '{self.path}', between which no file is moved; put a"
                " folder in its place, or choose another output."
            )
        if not self.path.is_dir() or self.work.is_dir() or (self.path / RECORD).is_file():
            return
        strange = sorted(entry.name for entry in self.path.iterdir())
        if strange:
            raise JobError(
                f"output '{self.path}' holds files that are not of a training ({strange[0]}); choose another folder"
            )

    def record(self) -> dict[str, Any] | None:
        """What the finished training left, or None. Raises OutputError when it cannot be read."""
        path = self.path / RECORD
        if not path.is_file():
            return None
        value = _read(path)
        if not isinstance(value, dict) or not _are_names(value.get("files", [])):
            raise OutputError(f"'{path}' is no record of a training; choose another output.")
        return value

    def lost(self, record: dict[str, Any]) -> str | None:
        """A file that the model of `record` had and has no more, or None: of weights, configuration or tokenizer."""
        needed = [name for name in record.get("files", ()) if name in _OF_A_MODEL or name.endswith(_WEIGHTS)]
        return next((name for name in needed if not (self.path / name).is_file()), None)

    def changed(self, record: dict[str, Any]) -> str | None:
        """What of the model is not as it was written, or None. Raises ModelError for a file that cannot be read."""
        if weights_hash(self.path) != record.get("weights_hash"):
            return "weights or configuration"
        if other := not_as_written(record):
            return f"record ({RECORD}: {other})"
        written = record.get("tokenizer_hash")  # of a training by an earlier release there is none
        return "tokenizer" if written and tokenizer_hash(self.path) != written else None

    def unfinished(self) -> dict[str, Any] | None:
        """The state of the newest checkpoint, or None."""
        return self.checkpoints.state()

    def damaged(self) -> Path | None:
        """A file of the newest checkpoint that is gone or not as it was written, or None."""
        return self.checkpoints.damaged()

    def begin_anew(self) -> None:
        """Forgets an unfinished training."""
        self.checkpoints.clear()

    def staging(self) -> Path:
        """An empty folder to write the model to."""
        folder = self.work / _STAGING
        if folder.exists():
            remove_tree(folder)
        make_folder(folder)
        return folder

    def finish(self, staging: Path) -> None:
        """Moves the files of `staging` into place, the record last: without one, the training is not finished.

        Before it comes the configuration, without which no folder is a model: while weights of one training lie beside
        a tokenizer of another, nobody takes them for one.
        """
        try:
            files = sorted(staging.iterdir(), key=lambda file: (file.name == RECORD, file.name == CONFIG, file.name))
            for file in files:
                _sync_entry(file)
            sync_folder(staging)
            ours = {file.name for file in files}
            others = self._files_before() - ours
            # Whoever takes this up after a kill, or puts a third model here, has to know of both models' files.
            self._note_files(ours | others)
            for name in (RECORD, CONFIG):
                (self.path / name).unlink(missing_ok=True)
            sync_folder(self.path)
            for name in others:
                _remove_entry(self.path / name)
            for file in files:
                if file.is_dir():  # which cannot be renamed over another one
                    _remove_entry(self.path / file.name)
                rename(file, self.path / file.name)
        except OSError as error:
            raise explain(error, self.path) from None
        self.tidy()

    def tidy(self) -> None:
        """Removes what a finished training needs no more; also of one that was killed before it came to that."""
        try:
            self.checkpoints.clear()
            for entry in (self.work / _STAGING, self.work / COMPARED):
                if entry.exists():
                    remove_tree(entry)
            (self.work / MOVED).unlink(missing_ok=True)
        except OSError as error:
            raise explain(error, self.path) from None

    def _files_before(self) -> set[str]:
        """Names of files that another model, or a part of one, may have here."""
        noted = _read(self.work / MOVED) or []
        if not _are_names(noted):
            raise OutputError(f"'{self.work / MOVED}' is not as a training wrote it; choose another output.")
        return {*(self.record() or {}).get("files", ()), *noted}

    def _note_files(self, names: set[str]) -> None:
        note = self.work / MOVED
        temporary = note.with_name(f".{MOVED}.tmp")
        temporary.write_text(json.dumps(sorted(names)), encoding="utf-8")
        sync_file(temporary)
        rename(temporary, note)


def _are_names(values: Any) -> bool:
    """Whether these are entries of a model's folder: what a record names is removed for another model's sake."""
    return isinstance(values, list) and all(
        isinstance(name, str) and name.isprintable() and name == Path(name).name and name not in {"", "..", UNFINISHED}
        for name in values
    )


def _sync_entry(path: Path) -> None:
    """Of a model: a file, or the folder in which a tokenizer has its further chat templates."""
    if path.is_dir():
        for entry in path.iterdir():
            _sync_entry(entry)
        sync_folder(path)
    else:
        sync_file(path)


def _remove_entry(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        path.unlink(missing_ok=True)


def _read(path: Path) -> Any:
    """What a JSON file holds, None where there is no file. Raises OutputError when it cannot be read."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise OutputError(f"'{path}' cannot be read ({error}); choose another output.") from None
