"""How transformers is called: without its log lines, and with what it raises as a sentence."""

import copy
import os
import pickle
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secbatch.errors import ModelError, SecbatchError, cause
from secbatch.models.content_hash import weight_files
from secbatch.models.resolved import ResolvedModel
from secbatch.models.tokenizer_panics import is_panic

if TYPE_CHECKING:
    import torch

ADAPTER = "adapter_config.json"
MOST_IN_A_BYTE = 8  # numbers of weights that are quantised
MADE_ANEW = 1 << 28  # numbers besides: heads that are to be trained, tables that no file holds
_SHARD_OF_TRAINING = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")


_IMPORTING = threading.Lock()


def import_transformers() -> None:
    """Before any part of it is. They need each other: threads that begin with different ones at a time get halves."""
    with _IMPORTING:
        from transformers import CONFIG_MAPPING, cache_utils  # noqa: F401


@contextmanager
def explained(resolved: ResolvedModel, what: str) -> Iterator[None]:
    """Turns whatever a loading library raises into one sentence that names the model."""
    try:
        yield
    except SecbatchError:  # said already, or an interrupt
        raise
    except pickle.UnpicklingError as error:
        # torch's own words advise to read it with the loader that runs its code
        raise ModelError(
            f"model {resolved.name}: {what} in {resolved.folder} are a pickle that is broken or holds more than"
            " tensors, which could run code and is never read; use a safetensors file"
        ) from error
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        from secbatch.models.out_of_memory import is_out_of_memory

        if is_out_of_memory(error):
            raise ModelError(
                f"model {resolved.name}: memory ran out for {what} in {resolved.folder} ({cause(error)}):"
                " the machine's, or what the process may have of it (ulimit -v, a container's limit); raise it, or name"
                " a smaller model"
            ) from error
        raise ModelError(
            f"model {resolved.name}: {what} in {resolved.folder} cannot be loaded ({cause(error)})"
        ) from error


def read_weights(auto_class: Any, resolved: ResolvedModel, config: Any, dtype: "torch.dtype") -> tuple[Any, Any]:
    """A model of transformers' `auto_class` from a folder, running no code of it, and what did not fit.

    Weights of another shape or that are missing are made anew; the caller refuses them by what is told. Raises
    ModelError.
    """
    with explained(resolved, "its weights"), _without_adapter(resolved.folder) as folder:
        refuse_shards_of_training(resolved)
        _refuse_more_than_weights(resolved, auto_class, config)
        model, info = auto_class.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            trust_remote_code=False,
            local_files_only=True,
            weights_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    return model, info


@contextmanager
def _without_adapter(folder: Path) -> Iterator[Path]:
    """With peft at hand transformers would put an adapter beside the weights on them: it gets links to all other files.

    (Naming a `subfolder` for adapters, where none can be, is enough for transformers from 5.23 on alone.)
    """
    if not os.path.lexists(folder / ADAPTER):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="secbatch-") as place:
        for path in folder.iterdir():
            if path.name != ADAPTER:
                (Path(place) / path.name).symlink_to(path.absolute())
        yield Path(place)


def _refuse_more_than_weights(resolved: ResolvedModel, auto_class: Any, config: Any) -> None:
    """What the files do not hold is made anew before it can be refused, in as much memory as config.json asks for."""
    import torch
    from transformers.initialization import no_init_weights

    with torch.device("meta"), no_init_weights():  # takes no memory
        model = auto_class.from_config(copy.deepcopy(config), trust_remote_code=False, dtype=torch.float32)
    numbers = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    there = sum(file.stat().st_size for file in weight_files(resolved.folder))
    if numbers > MOST_IN_A_BYTE * there + MADE_ANEW:
        raise ModelError(
            f"model {resolved.name}: its weights do not fit its config.json, which asks for {numbers:,} numbers; the"
            f" files of the weights have {there:,} bytes"
        )


def refuse_shards_of_training(resolved: ResolvedModel) -> None:
    """Transformers reads what a distributed training has saved before the weights themselves, and tells of nothing."""
    shards = sorted(path.name for path in resolved.folder.iterdir() if _SHARD_OF_TRAINING.match(path.name))
    if shards:
        raise ModelError(
            f"model {resolved.name}: in {resolved.folder} lies a checkpoint of a distributed training ({shards[0]}),"
            " which would be read in place of its weights; take its files out"
        )


_one_at_a_time = threading.RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """No log lines, warnings or progress bars of transformers; one thread of the process at a time.

    What it changes is the whole process's, and so is what transformers changes while it reads a model: of two runs in
    one process the weights of either would be found missing.
    """
    import warnings

    from transformers.utils import logging

    with _one_at_a_time:
        level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity(logging.CRITICAL)
        logging.disable_progress_bar()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()
