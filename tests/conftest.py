"""Models that many tests share: made once a session, read only."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from secbatch.models.resolved import ResolvedModel


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
