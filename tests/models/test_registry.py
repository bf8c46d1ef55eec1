"""Promoted models: what a name means, and what is refused."""

import errno
import json
import os
import resource
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest
from tiny_models import make_bert

from secbatch.cli.main import _run
from secbatch.errors import JobError, ModelError, OutputError
from secbatch.models.content_hash import weights_hash
from secbatch.models.registry import kept_versions, registered, registered_names, registry_folder, version_folder
from secbatch.models.resolve import at_hand, pull, resolve
from secbatch.promotion import _copy, promote, remove, roll_back


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [make_bert(tmp_path_factory.mktemp(f"bert{seed}"), seed) for seed in (0, 1, 2)]


def test_a_promoted_model_is_what_its_name_means(models: list[Path], registry: Path) -> None:
    (models[0] / "training_args.bin").write_bytes(b"a pickle")
    (models[0] / "checkpoint-10").mkdir(exist_ok=True)
    done = promote("tram", str(models[0]), note="first")
    assert done.left_out == ("checkpoint-10", "training_args.bin")
    found = resolve("tram")
    assert (found.name, found.promoted, found.hub_id, found.revision) == ("tram", done.record.current, None, None)
    assert found.folder == (registry / "tram" / "versions" / done.record.current).resolve()
    assert found.weights_hash == resolve(str(models[0])).weights_hash
    assert at_hand("tram") and not at_hand("tram2")
    assert not list(registry.glob("**/*.tmp")) and not list(registry.glob("**/.copy-*"))
    entry = registered("tram").history[0]  # type: ignore[union-attr]
    assert (entry.action, entry.note, entry.source) == ("promote", "first", str(models[0]))


def test_it_does_not_follow_the_folder_it_came_from(models: list[Path], tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(models[0], source)
    promote("tram", str(source))
    before = resolve("tram").weights_hash
    shutil.copytree(models[1], source, dirs_exist_ok=True)
    assert resolve("tram").weights_hash == before
    shutil.rmtree(source)
    assert resolve("tram").weights_hash == before


def test_versions_are_rolled_back_one_after_another(models: list[Path]) -> None:
    versions = [promote("tram", str(folder)).record.current for folder in models]
    assert len(set(versions)) == 3 and kept_versions("tram") == sorted(versions)
    assert roll_back("tram").record.current == versions[1]
    assert weights_hash(resolve("tram").folder) == weights_hash(models[1])
    assert roll_back("tram").record.current == versions[0]
    with pytest.raises(ModelError, match="no earlier version"):
        roll_back("tram")
    assert roll_back("tram", versions[2][:9], "it was better").record.current == versions[2]
    assert roll_back("tram").record.current == versions[0]
    actions = [entry.action for entry in registered("tram").history]  # type: ignore[union-attr]
    assert actions == ["promote"] * 3 + ["rollback"] * 4
    with pytest.raises(ModelError, match="no version 'fffffff'; kept are"):
        roll_back("tram", "fffffff")


def test_a_job_can_pin_a_version(models: list[Path]) -> None:
    first, second = (promote("tram", str(folder)).record.current for folder in models[:2])
    assert resolve("tram", first[:10]).promoted == first
    assert resolve("tram").promoted == second
    with pytest.raises(ModelError, match="no version 'main'"):
        resolve("tram", "main")
    with pytest.raises(ModelError, match="nothing to fetch"):
        pull("tram")


def test_promoting_the_same_again_changes_nothing_but_the_history(models: list[Path]) -> None:
    promote("tram", str(models[0]))
    promote("tram", str(models[1]))
    again = promote("tram", "tram")
    assert again.before == again.record.current and len(again.record.earlier) == 1
    assert len(kept_versions("tram")) == 2
    assert again.record.history[-1].source == f"tram@{again.record.current}"


def _damaged(folder: Path, how: str) -> None:
    file = folder / "config.json"
    if how == "changed":
        file.chmod(0o644)
        file.write_text(file.read_text().replace('"bert"', '"bert" '))
    elif how == "missing":
        file.unlink()
    elif how == "added":
        (folder / "chat_template.jinja").write_text("{{ evil }}")
    elif how == "linked":
        copy = folder.parents[3] / "config.json"
        shutil.copyfile(file, copy)
        file.unlink()
        file.symlink_to(copy)
    elif how in ("lock", "lock that is no text"):
        lock = folder.with_name(f"{folder.name}.lock.json")
        values = json.loads(lock.read_text())
        values["files"]["config.json"]["sha256"] = "0" * 64 if how == "lock" else "\ud800"
        lock.write_text(json.dumps(values))
    elif how == "no lock":
        folder.with_name(f"{folder.name}.lock.json").unlink()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("changed", r"config\.json in .* was changed"),
        ("missing", r"config\.json is missing from"),
        ("added", r"chat_template\.jinja was added to"),
        ("linked", r"config\.json in .* was changed"),
        ("lock", "not the lock file that it was promoted with"),
        ("lock that is no text", "not the lock file that it was promoted with"),
        ("no lock", r"lock\.json is missing"),
    ],
)
def test_files_that_are_not_what_was_promoted_are_refused(models: list[Path], how: str, says: str) -> None:
    promote("tram", str(models[0]))
    version = promote("tram", str(models[1])).record.current
    _damaged(version_folder("tram", version), how)
    with pytest.raises(ModelError, match=says):
        resolve("tram")
    assert promote("tram", str(models[1])).record.current == version  # mends it
    assert resolve("tram").promoted == version
    roll_back("tram")
    assert resolve("tram").promoted != version


@pytest.mark.parametrize(
    "name", ["", "../up", "a/b", "/etc", ".hidden", "a b", "a\0b", "ünï", "-x", "a" * 101, "~", "a\n", "builtin/mlm"]
)
def test_names_that_could_be_paths_are_refused(models: list[Path], name: str, registry: Path) -> None:
    with pytest.raises(JobError, match="cannot be a model's name"):
        promote(name, str(models[0]))
    assert not registry.exists()


def test_names_of_the_catalog_are_refused_unless_meant(models: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(JobError, match=r"'securebert' is a model of the catalog.*--shadow"):
        promote("securebert", str(models[0]))
    promote("securebert", str(models[0]), shadow=True)
    assert resolve("securebert").promoted is not None
    assert _run(["models", "list"]) == 0
    assert "bigscience-openrail-m · jobs that name it use your promoted model" in capsys.readouterr().out
    promote("tram", str(models[0]))
    with pytest.raises(JobError, match="only by upper and lower case"):
        promote("Tram", str(models[0]))


def test_what_is_no_model_is_not_promoted(models: list[Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelError, match=r"no config\.json"):
        promote("tram", str(empty))
    with pytest.raises(ModelError, match="no model folder"):
        promote("tram", str(tmp_path / "nothing"))
    bare = tmp_path / "bare"
    shutil.copytree(models[0], bare)
    for file in bare.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="no tokenizer"):
        promote("tram", str(bare))
    cut = tmp_path / "cut"
    shutil.copytree(models[0], cut)
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors is broken"):
        promote("tram", str(cut))
    assert registered_names() == [] and kept_versions("tram") == []


def test_a_model_that_cannot_be_read_is_not_the_registrys_fault(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(shutil.copytree(models[0], tmp_path / "source"))
    (source / "README.md").symlink_to("/proc/self/mem")  # a file that opens, and whose first byte cannot be read
    with pytest.raises(ModelError, match=r"model file .*README\.md cannot be read \(Input/output error\)"):
        promote("tram", str(source))
    found = resolve(str(source))
    monkeypatch.setattr("secbatch.promotion.resolve", lambda name: found)
    shutil.rmtree(source)
    with pytest.raises(ModelError, match=r"model file .*source cannot be read \(No such file or directory\)"):
        promote("tram", str(source))
    assert registered("tram") is None and not kept_versions("tram")


def test_a_registry_that_cannot_be_written_is_told_with_what_mends_it(
    models: list[Path], registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, most))
    try:
        with pytest.raises(OutputError, match=r"A file of the registry '.*' would become larger .* \(ulimit -f"):
            promote("tram", str(models[0]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
    for number, mend in (
        (errno.EACCES, r"Permission denied\); mend its rights, or name another folder in SECBATCH_MODELS"),
        (errno.EIO, r"Input/output error\); name another folder in SECBATCH_MODELS"),
        (errno.EMFILE, r"Too many open files\); let the process have more open files \(ulimit -n"),
    ):
        refusal = Mock(side_effect=OSError(number, os.strerror(number)))
        with monkeypatch.context() as patched, pytest.raises(ModelError, match=mend):
            patched.setattr("secbatch.promotion._copy", refusal)
            promote("tram", str(models[0]))
    assert registered("tram") is None and not kept_versions("tram")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_model_that_another_takes_the_place_of_meanwhile_is_not_promoted(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source = Path(shutil.copytree(models[0], tmp_path / "source"))

    def copied(file: Path, target: Path) -> dict[str, object]:
        if file.name == name:
            (source / "new").write_bytes(file.read_bytes() + b"\n")
            (source / "new").rename(file)
        return _copy(file, target)

    monkeypatch.setattr("secbatch.promotion._copy", copied)
    with pytest.raises(ModelError, match="was changed while it was being copied; promote it when it is finished"):
        promote("tram", str(source))
    assert registered("tram") is None and not kept_versions("tram")


def test_a_folder_of_the_same_name_does_not_shadow_it(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    promote("tram", str(models[0]))
    shutil.copytree(models[1], "tram")
    assert resolve("tram").weights_hash == weights_hash(models[0])
    assert resolve("./tram").weights_hash == weights_hash(models[1])


def test_removing_forgets_all(models: list[Path], registry: Path) -> None:
    promote("tram", str(models[0]))
    assert remove("tram") == 1
    assert registered("tram") is None and [path.name for path in registry.iterdir()] == [".lock"]
    with pytest.raises(ModelError, match="no promoted model tram"):
        remove("tram")


def test_links_of_a_hub_cache_are_copied_as_files(models: list[Path], tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for file in models[0].iterdir():
        if file.is_file():
            (snapshot / file.name).symlink_to(file)
    done = promote("tram", str(snapshot))
    assert not any(path.is_symlink() for path in done.folder.iterdir())
    assert resolve("tram").weights_hash == weights_hash(models[0])


def test_what_a_killed_promotion_left_is_swept(models: list[Path], registry: Path) -> None:
    version = promote("tram", str(models[0])).record.current
    left = registry / "tram" / "versions" / ".copy-123"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    (registry / "tram" / "name.json").unlink()  # killed before the name meant it
    assert promote("tram", str(models[0])).record.current == version
    assert not left.exists() and resolve("tram").promoted == version


def test_a_name_is_removed_with_what_a_killed_promotion_left(models: list[Path], registry: Path) -> None:
    for name in ("tram", "topics"):
        promote(name, str(models[0]))
    for name in ("tram", "topics"):
        (registry / name / "versions" / ".copy-123").mkdir()
    assert remove("tram") == 1
    assert [path.name for path in registry.iterdir() if path.is_dir()] == ["topics"]
    assert not list(registry.glob("**/.copy-*"))


def test_what_was_killed_under_another_name_is_swept_too(
    models: list[Path], registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tram", "topics"):
        promote(name, str(models[0]))
    left = registry / "topics" / "versions" / ".copy-123"
    left.mkdir()

    def dies(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("secbatch.promotion.shutil.rmtree", dies)
        remove("tram")
    assert registered("tram") is None and list(registry.glob(".removed-*"))
    promote("words", str(models[1]))
    assert not left.exists() and not list(registry.glob(".removed-*"))


def test_promotions_at_once_come_one_after_another(models: list[Path]) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda folder: promote("tram", str(folder)), models))
    record = registered("tram")
    assert record is not None and len(record.history) == 3 and len(record.earlier) == 2
    assert resolve("tram").promoted == record.current == record.history[-1].version


def test_a_broken_record_is_one_sentence(
    models: list[Path], registry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    promote("tram", str(models[0]))
    promote("other", str(models[1]))
    record = registry / "tram" / "name.json"
    promoted = json.loads(record.read_text())
    record.write_text(json.dumps(promoted | {"history": []}))
    assert _run(["models", "list"]) == 0
    assert "name.json is not the record of a promoted model tram" in capsys.readouterr().out
    record.write_text("{}")
    with pytest.raises(ModelError, match="no record of a promoted model"):
        resolve("tram")
    for current in (7, "../../up", None):
        record.write_text(json.dumps({"schema": 1, "name": "tram", "current": current, "earlier": [], "history": []}))
        with pytest.raises(ModelError, match="is not the record of a promoted model tram"):
            resolve("tram")
    for schema in (99, "1", None, [1]):
        record.write_text(json.dumps({"schema": schema}))
        with pytest.raises(ModelError, match="another release"):
            resolve("tram")
    assert _run(["models", "list"]) == 0
    listed = capsys.readouterr().out
    assert "other · version" in listed and "another release" in listed
    record.write_text("{")
    with pytest.raises(ModelError, match="it is no JSON"):
        resolve("tram")


def test_where_the_registry_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECBATCH_MODELS", "/srv/models")
    assert registry_folder() == Path("/srv/models")
    monkeypatch.delenv("SECBATCH_MODELS")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert registry_folder() == Path("/data/secbatch/models")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/analyst")
    assert registry_folder() == Path("/home/analyst/.local/share/secbatch/models")


def test_the_commands(models: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["models", "promote", f"tram={models[0]}", "--note", "first \x1b[31mred"]) == 0
    first = registered("tram").current[:12]  # type: ignore[union-attr]
    assert _run(["models", "promote", f"tram={models[1]}"]) == 0
    second = registered("tram").current[:12]  # type: ignore[union-attr]
    assert f"tram is version {second} now; it was {first}." in capsys.readouterr().out
    assert _run(["models", "list"]) == 0
    listed = capsys.readouterr().out
    assert f"tram · version {second} · promoted " in listed and "earlier versions: 1" in listed
    assert "securebert" in listed
    assert _run(["models", "promote", "tram", "--rollback"]) == 0
    assert f"tram is version {first} now; it was {second}." in capsys.readouterr().out
    assert _run(["models", "history", "tram"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[1] == "    first \\x1b[31mred" and lines[3].endswith("<- current")
    assert _run(["models", "remove", "tram", "--yes"]) == 0
    assert _run(["models", "promote", "tram"]) == 2
    assert _run(["models", "promote", "tram=x", "--rollback"]) == 2
    assert _run(["models", "promote", "tram=x", "--to", "abc"]) == 2
    assert _run(["models", "promote", "tram", "--rollback"]) == 2
    assert "There is no promoted model tram." in capsys.readouterr().err
