"""What is lost or old besides rows: ledgers gone, damaged, of the first release; an output that turns read-only."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from fake_task import Counter, install
from nights import LINES, WITH_ID, done, job, rows, write

from secbatch.errors import InputError, OutputError
from secbatch.planning import plan_job
from secbatch.runner import run_job

LEDGER = Path("out/_secbatch/ledger.sqlite")
PARTITIONED = {"path": "out", "partition_by": ["note"]}


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("secbatch.runner.shard_rows_schedule", lambda job, cuda: (7, 10))
    return install(monkeypatch)


def to_schema_1() -> None:
    """Makes the output what the first release would have written: no row keys, parts in the old tables."""
    shutil.rmtree("out/_secbatch/keys")
    with sqlite3.connect(LEDGER) as ledger:
        parts = ledger.execute("SELECT part, tasks, files, rows, rejected, run FROM parts").fetchall()
        ledger.execute("DROP TABLE parts")
        ledger.execute(
            "CREATE TABLE parts (part TEXT PRIMARY KEY, content TEXT NOT NULL, tasks TEXT NOT NULL,"
            " files TEXT NOT NULL, sources TEXT NOT NULL, rows INTEGER NOT NULL, rejected INTEGER NOT NULL,"
            " run TEXT NOT NULL)"
        )
        for part, tasks, *rest in parts:
            plain = json.dumps({name: known[0] for name, known in json.loads(tasks).items()})
            values = (part, f"content of {part}", plain, rest[0], "[]", *rest[1:])
            ledger.execute("INSERT INTO parts VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
        for table in ("checkpoints", "shard_rows"):
            ledger.execute(f"DROP TABLE {table}")
        ledger.execute("PRAGMA user_version = 1")


@pytest.mark.parametrize("names", [["id"], []])
@pytest.mark.parametrize("partition_by", [[], ["note"]])
def test_an_output_of_the_first_release_goes_on(counter: Counter, names: list[str], partition_by: list[str]) -> None:
    lines = [f"{n},word {n},part {n % 3}" for n in range(60)]
    spec = {"path": "in/*.csv", "id": names}
    output = {"path": "out", "partition_by": partition_by}
    write("a.csv", "id,text,note", *lines)
    done(counter, input=spec, output=output)
    before = rows().astype(str).set_index("secbatch_id").sort_index()
    to_schema_1()
    assert plan_job(job(input=spec, output=output)).reused_rows == 60
    assert done(counter, input=spec, output=output) == 0
    write("a.csv", "id,text,note", *lines, "new,new word,part 1")
    assert done(counter, input=spec, output=output) == 1
    after = rows().astype(str).set_index("secbatch_id")
    assert len(after) == 61 and after.loc[before.index, before.columns].equals(before)


@pytest.mark.parametrize("damage", ["gone", "no database", "overwritten"])
def test_a_lost_ledger_is_made_anew_from_the_parts(counter: Counter, damage: str) -> None:
    write("a.csv", "id,text,note", *LINES)
    write("b.csv", "id,text,note", "0,newer,")
    done(counter, input=WITH_ID)
    write("c.csv", "id,text,note", "x,new,")
    done(counter, input=WITH_ID)
    if damage == "gone":
        LEDGER.unlink()
    elif damage == "no database":
        LEDGER.write_bytes(b"not a database" * 100)
    else:
        content = bytearray(LEDGER.read_bytes())
        content[4096 : 4096 * 3] = bytes(4096 * 2)
        LEDGER.write_bytes(content)
    before = counter.rows
    result = run_job(job(input=WITH_ID))
    assert counter.rows == before and len(rows()) == 101
    assert any("a new one was made from the parts" in text for text in result.notices)
    with pytest.raises(OutputError, match="that cannot change"):
        run_job(job())
    assert not any("new one" in text for text in run_job(job(input=WITH_ID)).notices)


def test_an_output_made_read_only_is_a_sentence(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    import secbatch.store.filesystem as filesystem

    write("a.csv", "id,text,note", *LINES)
    sync = filesystem.sync_file

    def refused(path: Path) -> None:
        if "parts" in str(path):
            raise OSError(30, "Read-only file system")
        sync(path)

    with monkeypatch.context() as patch:
        patch.setattr(filesystem, "sync_file", refused)
        with pytest.raises(OutputError, match="is not writable"):
            run_job(job(input=WITH_ID))
    before = counter.rows
    run_job(job(input=WITH_ID))
    assert len(rows()) == 100 and before + counter.rows >= 100


def test_a_changed_model_stops_where_the_job_says_so(counter: Counter) -> None:
    up = {"type": "fill-mask", "model": "fake", "text": "text"}
    write("a.csv", "id,text,note", *LINES)
    done(counter, input=WITH_ID, max_recompute=10)
    write("b.csv", "id,text,note", *(f"b{n},more {n}," for n in range(30)))
    assert done(counter, input=WITH_ID, max_recompute=10) == 30
    changed = {"up": {**up, "top_k": 3}}
    before = counter.rows
    with pytest.raises(OutputError, match=r"More than 10 rows .* nothing was computed"):
        run_job(job(input=WITH_ID, tasks=changed, max_recompute=10))
    assert counter.rows == before
    write("c.csv", "id,text,note", "c,only this,")
    assert done(counter, input={**WITH_ID, "path": "in/c.csv"}, tasks=changed, max_recompute=0) == 1
    assert done(counter, input=WITH_ID, tasks=changed, max_recompute=130) == 130


def test_columns_that_come_go_or_change(counter: Counter) -> None:
    write("a.csv", "id,text,note", *LINES)
    run_job(job(input=WITH_ID))
    write("a.csv", "id,text,note,extra", *(f"{line},e" for line in LINES))
    before = counter.rows
    result = run_job(job(input=WITH_ID))
    assert counter.rows == before and any("'extra' is new" in text for text in result.notices)
    assert set(rows()["extra"]) == {"e"}
    write("a.csv", "id,text,note", *LINES)
    with pytest.raises(InputError, match="Column 'extra' of the dataset"):
        run_job(job(input=WITH_ID))
    run_job(job(input=WITH_ID, output__missing_columns="drop"))
    assert "extra" not in rows() and counter.rows == before
    with pytest.raises(InputError, match="Column 'id' is int64 in the input and string in the dataset"):
        run_job(job(input={**WITH_ID, "types": {"id": "int64"}}))


def test_files_that_are_still_being_written_wait(counter: Counter) -> None:
    import os

    write("a.csv", "id,text,note", *LINES)
    write("b.csv", "id,text,note", "x,new,")
    os.utime("in/a.csv", (1, 1))
    spec = {**WITH_ID, "settle": 60}
    drop = {"path": "out", "removed": "drop", "max_removed": "100%"}
    result = run_job(job(input=spec, output=drop))
    assert any("in/b.csv changed within the last 60 seconds" in text for text in result.notices)
    assert len(rows()) == 100
    os.utime("in/b.csv", (1, 1))
    os.utime("in/a.csv")
    run_job(job(input=spec, output=drop))
    assert len(rows()) == 101  # a file that waits is not gone
    os.utime("in/b.csv")
    with pytest.raises(InputError, match="run again later"):
        run_job(job(input=spec, output=drop))
