"""From the name in a job to model files on this machine."""

import os
import re
import shlex
from dataclasses import replace
from pathlib import Path

from secbatch.errors import ModelError, UnfitModelError, counted, nearest
from secbatch.home import expanded
from secbatch.models.catalog import CATALOG
from secbatch.models.content_hash import tokenizer_hash, weight_files, weights_hash
from secbatch.models.hub import HubUnreachableError, Snapshot, cached_snapshot, download
from secbatch.models.registry import name_hint, registered, registered_version
from secbatch.models.resolved import UNFINISHED, ResolvedModel

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def resolve(name: str, revision: str | None = None) -> ResolvedModel:
    """The files of model `name`: a promoted model, a built-in (`builtin/mlm`), a folder, a catalog name, or a hub id.

    A promoted name comes first: what it means must not depend on the folder in which a job happens to be run.
    A hub model comes out of the local cache when it is there, so that a run neither needs the network nor
    changes when the hub does; `secbatch models pull` brings a newer one. Raises ModelError, one sentence,
    when it cannot be had.
    """
    return _resolve(name, revision, fresh=False)


def pull(name: str, revision: str | None = None) -> ResolvedModel:
    """As `resolve`, but asks the hub first and brings what is new there."""
    return _resolve(name, revision, fresh=True)


def at_hand(name: str) -> bool:
    """Whether `name` resolves without the network."""
    if name.startswith("builtin/"):
        return _complete(_builtin_folder(name))
    if registered(name) is not None:
        return True
    if _complete(Path(os.path.expanduser(name))):  # noqa: PTH111  (what is nobody's home stays as it is)
        return True
    entry = CATALOG.get(name)
    hub_id, revision = (entry.hub_id or name, entry.revision) if entry else (name, "main")
    return bool(_HUB_ID.fullmatch(hub_id)) and cached_snapshot(hub_id, revision) is not None


def _resolve(name: str, revision: str | None, fresh: bool) -> ResolvedModel:
    entry = CATALOG.get(name)
    if not name.strip():
        raise UnfitModelError("the model's name is empty")
    promoted = registered_version(name, revision)
    if promoted is not None:
        if fresh:
            raise ModelError(f"model {name} was promoted on this host; there is nothing to fetch")
        return replace(_of_folder(name, promoted.folder, None), promoted=promoted.version)
    if name.startswith("builtin/"):
        _refuse_revision(name, revision, "ships with the package")
        return _of_folder(name, _built_in(name), entry.licence if entry else None)
    folder = expanded(name, "model folder", ModelError)
    if folder.is_dir() and (entry is None or (folder / "config.json").is_file()):
        _refuse_revision(name, revision, "is a folder")
        return _of_folder(name, folder, None)
    if name.startswith((".", "/", "~")) or name.endswith("/"):
        raise ModelError(f"there is no model folder {name}")
    hub_id = entry.hub_id if entry and entry.hub_id else name
    wanted = revision or (entry.revision if entry else "main")
    if not _HUB_ID.fullmatch(hub_id):
        raise UnfitModelError(
            f"model '{name}' is neither a catalog name{name_hint(name, list(CATALOG))}, nor a folder, nor a"
            " hub id"
            " (owner/name)"
        )
    snapshot = _from_hub(name, hub_id, wanted, revision, fresh)
    return _described(name, hub_id, snapshot.commit, snapshot.folder, entry.licence if entry else None)


def _refuse_revision(name: str, revision: str | None, what: str) -> None:
    """A pinned revision that pins nothing would be a false promise."""
    if revision is not None:
        raise UnfitModelError(f"model {name} {what} and has no revisions; take out revision '{revision}'")


def _from_hub(name: str, hub_id: str, revision: str, asked: str | None, fresh: bool) -> Snapshot:
    """`asked`: the revision that the user named, for messages; `revision`: that one or the catalog's."""
    cached = cached_snapshot(hub_id, revision)
    if cached is not None and not fresh:
        return cached
    try:
        return download(hub_id, revision)
    except HubUnreachableError as error:
        known, likeness = list(CATALOG), 0.5
        if "/" in hub_id:  # many are alike by their family's name
            known, likeness = [entry.hub_id for entry in CATALOG.values() if entry.hub_id], 0.8
        hint = name_hint(hub_id, known, likeness) if hub_id not in known else ""
        called = name if name == hub_id else f"{name} ({hub_id})"
        hint += f" at revision '{asked}'" if asked else ""
        pinned = f" --revision {shlex.quote(asked)}" if asked else ""
        if fresh:
            raise ModelError(
                f"model {called}{hint} cannot be fetched: the hub cannot be reached ({error}); the built-in"
                " builtin/mlm and builtin/chat need no network"
            ) from None
        where = "not in the local cache" if name in CATALOG else "neither a folder here nor in the local cache"
        raise ModelError(
            f"model {called}{hint} is {where} and the hub cannot be reached ({error});"
            f" bring it with `secbatch models pull {name}{pinned}` where there is a network, or use the"
            " built-in builtin/mlm (masks, embeddings) or builtin/chat (answers)"
        ) from None


def _of_folder(name: str, folder: Path, licence: str | None) -> ResolvedModel:
    if not (folder / "config.json").is_file():
        within = sorted(path.parent.name for path in folder.glob("*/config.json"))
        hint = f"; there is one in {folder / within[-1]}" if within else ""
        if (folder / UNFINISHED).is_dir():
            hint = "; a training there is not finished: start its `secbatch finetune` again, and it goes on"
        if (folder / "adapter_config.json").is_file():
            hint = "; it holds an adapter: merge it into its base (peft's merge_and_unload) and save the whole model"
        raise ModelError(f"model {name}: no config.json in {folder}{hint}")
    files = weight_files(folder)
    if not files:
        raise ModelError(f"model {name}: no weights (model.safetensors or pytorch_model.bin) in {folder}")
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ModelError(
            f"model {name}: {len(missing)} of {counted(len(files), 'weight file')}"
            f" {'is' if len(missing) == 1 else 'are'} missing from {folder} (the first is {missing[0]})"
        )
    return _described(name, None, None, folder.resolve(), licence)


def _described(name: str, hub_id: str | None, commit: str | None, folder: Path, licence: str | None) -> ResolvedModel:
    return ResolvedModel(name, hub_id, commit, folder, weights_hash(folder), tokenizer_hash(folder), licence)


def _builtin_folder(name: str) -> Path:
    import secbatch.builtin

    return Path(next(iter(secbatch.builtin.__path__))) / name.removeprefix("builtin/")


def _built_in(name: str) -> Path:
    known = [entry.name for entry in CATALOG.values() if entry.hub_id is None]
    if name not in known:
        raise UnfitModelError(
            f"there is no built-in model {name}{nearest(name, known)}; there are {' and '.join(known)}"
        )
    folder = _builtin_folder(name)
    if not _complete(folder):
        raise ModelError(
            f"the weights of {name} are not in this installation ({folder}); install secbatch from a complete"
            " checkout or wheel, or train them with `make models`"
        )
    return folder


def _complete(folder: Path) -> bool:
    try:
        files = weight_files(folder)
    except ModelError:
        return False
    return (folder / "config.json").is_file() and bool(files) and all(file.is_file() for file in files)
