"""Paths that begin with `~` where there is no such home, and users without one."""

import pwd

import pytest

from secbatch.errors import InputError, JobError, ModelError
from secbatch.finetuning.folder import ModelFolder
from secbatch.labelled.conll import read_conll
from secbatch.labelled.files import LabelledFiles
from secbatch.models.registry import registered, registered_names
from secbatch.models.resolve import at_hand, resolve
from secbatch.promotion import promote
from secbatch.sources.paths import find_files

NOBODYS = "~nobody-of-that-name/x"


def test_a_home_that_is_nobody_s_is_said() -> None:
    for path in (NOBODYS, f"{NOBODYS}/*.csv"):
        with pytest.raises(InputError, match=r"input path '~nobody.*' begins with '~', which is no home here"):
            find_files(path, "csv")
    with pytest.raises(InputError, match="no home here"):
        read_conll(LabelledFiles(path=NOBODYS))
    with pytest.raises(ModelError, match=r"model folder '~nobody.*' begins with '~', which is no home here"):
        resolve(NOBODYS)
    with pytest.raises(JobError, match="no home here"):
        ModelFolder(NOBODYS)
    assert not at_hand(NOBODYS)


def test_a_user_without_a_home_has_no_promoted_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user may have neither HOME nor a name."""
    for name in ("HOME", "XDG_DATA_HOME", "SECBATCH_MODELS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    assert registered("securebert") is None and registered_names() == []
    with pytest.raises(ModelError, match=r"HOME is not set.*SECBATCH_MODELS"):
        promote("mine", "builtin/mlm")
