"""Inputs and jobs that are small to make and large to take: refused or rejected with a sentence, in bounded memory."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from secbatch.errors import InputError, JobError
from secbatch.job import Input
from secbatch.jobfile import load_job
from secbatch.sources.open import open_source

GIGABYTE = 1 << 30
READ = """
import json, resource, sys
from secbatch.errors import SecbatchError
from secbatch.job import Input
from secbatch.sources.open import open_source
rows = rejects = 0
why = []
try:
    for shard in open_source(Input(path=sys.argv[1]), lambda index: 1000).shards():
        rows += shard.num_rows
        rejects += len(shard.rejects)
        why += [reject.reason for reject in shard.rejects]
except SecbatchError as error:
    why.append(str(error))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
print(json.dumps({"rows": rows, "rejects": rejects, "why": why[:3], "megabytes": peak}))
"""


def read(path: Path) -> dict:
    """What a process of its own makes of a file, and the most memory it took."""
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def sparse(path: Path, start: bytes, end: bytes = b"", size: int = GIGABYTE) -> Path:
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)
        file.seek(size)
        file.write(end)
    return path


@pytest.mark.soak
@pytest.mark.parametrize(
    ("name", "start", "rows", "words"),
    [
        ("line.csv", b"a,b\n1,2\n", 2, "longer than 256 MiB"),
        ("quote.csv", b'a,b\n1,2\n"', 2, "longer than 256 MiB"),
        ("line.jsonl", b'{"a": 1}\n{"a": "', 2, "longer than 256 MiB"),
        ("header.csv", b"a", 0, "UTF-16"),
    ],
)
def test_a_gigabyte_without_a_line_end(name: str, start: bytes, rows: int, words: str, tmp_path: Path) -> None:
    end = b'\n{"a": 2}\n' if name.endswith("jsonl") else b"\n3,4\n"
    found = read(sparse(tmp_path / name, start, end))
    assert (found["rows"], found["rejects"]) == (rows, int(rows > 0)) and words in found["why"][0]
    assert found["megabytes"] < 1200


@pytest.mark.soak
def test_an_archive_a_thousand_times_its_size(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "in.csv.gz", "wb", 9) as file:
        file.write(b"a,b\n")
        for _ in range(1024):
            file.write(b"1,2\n" * (1 << 18))
    assert (tmp_path / "in.csv.gz").stat().st_size * 250 < GIGABYTE
    found = read(tmp_path / "in.csv.gz")
    assert (found["rows"], found["rejects"]) == (1 << 28, 0)
    assert found["megabytes"] < 800


@pytest.mark.soak
def test_a_hundred_thousand_columns(tmp_path: Path) -> None:
    width = 100_000
    names = [f"c{number}" for number in range(width)]
    values = ",".join(map(str, range(width)))
    (tmp_path / "in.csv").write_text("\n".join([",".join(names), *[values] * 5]))
    found = read(tmp_path / "in.csv")
    assert (found["rows"], found["rejects"]) == (5, 0) and found["megabytes"] < 1500
    pq.write_table(pa.table({name: [1, 2] for name in names}), tmp_path / "in.parquet")
    found = read(tmp_path / "in.parquet")
    assert (found["rows"], found["rejects"]) == (2, 0) and found["megabytes"] < 3000


def test_thousands_of_columns_are_read_and_named_in_short(tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(5_000)]
    (tmp_path / "in.csv").write_text(",".join(names) + "\n" + ",".join(names) + "\n")
    shards = list(open_source(Input(path=str(tmp_path / "in.csv")), lambda index: 10).shards())
    assert shards[0].table.num_columns == 5_000 and shards[0].num_rows == 1
    with pytest.raises(InputError) as refused:
        open_source(Input(path=str(tmp_path / "in.csv"), sentences="d1"), lambda index: 10)
    assert "(5,000 in all)" in str(refused.value) and len(str(refused.value)) < 500


def test_keys_that_are_data_do_not_become_columns(tmp_path: Path) -> None:
    lines = [json.dumps({f"host-{line}-{key}": 1 for key in range(30)}) for line in range(500)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"in\.jsonl.* 15,000 different keys .* share too few"):
        open_source(Input(path=str(tmp_path / "in.jsonl")), lambda index: 10)
    wide = {f"c{key}": 1 for key in range(3_000)}  # wide, but alike
    (tmp_path / "in.jsonl").write_text("\n".join([json.dumps(wide)] * 3))
    assert open_source(Input(path=str(tmp_path / "in.jsonl")), lambda index: 10).schema.names == list(wide)


def test_deeply_nested_json_is_a_reject(tmp_path: Path) -> None:
    deep = b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}\n"
    deeper = b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"\n"
    (tmp_path / "in.jsonl").write_bytes(b'{"a": 1}\n' + deep + deeper + b'{"a": 2}\n')
    shards = list(open_source(Input(path=str(tmp_path / "in.jsonl")), lambda index: 10).shards())
    assert sum(shard.num_rows for shard in shards) == 2
    reasons = [reject.reason for shard in shards for reject in shard.rejects]
    assert len(reasons) == 2 and all("nested too deeply" in reason for reason in reasons)


def chained(first: str, rest: str) -> str:
    return first + "".join(rest.format(n=n, refers=", ".join([f"*l{n - 1}"] * 9)) for n in range(1, 10))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (chained("l0: &l0 [x]\n", "l{n}: &l{n} [{refers}]\n"), "more than 50,000 values"),
        (chained("l0: &l0 {x: 1}\n", "l{n}: &l{n}\n  <<: [{refers}]\n"), "more than 50,000 values"),
        ("name: " + "[" * 100_000, "nested"),
        ("name: " + "{a: " * 3_000, "nested|not valid"),
        ("# " + "x" * (300 << 10), "larger than 256 KiB"),
        ("name: " + "9" * 10_000, "holds a value that cannot be"),
        ("name: " + "9:" * 10_000 + "9", "very long number"),
        ("? " * 2_000, "nested|plain word|mapping"),
        (yaml.safe_dump({"name": "!" * 5_000, "input": {"path": "a"}, "tasks": {}, "output": {"path": "b"}}), "…"),
        (yaml.safe_dump({"k" * 5_000: 1}), "…"),
    ],
    ids=["laughs", "merges", "lists", "maps", "size", "digits", "sexagesimal", "keys", "value", "key"],
)
def test_job_files_that_are_bombs(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(JobError, match=words) as refused:
        load_job(str(tmp_path / "job.yaml"))
    assert len(str(refused.value)) < 1_000


def test_overrides_that_are_odd_are_text_or_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("name: x\ninput: {path: in}\ntasks: {}\noutput: {path: out}\n")
    for odd in ("name=2024-99-99", "name=" + "9" * 10_000, "name=" + "[" * 5_000):
        with pytest.raises(JobError) as refused:
            load_job(str(tmp_path / "job.yaml"), [odd])
        assert len(str(refused.value)) < 1_000
    with pytest.raises(JobError, match="no file can have"):
        load_job("job\x00.yaml")
