"""Checkpoints: safetensors and JSON in a folder that appears whole or not at all, with a checksum of each file."""

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch

from secbatch.errors import OutputError
from secbatch.models.out_of_memory import is_out_of_memory
from secbatch.store.checksums import checksum_of
from secbatch.store.filesystem import explain, make_folder, remove_tree, rename, sync_file, sync_folder

STATE, CHECKSUMS = "state.json", "checksums.json"
_PREFIX, _BEST = "checkpoint-", "best-"


class Checkpoints:
    """The newest state of a training, and the weights of its best epoch, in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, state: dict[str, Any], tensors: dict[str, dict[str, torch.Tensor]]) -> None:
        """`state` has "step", "epoch" and "best" (None, or with "epoch" and "checksum", what `write_best` gave).

        `tensors`: files without their ending -> tensors by name.

        Older checkpoints go, and weights of epochs that are no longer the best. One of the same step and epoch stays:
        to make room for it first would leave a moment without any.
        """
        target = self._folder / f"{_PREFIX}{state['step']:09d}-{state['epoch']:05d}"
        temporary = self._folder / f".{target.name}.tmp"
        try:
            make_folder(self._folder)
            for left in self._folder.glob(f".{_PREFIX}*.tmp"):  # each kill amid a checkpoint leaves one, of gigabytes
                remove_tree(left)
            if target.exists():  # a training that was stopped before its next step: it is the same state
                sync_folder(self._folder)  # whoever renamed it may have been killed before that
                return
            temporary.mkdir()
            for name, values in tensors.items():
                _save(values, temporary / f"{name}.safetensors")
            (temporary / STATE).write_text(json.dumps(state))
            checksums = {file.name: checksum_of(file) for file in temporary.iterdir()}
            (temporary / CHECKSUMS).write_text(json.dumps(checksums))
            for name in (STATE, CHECKSUMS):
                sync_file(temporary / name)
            sync_folder(temporary)
            rename(temporary, target)
            for other in self._all():
                if other != target:
                    remove_tree(other)
            best = state["best"]
            for file in self._folder.glob(f"{_BEST}*.safetensors"):
                if best is None or file != self._best(best["epoch"]):
                    file.unlink()
        except OSError as error:
            raise explain(error, self._folder) from None

    def read(self) -> tuple[dict[str, Any], dict[str, dict[str, torch.Tensor]]] | None:
        """What `write` was given last, or None. Raises OutputError for a checkpoint that cannot be read."""
        found = self._all()
        if not found:
            return None
        from safetensors.torch import load_file

        with _readable(found[-1]):
            state = json.loads((found[-1] / STATE).read_text())
            return state, {file.stem: load_file(file) for file in sorted(found[-1].glob("*.safetensors"))}

    def readable(self) -> AbstractContextManager[None]:
        """What goes wrong within, with what `read` has given, is told as of a checkpoint that cannot be read."""
        return _readable(self._all()[-1])

    def state(self) -> dict[str, Any] | None:
        """The state of the newest checkpoint without its tensors. Raises OutputError as `read` does."""
        found = self._all()
        if not found:
            return None
        with _readable(found[-1]):
            if checksum_of(found[-1] / STATE) != _checksums(found[-1])[STATE]:
                raise _NotAsWrittenError
            return dict(json.loads((found[-1] / STATE).read_text()))

    def damaged(self) -> Path | None:
        """A file that the newest checkpoint cannot be taken up without, and that is gone or not as it was written."""
        found = self._all()
        if not found:
            return None
        best = (self.state() or {}).get("best")
        with _readable(found[-1]):
            wanted = {found[-1] / name: checksum for name, checksum in _checksums(found[-1]).items()}
            if best is not None:
                wanted[self._best(best["epoch"])] = best["checksum"]
            return next(
                (file for file, sum_ in wanted.items() if not file.is_file() or checksum_of(file) != sum_), None
            )

    def write_best(self, epoch: int, weights: dict[str, torch.Tensor]) -> int:
        """The checksum of what was written."""
        path = self._best(epoch)
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            make_folder(self._folder)
            _save(weights, temporary)
            checksum = checksum_of(temporary)
            rename(temporary, path)
        except OSError as error:
            raise explain(error, path) from None
        return checksum

    def read_best(self, epoch: int, checksum: int) -> dict[str, torch.Tensor]:
        from safetensors.torch import load_file

        with _readable(self._folder):
            if checksum_of(self._best(epoch)) != checksum:
                raise _NotAsWrittenError
            return dict(load_file(self._best(epoch)))

    def clear(self) -> None:
        if not self._folder.exists():
            return
        for found in self._all():  # one that is half gone must not be taken for one that can be read
            rename(found, self._folder / f".{found.name}.tmp")
        remove_tree(self._folder)

    def _best(self, epoch: int) -> Path:
        return self._folder / f"{_BEST}{epoch:05d}.safetensors"

    def _all(self) -> list[Path]:
        return sorted(self._folder.glob(f"{_PREFIX}*"))


def _checksums(checkpoint: Path) -> dict[str, int]:
    return dict(json.loads((checkpoint / CHECKSUMS).read_text()))


class _NotAsWrittenError(Exception):
    """A file has not the checksum that it was written with."""


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except _NotAsWrittenError:
        raise OutputError(f"Checkpoint '{path}' is damaged; remove it to begin anew.") from None
    except Exception as error:  # files that someone changed or cut short: whatever their readers say of it
        if is_out_of_memory(error):  # which says nothing of them
            raise
        raise OutputError(
            f"Checkpoint '{path}' cannot be read ({type(error).__name__}); remove it to begin anew."
        ) from error


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise as_os_error(error) from None
    sync_file(path)


def as_os_error(error: Exception) -> OSError:
    """What the operating system refused, out of the words of the safetensors library."""
    code = re.search(r"os error (\d+)", str(error))
    number = int(code[1]) if code else errno.EIO
    return OSError(number, os.strerror(number))


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, named: dict[str, torch.nn.Parameter]
) -> dict[str, torch.Tensor]:
    """The optimizer's state by parameter: "exp_avg:NAME", "exp_avg_sq:NAME", "step:NAME"."""
    return {
        f"{kind}:{name}": value
        for name, parameter in named.items()
        for kind, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor)
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, named: dict[str, torch.nn.Parameter], tensors: dict[str, torch.Tensor]
) -> None:
    for key, value in tensors.items():
        kind, _, name = key.partition(":")
        parameter = named[name]
        # Steps are counted where fused kernels look for them: on the parameter's device, in float32.
        optimizer.state[parameter][kind] = value.to(parameter.device)
