"""Model files from the hub, by way of its local cache."""

import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from secbatch.errors import ModelError, SecbatchError, UnfitModelError, cause
from secbatch.home import expanded
from secbatch.models.content_hash import VOCABULARY_FILES, weight_files
from secbatch.models.proxies import by_proxy
from secbatch.patience import patiently

_TIMEOUT = 5.0  # seconds until a hub that does not answer counts as unreachable
_ATTEMPTS = 3  # a few seconds in all: whoever has no network should not wait to be told so
_TEXT_SUFFIXES = (".json", ".txt", ".model", ".jinja")


@dataclass(frozen=True)
class Snapshot:
    """The files of a hub model at one commit."""

    folder: Path
    commit: str | None


class HubUnreachableError(Exception):
    """The hub does not answer, or this process is told to stay offline."""


def cached_snapshot(hub_id: str, revision: str) -> Snapshot | None:
    """The snapshot in the local cache; None when it is not there or not whole. Never uses the network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with _quiet():
        try:
            folder = Path(snapshot_download(hub_id, revision=revision, local_files_only=True))
        except (LocalEntryNotFoundError, OSError, ValueError, RuntimeError):  # the last: a user without a home
            return None
    try:
        files = weight_files(folder)
    except ModelError:  # half an index
        return None
    if not (folder / "config.json").is_file() or not files or not all(file.is_file() for file in files):
        return None
    if not any((folder / name).is_file() for name in VOCABULARY_FILES):  # another program wanted no tokenizer
        return None
    return Snapshot(folder, folder.name if folder.parent.name == "snapshots" else None)


def download(hub_id: str, revision: str) -> Snapshot:
    """Brings the files that are needed into the local cache: configuration, tokenizer, one set of weights.

    Raises HubUnreachableError when the hub does not answer, ModelError when it does and refuses.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if _offline():
        raise HubUnreachableError("HF_HUB_OFFLINE is set")
    expanded(constants.HF_HUB_CACHE, "the cache of models (HF_HOME)", ModelError)
    with _quiet():
        try:
            facts = patiently(
                lambda: HfApi().model_info(hub_id, revision=revision, timeout=_TIMEOUT), _ATTEMPTS, _may_pass
            )
            names = [file.rfilename for file in facts.siblings or ()]
            # What an attempt has brought stays in the cache: the next goes on from there.
            folder = patiently(
                lambda: snapshot_download(
                    hub_id, revision=facts.sha, allow_patterns=_wanted(names), etag_timeout=_TIMEOUT
                ),
                _ATTEMPTS,
                _may_pass,
            )
        except GatedRepoError:
            raise ModelError(
                f"model {hub_id} is gated: accept its terms on its page on the hub, then log in with"
                " `hf auth login` or set HF_TOKEN"
            ) from None
        except RevisionNotFoundError:
            raise UnfitModelError(f"model {hub_id} has no revision '{revision}' on the hub") from None
        except RepositoryNotFoundError:
            raise UnfitModelError(f"there is no model {hub_id} on the hub, or it is private") from None
        except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
            raise HubUnreachableError(cause(error)) from None
        except HfHubHTTPError as error:
            raise ModelError(f"model {hub_id}: the hub answered with an error ({cause(error)})") from None
        except SecbatchError:  # an interrupt
            raise
        except Exception as error:
            if named := _certificates(error):
                raise HubUnreachableError(f"certificates that {named} names cannot be read: {cause(error)}") from None
            # Transport errors: their classes belong to whichever HTTP client huggingface_hub uses.
            if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
                raise ModelError(
                    f"model {hub_id} cannot be stored in the cache ({error}); make room or mend its rights, or name"
                    " another folder in HF_HOME"
                ) from None
            if type(error).__name__ == "InvalidURL":  # the piece it tells of may be of a password
                raise HubUnreachableError(
                    "HF_ENDPOINT, or a proxy that HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names, is no address"
                ) from None
            raise HubUnreachableError(f"{cause(error)}{by_proxy(constants.ENDPOINT)}") from None
    return Snapshot(Path(folder), facts.sha)


def _may_pass(error: Exception) -> bool:
    """Whether the hub may answer a moment later: connections that fail, too many requests, errors of its own."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        response = getattr(error, "response", None)
        status = int(getattr(response, "status_code", 0) or 0)
        return status == 429 or status >= 500
    if isinstance(error, OfflineModeIsEnabled | ImportError):
        return False
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError | TimeoutError):
        return False  # the cache's disk
    transport = type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3"))
    return transport or isinstance(error, OSError | LocalEntryNotFoundError)


def _certificates(error: Exception) -> str | None:
    """The variable that names certificates, where `error` comes of their file: it names none, unlike a cache's disk."""
    missing = isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError) and error.filename is None
    if not missing and not isinstance(error, ssl.SSLError):
        return None
    return next((name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)), None)


def _wanted(names: list[str]) -> list[str]:
    """Of a repository's files: text at its top, how vectors are pooled, and safetensors weights; pickled ones if there
    are none."""
    top = [name for name in names if "/" not in name]
    # Beside them, repositories keep other precisions and other programs' copies of the same weights.
    whole = [name for name in top if name == "model.safetensors"]
    weights = whole or [name for name in top if re.fullmatch(r"model-\d+-of-\d+\.safetensors", name)]
    weights = weights or [name for name in top if name.startswith("pytorch_model") and name.endswith(".bin")]
    weights = weights or [name for name in top if name.endswith(".safetensors")]
    pooling = [name for name in names if re.fullmatch(r"\d+_Pooling/config\.json", name)]
    return weights + pooling + [name for name in top if name.endswith(_TEXT_SUFFIXES)]


def _offline() -> bool:
    from huggingface_hub import constants

    # The constant is read from the environment at import; a later change of the variable counts as well.
    stated = os.environ.get("HF_HUB_OFFLINE", os.environ.get("TRANSFORMERS_OFFLINE", ""))
    return bool(constants.HF_HUB_OFFLINE) or stated.strip().upper() in {"1", "ON", "YES", "TRUE"}


@contextmanager
def _quiet() -> Iterator[None]:
    """No log lines and, off a terminal, no progress bars of huggingface_hub."""
    import sys
    import warnings

    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
        logging,
    )

    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    hide = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if hide:
        disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if hide:
            enable_progress_bars()
