"""Names and links that lead out of the output: nothing outside is written, changed or cleared."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.dataset as ds
import pytest
from fake_task import Counter, install

from secbatch.cli.main import _run
from secbatch.errors import JobError, OutputError
from secbatch.job import Job
from secbatch.runner import run_job
from secbatch.store.layout import Layout
from secbatch.store.rollback import roll_back

EVIL = [
    *(
        "../../../etc",
        "/etc/passwd",
        "..",
        ".",
        "",
        "~",
        "~root",
        "a/b",
        "a\\b",
        "CON",
        "nul",
        "COM1",
        "a\x00b",
        "\x1b[31m",
    ),
    *(
        "a\nb",
        "a=b",
        "__HIVE_DEFAULT_PARTITION__",
        "_x",
        ".x",
        "%2e%2e",
        "a:b",
        "x" * 300,
        "é" * 200,
        " ",
        "a ",
        "\u202e",
    ),
    *(
        "=cmd|' /C calc'!A0",
        "$(touch x)",
        "`touch x`",
        "-rf",
        "*",
        "?",
        "007",
        "1e5",
        "2024-01-01",
        "-0",
        "null",
        "None",
    ),
]


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return install(monkeypatch)


def job(**output: Any) -> Job:
    values = {
        "name": "test",
        "input": {"path": "in.parquet"},
        "tasks": {"up": {"type": "fill-mask", "model": "fake", "text": "text"}},
        "output": {"path": "out", **output},
    }
    return Job.model_validate(values)


def test_partition_values_stay_in_their_folder_and_come_back_as_they_were(counter: Counter, tmp_path: Path) -> None:
    pd.DataFrame({"text": [f"t{n}" for n in range(len(EVIL))], "p": EVIL}).to_parquet("in.parquet")
    result = run_job(job(partition_by=["p"]))
    assert result.enriched == len(EVIL)
    assert {path.name for path in tmp_path.iterdir()} == {"work"}
    assert {path.name for path in Path().iterdir()} == {"in.parquet", "out"}
    inside = Path("out/_secbatch").resolve()
    assert all(path.resolve().is_relative_to(inside) for path in Path("out/data").resolve().rglob("*"))
    folders = [path.name for path in Path("out/data/").iterdir()]
    assert all(name.isprintable() and name.isascii() and not name.startswith((".", "-", "_")) for name in folders)
    text = ds.partitioning(ds.pa.schema([("p", ds.pa.string())]), flavor="hive")
    back = ds.dataset(Path("out/data").resolve(), partitioning=text).to_table().to_pylist()
    assert len(back) == len(EVIL)
    for row in back:
        value = EVIL[int(row["text"][1:])]
        if row["secbatch_status"] == "ok":
            assert row["p"] == value
        else:
            assert row["p"] is None and "cannot stand as a partition folder's name" in row["secbatch_error"]
    rejected = {EVIL[int(row["text"][1:])] for row in back if row["secbatch_status"] != "ok"}
    assert rejected == {"", "007", "__HIVE_DEFAULT_PARTITION__", "x" * 300, "é" * 200}


@pytest.mark.parametrize("name", ["a/b", "../x", ".x", "_x", "a=b", "a\x00b", "a\nb", "\x1b[31m", "x" * 300, "😀" * 58])
def test_partition_columns_with_such_names_are_refused(name: str, counter: Counter) -> None:
    pd.DataFrame({"text": ["a"], name: ["b"]}).to_parquet("in.parquet")
    with pytest.raises(JobError, match="rename it in the input"):
        run_job(job(partition_by=[name]))
    assert not Path("out").exists()


def test_a_value_stands_beside_the_name_of_its_column_as_far_as_both_fit(counter: Counter) -> None:
    name = "地域" * 14  # 84 bytes of the 255
    values = ["a" * 170, "a" * 171]
    pd.DataFrame({"text": ["t0", "t1"], name: values}).to_parquet("in.parquet")
    result = run_job(job(partition_by=[name]))
    assert result.rejected == 1
    folders = {path.name for path in Path("out/data/").iterdir()}
    assert folders == {f"{name}={values[0]}", f"{name}=__HIVE_DEFAULT_PARTITION__"}


@pytest.mark.parametrize(
    "place",
    [
        *("_secbatch", "_secbatch/parts", "_secbatch/versions", "_secbatch/runs", "_secbatch/rejects"),
        *("_secbatch/ledger.sqlite", "_secbatch/lock", "_secbatch/versions/000001", "_secbatch/versions/000009"),
        "_secbatch/parts/planted.parquet",
    ],
)
def test_links_out_of_the_output_are_refused(place: str, counter: Counter, tmp_path: Path) -> None:
    pd.DataFrame({"text": ["a", "b"]}).to_parquet("in.parquet")
    run_job(job())
    outside = tmp_path / "outside"
    there = Path("out") / place
    if there.exists():
        there.rename(outside)
    else:
        outside.mkdir()
        (outside / "precious").touch()
    there.symlink_to(outside)
    before = sorted((path, path.stat().st_mtime_ns) for path in [outside, *outside.rglob("*")])
    pd.DataFrame({"text": ["a", "b", "c"]}).to_parquet("in.parquet")
    with pytest.raises(OutputError, match="is a symbolic link"):
        run_job(job())
    with pytest.raises(OutputError, match="is a symbolic link"):
        roll_back(Layout(Path("out")))
    assert sorted((path, path.stat().st_mtime_ns) for path in [outside, *outside.rglob("*")]) == before
    there.unlink()


@pytest.mark.parametrize(
    "target", ["/etc", "..", "_secbatch/versions/../../..", "_secbatch/versions", "_secbatch/versions/x", "absent"]
)
def test_a_data_link_that_leads_elsewhere_is_not_ours(target: str, counter: Counter) -> None:
    pd.DataFrame({"text": ["a"]}).to_parquet("in.parquet")
    run_job(job())
    Path("out/data").unlink()
    Path("out/data").symlink_to(target)
    pd.DataFrame({"text": ["a", "b"]}).to_parquet("in.parquet")
    with pytest.raises(OutputError, match="was not made by secbatch"):
        run_job(job())
    assert str(Path("out/data").readlink()) == str(Path(target))


def test_an_output_that_is_a_link_itself_is_fine(counter: Counter, tmp_path: Path) -> None:
    (tmp_path / "large-disk").mkdir()
    Path("out").symlink_to(tmp_path / "large-disk")
    pd.DataFrame({"text": ["a"]}).to_parquet("in.parquet")
    assert run_job(job()).rows_in_dataset == 1
    assert pd.read_parquet("out/data")["up"].tolist() == ["A"]


@pytest.mark.parametrize("key", ["input.path", "output.path", "tasks.up.model"])
def test_a_nul_in_a_path_is_one_sentence(key: str, counter: Counter, capsys: pytest.CaptureFixture[str]) -> None:
    pd.DataFrame({"text": ["a"]}).to_parquet("in.parquet")
    Path("job.yaml").write_text(
        "name: j\ninput: {path: in.parquet}\noutput: {path: out}\n"
        "tasks: {up: {type: fill-mask, model: m, text: text}}\n"
    )
    code = _run(["run", "job.yaml", "--set", f'{key}="a\\0b"'])
    shown = capsys.readouterr().err
    assert code == 2
    assert "must not hold a NUL" in shown and "\x00" not in shown
