"""What many tests share, made once a session: models, read only, and the process that runs what is killed."""

import gc
import os
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from kills import KillServer

from secbatch.models.resolved import ResolvedModel

MEMORY = Path("/dev/shm")
ROOM = 2 << 30  # bytes; the tests that run at a time fill a tenth of it


def pytest_configure() -> None:
    """Files of tests lie in memory where there is such a place: runs wait for the disk thousands of times.

    What is written, synced and renamed is the same. PYTEST_DEBUG_TEMPROOT, pytest's own, names another place.
    """
    if hasattr(os, "statvfs") and MEMORY.is_dir():
        place = os.statvfs(MEMORY)
        if not place.f_flag & os.ST_NOEXEC and place.f_bavail * place.f_frsize > ROOM:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_sessionstart() -> None:
    """No look for garbage while all is imported: see `secbatch.collector`."""
    gc.disable()


def pytest_collection_finish() -> None:
    """What has been imported stays, and is not looked at again with every few thousand objects that a test makes."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """A file's garbage goes with it, before others parse code (`test_rooms`, a plugin's late import).

    An Arrow file on a full disk, collected amid that, formats the traceback of its close, for which code is parsed,
    too: then Python 3.11's parser fails (SystemError: AST constructor recursion depth mismatch).
    """
    if nextitem is None or nextitem.path != item.path:
        gc.collect()


@pytest.fixture(autouse=True)
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty registry of promoted models: what is promoted on this machine must not decide a test."""
    monkeypatch.setenv("SECBATCH_MODELS", str(tmp_path / "registry"))
    return tmp_path / "registry"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ResolvedModel]:
    """`tiny("roberta")`: the small sharpened model of `tiny_models.make_roberta`, resolved."""
    import tiny_models

    @cache
    def make(kind: str) -> ResolvedModel:
        folder: Path = getattr(tiny_models, f"make_{kind}")(tmp_path_factory.mktemp(kind))
        return tiny_models.resolved(folder, kind)

    return make


@pytest.fixture(scope="session")
def kill_server() -> Iterator[KillServer]:
    server = KillServer()
    yield server
    server.close()


@pytest.fixture
def more_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A caller's torch has so many threads, the process only one processor."""
    import torch

    from secbatch.models import threads

    for name in threads.NAMED_BY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "allowed_processors", lambda: 1)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt: shells let it be ignored in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
