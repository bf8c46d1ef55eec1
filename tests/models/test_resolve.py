"""Names to folders, with and without a hub."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from secbatch.errors import EXIT_USAGE, ModelError, UnfitModelError
from secbatch.models import hub
from secbatch.models.catalog import CATALOG
from secbatch.models.content_hash import tokenizer_hash, weights_hash
from secbatch.models.device import choose
from secbatch.models.load import load_model
from secbatch.models.resolve import at_hand, pull, resolve
from secbatch.models.resolved import ResolvedModel
from secbatch.models.tokenizer_files import load_tokenizer

Tiny = Callable[[str], ResolvedModel]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def fill_cache(cache: Path, hub_id: str, source: Path) -> Path:
    """A hub cache as huggingface_hub lays it out: refs, blobs named by hash, snapshots of links to them."""
    repo = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    for file in source.iterdir():
        content = file.read_bytes()
        large = file.suffix == ".safetensors"
        blob = repo / "blobs" / (hashlib.sha256 if large else hashlib.sha1)(content).hexdigest()
        blob.write_bytes(content)
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no way to the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_cached_model_needs_no_hub(tiny: Tiny, cache: Path) -> None:
    source = tiny("roberta").folder
    snapshot = fill_cache(cache, "ehsanaghaei/SecureBERT", source)
    model = resolve("securebert")
    assert (model.hub_id, model.revision, model.folder) == ("ehsanaghaei/SecureBERT", COMMIT, snapshot)
    assert model.licence == CATALOG["securebert"].licence
    assert resolve("ehsanaghaei/SecureBERT", "main").folder == snapshot
    assert resolve("securebert", COMMIT).folder == snapshot
    assert at_hand("securebert") and not at_hand("blenderbot")
    # The same files have the same hashes, wherever they lie.
    by_folder = resolve(str(source))
    assert (by_folder.weights_hash, by_folder.tokenizer_hash) == (model.weights_hash, model.tokenizer_hash)
    load_tokenizer(model)
    load_model(model, "masked-lm", choose("cpu", "float32"))


def test_a_cached_revision_is_not_another(tiny: Tiny, cache: Path) -> None:
    fill_cache(cache, "ehsanaghaei/SecureBERT", tiny("roberta").folder)
    said = r"\(ehsanaghaei/SecureBERT\) at revision 'v 2' is not .*`secbatch models pull securebert --revision 'v 2'`"
    with pytest.raises(ModelError, match=said):
        resolve("securebert", "v 2")


@pytest.mark.parametrize("lacking", ["model.safetensors", "tokenizer.json"])
def test_half_a_download_is_not_a_model(tiny: Tiny, cache: Path, lacking: str) -> None:
    """transformers brings what it is asked for: weights without the tokenizer, or the other way round."""
    snapshot = fill_cache(cache, "ehsanaghaei/SecureBERT", tiny("roberta").folder)
    (snapshot / lacking).unlink()
    assert not at_hand("securebert")
    with pytest.raises(ModelError, match="not in the local cache"):
        resolve("securebert")


def test_half_of_the_shards_is_not_a_model(tiny: Tiny, cache: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny("roberta").folder, tmp_path / "sharded"))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    fill_cache(cache, "ehsanaghaei/SecureBERT", folder)
    assert not at_hand("securebert") and not at_hand(str(folder))
    with pytest.raises(ModelError, match="not in the local cache"):
        resolve("securebert")
    with pytest.raises(ModelError, match=r"1 of 2 weight files is missing from .*-00002-of-00002\.safetensors"):
        resolve(str(folder))
    for shard in ("../elsewhere.safetensors", "/elsewhere.safetensors", "a" * 5000, "a\0b", "\ud800", "", [], None):
        broken = json.dumps({"weight_map": {"a": shard}})
        (folder / "model.safetensors.index.json").write_text(broken)
        with pytest.raises(ModelError, match=r"index\.json is no index of weight files"):
            resolve(str(folder))
    for broken in ("{}", "[" * 100_000):
        (folder / "model.safetensors.index.json").write_text(broken)
        with pytest.raises(ModelError, match=r"index\.json is no index of weight files"):
            resolve(str(folder))


def test_other_weights_beside_the_models_own(tiny: Tiny, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny("roberta").folder, tmp_path / "model"))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").rename(folder / "adapter.safetensors")  # nobody reads it
    model = resolve(str(folder))
    assert "pickle (pytorch_model.bin)" in load_model(model, "masked-lm", choose("cpu", "float32")).notices[0]
    (folder / "pytorch_model.bin").write_bytes(b"other")
    assert resolve(str(folder)).weights_hash != model.weights_hash
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match="no weights"):
        resolve(str(folder))


def test_offline_and_not_cached(cache: Path) -> None:
    with pytest.raises(ModelError) as caught:
        resolve("securebert")
    sentence = str(caught.value)
    assert "securebert (ehsanaghaei/SecureBERT)" in sentence
    assert "`secbatch models pull securebert`" in sentence
    assert "builtin/mlm" in sentence and "builtin/chat" in sentence
    assert "\n" not in sentence
    with pytest.raises(ModelError, match="cannot be fetched: the hub cannot be reached"):
        pull("securebert")


def test_an_unreachable_hub_is_said_at_once_and_in_silence(tmp_path: Path) -> None:
    code = "from secbatch.models.resolve import resolve; resolve('securebert')"
    environment = {
        "PATH": "/usr/bin",
        "HF_HOME": str(tmp_path),
        "HF_ENDPOINT": "http://127.0.0.1:9",  # nothing listens there
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    started = time.monotonic()
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert time.monotonic() - started < 30
    assert "ModelError: model securebert" in run.stderr.splitlines()[-1]
    assert run.stdout == ""
    before_traceback = run.stderr.partition("Traceback")[0]
    assert before_traceback == ""


@pytest.mark.parametrize(
    ("proxy", "reason"),
    [
        ("socks5://127.0.0.1:9", "socksio"),  # which no extra installs
        ("foo://127.0.0.1", "Unknown scheme"),
        ("http://user:S3CRET/x@127.0.0.1", "a proxy that HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names, is no address"),
        ("http://127.0.0.1:9", "Connection refused; by the proxy that HTTP_PROXY names)"),
    ],
)
def test_a_proxy_that_cannot_be(tmp_path: Path, proxy: str, reason: str) -> None:
    code = "from secbatch.models.resolve import resolve; resolve('securebert')"
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), proxy)
    environment = {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "HF_HOME": str(tmp_path),
        "HF_ENDPOINT": "http://hub.example:9",
    }
    environment |= proxies
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    said = run.stderr.splitlines()[-1]
    assert "ModelError: model securebert" in said and reason in said and "S3CRET" not in said


@pytest.mark.parametrize("content", [None, b"none"])
def test_certificates_that_are_not_there(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "company.pem"
    if content:
        file.write_bytes(content)
    code = "from secbatch.models.resolve import resolve; resolve('securebert')"
    environment = {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "HF_HOME": str(tmp_path),
        "HF_ENDPOINT": "https://127.0.0.1:9",
        "SSL_CERT_FILE": str(file),
    }
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    said = run.stderr.splitlines()[-1]
    assert "ModelError: model securebert" in said and "certificates that SSL_CERT_FILE names cannot be read" in said


def test_a_cache_in_a_home_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user may have neither a name nor HOME."""
    for name in ("HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setattr(constants, name, "~nobody-here/cache")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    assert not at_hand("securebert")
    with pytest.raises(ModelError, match=r"HF_HOME\) '~nobody-here/cache' begins with '~', which is no home here"):
        pull("securebert")


def test_a_misspelt_catalog_name(cache: Path) -> None:
    with pytest.raises(ModelError, match=r"did you mean 'securebert'\?"):
        resolve("securbert")
    with pytest.raises(ModelError, match=r"did you mean 'ehsanaghaei/SecureBERT'\?"):
        resolve("ehsanaghaei/SecureBERTT")
    with pytest.raises(ModelError, match=r"roberta-base-squad2 is neither a folder here nor in the local cache and"):
        resolve("deepset/roberta-base-squad2")
    with pytest.raises(ModelError, match="neither a catalog name"):
        resolve("secure bert")
    with pytest.raises(ModelError, match=r"no built-in model builtin/mln \(did you mean 'builtin/mlm'\?\)"):
        resolve("builtin/mln")


def test_folders(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"no model folder \./absent"):
        resolve("./absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no config\.json in"):
        resolve(str(tmp_path / "empty"))
    (tmp_path / "begun" / "_training").mkdir(parents=True)
    with pytest.raises(ModelError, match="a training there is not finished: start its `secbatch finetune` again"):
        resolve(str(tmp_path / "begun"))
    shutil.copytree(tiny("roberta").folder, tmp_path / "runs" / "checkpoint-500")
    with pytest.raises(ModelError, match=r"no config\.json in .*runs; there is one in .*runs/checkpoint-500"):
        resolve(str(tmp_path / "runs"))
    (tmp_path / "empty" / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="it holds an adapter: merge it into its base"):
        resolve(str(tmp_path / "empty"))
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="no weights"):
        resolve(str(tmp_path / "empty"))
    with pytest.raises(ModelError, match="name is empty"):
        resolve(" ")
    # A folder of that name wins over the catalog.
    shutil.copytree(tiny("roberta").folder, tmp_path / "securebert")
    monkeypatch.chdir(tmp_path)
    model = resolve("securebert")
    assert model.folder == tmp_path / "securebert" and model.hub_id is None and model.revision is None
    for name, what in (("securebert", "is a folder"), ("builtin/mlm", "ships with the package")):
        with pytest.raises(ModelError, match=f"{name} {what} and has no revisions; take out revision 'v1'"):
            resolve(name, "v1")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "tokenizer.json", "config.json"])
def test_a_clone_without_its_large_files(tiny: Tiny, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(tiny("roberta").folder, tmp_path / "model"))
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 498818054\n"
    (folder / name).write_text(pointer)
    with pytest.raises(ModelError, match=rf"{name} only points to the real one, .*`git lfs pull`"):
        resolve(str(folder))


def test_hashes_follow_what_decides_results(tiny: Tiny, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny("roberta").folder, tmp_path / "model"))
    weights, tokenizer = weights_hash(folder), tokenizer_hash(folder)
    (folder / "README.md").write_text("words")
    (folder / "training_args.bin").write_bytes(b"x")
    assert (weights_hash(folder), tokenizer_hash(folder)) == (weights, tokenizer)
    (folder / "tokenizer_config.json").write_text("{}")
    assert tokenizer_hash(folder) != tokenizer and weights_hash(folder) == weights
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    assert weights_hash(folder) != weights


class _FakeApi:
    """A hub with one model."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def model_info(self, hub_id: str, revision: str, timeout: float) -> object:
        siblings = [type("File", (), {"rfilename": name})() for name in self.names]
        return type("Info", (), {"sha": COMMIT, "siblings": siblings})()


@pytest.mark.parametrize(
    ("kind", "message"), [("RepositoryNotFoundError", "no model a/b on"), ("RevisionNotFoundError", "no revision 'v1'")]
)
def test_what_the_hub_does_not_know_no_retry_brings(
    monkeypatch: pytest.MonkeyPatch, cache: Path, kind: str, message: str
) -> None:
    from types import SimpleNamespace

    from huggingface_hub import errors

    answer: Any = SimpleNamespace(status_code=404, headers={}, request=None)
    error = getattr(errors, kind)("not found", response=answer)
    api = SimpleNamespace(model_info=Mock(side_effect=error))
    monkeypatch.setattr(hub, "_offline", lambda: False)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    with pytest.raises(UnfitModelError, match=message) as caught:
        resolve("a/b", "v1")
    assert caught.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize("safe", [True, False])
def test_a_download_takes_one_set_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, safe: bool) -> None:
    names = ["config.json", "merges.txt", "pytorch_model.bin", "tf_model.h5", "onnx/model.safetensors", "evil.py"]
    names += ["1_Pooling/config.json", "2_Dense/config.json"]
    names += ["model.safetensors", "model.fp16.safetensors", "consolidated.safetensors"] if safe else []
    asked: dict[str, object] = {}

    def snapshot_download(hub_id: str, **options: object) -> str:
        asked.update(options)
        return str(tmp_path)

    monkeypatch.setattr(hub, "_offline", lambda: False)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: _FakeApi(names))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    snapshot = hub.download("a/b", "main")
    assert (snapshot.folder, snapshot.commit, asked["revision"]) == (tmp_path, COMMIT, COMMIT)
    weights = "model.safetensors" if safe else "pytorch_model.bin"
    assert asked["allow_patterns"] == [weights, "1_Pooling/config.json", "config.json", "merges.txt"]


@pytest.mark.parametrize(
    ("status", "attempts", "message"),
    [(503, 3, "answered with an error"), (429, 3, "answered with an error"), (400, 1, "answered with an error")],
)
def test_a_hub_with_a_bad_moment_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, attempts: int, message: str
) -> None:
    from types import SimpleNamespace

    from huggingface_hub.errors import HfHubHTTPError

    from secbatch import patience

    def error() -> HfHubHTTPError:
        answer: Any = SimpleNamespace(status_code=status, headers={}, request=None)
        return HfHubHTTPError("bad moment", response=answer)

    asked: list[str] = []
    failures = 1

    def snapshot_download(hub_id: str, **options: object) -> str:
        asked.append(hub_id)
        if len(asked) <= failures:
            raise error()
        return str(tmp_path)

    monkeypatch.setattr(hub, "_offline", lambda: False)
    monkeypatch.setattr(patience.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: _FakeApi(["config.json"]))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    if attempts > 1:
        assert hub.download("a/b", "main").folder == tmp_path
        assert len(asked) == 2
    asked.clear()
    failures = 99
    with pytest.raises(ModelError, match=message):
        hub.download("a/b", "main")
    assert len(asked) == attempts


def test_every_catalog_entry_says_what_it_is() -> None:
    for name, entry in CATALOG.items():
        assert entry.name == name and entry.licence and entry.good_for
        assert (entry.hub_id is None) == name.startswith("builtin/")


def test_a_models_files_are_read_once_and_again_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    weights = folder / "model.safetensors"
    weights.write_bytes(b"one")
    read: list[str] = []
    digest = hashlib.file_digest

    def watched(file: Any, kind: str) -> Any:
        read.append(Path(file.name).name)
        return digest(file, kind)

    monkeypatch.setattr(hashlib, "file_digest", watched)
    first = weights_hash(folder)
    assert weights_hash(folder) == first and read.count("model.safetensors") == 2  # too new to be relied on
    later = time.time_ns() + 10**10
    monkeypatch.setattr("secbatch.models.content_hash.time.time_ns", lambda: later)
    assert weights_hash(folder) == weights_hash(folder) == first and read.count("model.safetensors") == 3
    time.sleep(0.05)  # longer than a tick of the file system's clock
    weights.write_bytes(b"two")
    before = weights.stat()
    second = weights_hash(folder)
    assert second != first
    time.sleep(0.05)
    weights.write_bytes(b"six")  # the same length, and a clock that was put back
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert weights_hash(folder) not in (first, second)
