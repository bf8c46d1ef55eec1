"""What is lost or old besides rows: ledgers gone, damaged, of the first release; an output that turns read-only."""

import json
import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_task import Counter, UpperTask, install_in, interrupted_after
from nights import LINES, WITH_ID, done, job, rows, write

from secbatch.errors import EXIT_FAILURE, InputChangedError, InputError, Interrupted, OutputError, UnfitOutputError
from secbatch.planning import plan_job
from secbatch.recorded_job import recorded_job
from secbatch.runner import run_job
from secbatch.status import read_status
from secbatch.store.layout import Layout
from secbatch.store.ledger import Ledger
from secbatch.store.rollback import list_versions

LEDGER = Path("out/_secbatch/ledger.sqlite")
PARTITIONED = {"path": "out", "partition_by": ["note"]}


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter:
    return install_in(tmp_path, monkeypatch, (7, 10))


# As the first release made it.
SCHEMA_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE runs (
    run TEXT PRIMARY KEY, job TEXT NOT NULL, state TEXT NOT NULL, started TEXT NOT NULL, finished TEXT
);
-- A part is one or several immutable files (one for each partition value) that hold one shard's rows.
CREATE TABLE parts (
    part TEXT PRIMARY KEY,       -- name: content key and fingerprints, so a redo gives the same name
    content TEXT NOT NULL,       -- content key of the shard: hash of its rows and their identities
    tasks TEXT NOT NULL,         -- JSON: task name -> fingerprint
    files TEXT NOT NULL,         -- JSON: paths under parts/
    sources TEXT NOT NULL,       -- JSON: the input files the rows come from
    rows INTEGER NOT NULL,
    rejected INTEGER NOT NULL,
    run TEXT NOT NULL
);
CREATE INDEX parts_content ON parts (content);
CREATE TABLE version_parts (version INTEGER NOT NULL, position INTEGER NOT NULL, part TEXT NOT NULL,
    PRIMARY KEY (version, position));
CREATE TABLE versions (version INTEGER PRIMARY KEY, run TEXT NOT NULL, published TEXT NOT NULL, rows INTEGER NOT NULL);
PRAGMA user_version = 1;
"""


def to_schema_1() -> None:
    """Makes the output what the first release would have written: no row keys, and its ledger.

    A part had the rows of a shard, in a file for each partition: here there is one of a single shard.
    """
    shutil.rmtree("out/_secbatch/keys")
    old = LEDGER.with_name("old.sqlite")
    with closing(sqlite3.connect(LEDGER)) as new, closing(sqlite3.connect(old)) as ledger, ledger:
        ledger.execute("PRAGMA journal_mode = WAL")
        ledger.executescript(SCHEMA_1)
        for table in ("meta", "runs", "versions"):
            for row in new.execute(f"SELECT * FROM {table}"):
                ledger.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
        ledger.execute("INSERT INTO meta VALUES ('shard_rows', '{}')")
        parts = new.execute("SELECT tasks, files, rows, rejected, run FROM parts").fetchall()
        files = json.dumps([file for _, names, *_ in parts for file in json.loads(names)])
        tasks = json.dumps({name: known[0] for name, known in json.loads(parts[0][0]).items()})
        sums = [sum(row[place] for row in parts) for place in (2, 3)]
        values = ("the shard", "its content", tasks, files, '["in/a.csv"]', *sums, parts[0][4])
        ledger.execute("INSERT INTO parts VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
        ledger.execute("INSERT INTO version_parts VALUES (1, 0, 'the shard')")
    for ending in ("-wal", "-shm"):
        LEDGER.with_name(LEDGER.name + ending).unlink(missing_ok=True)
    old.rename(LEDGER)


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


@pytest.mark.parametrize("damage", ["gone", "empty", "no database", "overwritten"])
def test_a_lost_ledger_is_made_anew_from_the_parts(
    counter: Counter, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr("secbatch.runner.shard_rows_schedule", lambda *_: (40,))  # what is superseded is in another one
    write("a.csv", "id,text,note", *LINES)
    write("b.csv", "id,text,note", "0,newer,")
    done(counter, input=WITH_ID)
    write("c.csv", "id,text,note", "x,new,")
    done(counter, input=WITH_ID)
    if damage == "gone":
        LEDGER.unlink()
    elif damage == "empty":
        LEDGER.write_bytes(b"")
    elif damage == "no database":
        LEDGER.write_bytes(b"not a database" * 100)
    else:
        content = bytearray(LEDGER.read_bytes())
        content[4096 : 4096 * 3] = bytes(4096 * 2)
        LEDGER.write_bytes(content)
    before = counter.rows
    result = run_job(job(input=WITH_ID))
    assert counter.rows == before and len(rows()) == 101
    assert not result.published  # what is known of superseded rows is part of a version
    assert any("a new one was made from the parts" in text for text in result.notices)
    with pytest.raises(UnfitOutputError, match="that cannot change"):
        run_job(job())
    assert not any("new one" in text for text in run_job(job(input=WITH_ID)).notices)


def test_what_a_stopped_run_has_done_outlasts_the_ledger(counter: Counter) -> None:
    write("a.csv", "id,text,note", *LINES[:10])
    run_job(job(input=WITH_ID))
    write("a.csv", "id,text,note", *LINES)
    with interrupted_after(37):
        run_job(job(input=WITH_ID))
    reached = counter.rows
    LEDGER.unlink()
    assert done(counter, input=WITH_ID) == 100 - reached and len(rows()) == 100


def test_a_night_that_was_stopped_goes_on_as_that_night(counter: Counter) -> None:
    write("a.csv", "id,text,note", *LINES[:30])
    first = run_job(job(input=WITH_ID))
    write("b.csv", "id,text,note", *LINES[30:])
    with interrupted_after(30 + 20):
        run_job(job(input=WITH_ID))
    with closing(Ledger.read_only(LEDGER)) as ledger:
        stopped = ledger.newest_run()
    assert stopped is not None and stopped.run != first.run
    result = run_job(job(input=WITH_ID))
    assert result.run == stopped.run and result.reused >= 20
    assert rows().set_index("secbatch_id")["secbatch_run"].value_counts().to_dict() == {first.run: 30, result.run: 70}


def test_a_ledger_made_anew_knows_what_the_dataset_was_made_with(counter: Counter) -> None:
    write("a.csv", "id,text,note", *LINES)
    run_job(job(input=WITH_ID))
    Path("out/_secbatch/ledger.sqlite").unlink()
    with pytest.raises(UnfitOutputError, match=r"was made with id = \[\"id\"\], the job says \[\"note\"\]"):
        run_job(job(input={**WITH_ID, "id": ["note"]}))
    assert sorted(rows()["id"], key=int) == [str(n) for n in range(100)]


@pytest.mark.parametrize("path", ["out", "{run_date}/out"])
def test_whoever_looks_at_a_ledger_that_is_damaged_inside_is_told_so(
    counter: Counter, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first page is whole, which is all that is looked at when it is opened."""
    write("a.csv", "id,text,note", *LINES)
    asked = job(input=WITH_ID, output={"path": path})
    root = Path(run_job(asked).output)
    ledger = root / "_secbatch/ledger.sqlite"
    content = bytearray(ledger.read_bytes())
    for page in range(4096, len(content), 4096):
        content[page : page + 64] = b"\xff" * 64
    ledger.write_bytes(content)
    for look in (list_versions, read_status, recorded_job):
        with pytest.raises(OutputError, match="the next run makes a new one from the parts"):
            look(Layout(root))
    if root != Path("out"):  # of another day, whose end nobody can tell
        monkeypatch.setattr(
            "secbatch.run_date.with_run_date", lambda text, run: text.replace("{run_date}", "9999-01-01")
        )
    result = run_job(asked)
    assert result.output.endswith("out") and (result.output == str(root)) == (root == Path("out"))


def test_an_output_made_read_only_is_a_sentence(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    import secbatch.store.filesystem as filesystem

    write("a.csv", "id,text,note", *LINES)
    sync = filesystem._sync

    def refused(path: Path) -> None:
        if "parts" in str(path):
            raise OSError(30, "Read-only file system")
        sync(path)

    with monkeypatch.context() as patch:
        patch.setattr(filesystem, "_sync", refused)
        with pytest.raises(OutputError, match="is not writable"):
            run_job(job(input=WITH_ID))
    before = counter.rows
    run_job(job(input=WITH_ID))
    assert len(rows()) == 100 and before + counter.rows >= 100


def test_a_disk_that_turns_read_only_amid_a_run(
    counter: Counter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A real one, as a kernel makes it after an error of the device."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this machine does not let tests mount a disk")
    # A second view of the disk, laid over the first one later. To make the first one read-only would fail whenever a
    # thread of the run has a file open for writing there.
    read_only = tmp_path / "read-only"
    read_only.mkdir()
    try:
        subprocess.run(["mount", "--bind", disk, read_only], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", read_only], check=True)
        write("a.csv", "id,text,note", *LINES)
        compute = UpperTask.compute

        def refused_from_now_on(self: UpperTask, encoded: Any) -> Any:
            if counter.rows >= 50 and not os.statvfs(disk).f_flag & os.ST_RDONLY:
                subprocess.run(["mount", "--bind", read_only, disk], check=True)
            return compute(self, encoded)

        with monkeypatch.context() as patch:
            patch.setattr(UpperTask, "compute", refused_from_now_on)
            with pytest.raises(OutputError, match=r"is not writable|cannot be written"):
                run_job(job(input=WITH_ID, output={"path": str(disk / "out")}))
        while os.statvfs(disk).f_flag & os.ST_RDONLY:
            subprocess.run(["umount", "-l", disk], check=True)
        before = counter.rows
        run_job(job(input=WITH_ID, output={"path": str(disk / "out")}))
        assert counter.rows - before <= 60  # what was finished before is kept
        assert len(pd.read_parquet(disk / "out" / "data")) == 100
    finally:
        for place in (disk, read_only):
            while place.is_mount():
                subprocess.run(["umount", "-l", place], check=True)


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
    before = counter.rows
    with pytest.raises(OutputError, match=r"More than 129 rows .* nothing was computed"):  # part by part, or of a part
        run_job(job(input=WITH_ID, tasks=changed, max_recompute=129))
    assert counter.rows == before
    assert done(counter, input=WITH_ID, tasks=changed, max_recompute=130) == 130


def test_rows_of_the_model_before_are_counted_beside_those_of_the_new_one(counter: Counter) -> None:
    changed = {"up": {"type": "fill-mask", "model": "fake", "text": "text", "top_k": 3}}
    write("a.csv", "id,text,note", *LINES[:20])
    done(counter, input=WITH_ID)
    write("a.csv", "id,text,note", *LINES[20:40])  # the others stay, in one part with these
    assert done(counter, input=WITH_ID, tasks=changed) == 20
    write("a.csv", "id,text,note", *LINES[:40])
    with pytest.raises(OutputError, match=r"More than 19 rows .* nothing was computed"):
        run_job(job(input=WITH_ID, tasks=changed, max_recompute=19))
    assert done(counter, input=WITH_ID, tasks=changed, max_recompute=20) == 20


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
    write("a.csv", "id,text,note", *LINES)
    write("b.csv", "id,text,note", "x,new,")
    os.utime("in/a.csv", (1, 1))
    spec = {**WITH_ID, "settle": 60}
    drop = {"path": "out", "removed": "drop", "max_removed": "100%"}
    result = run_job(job(input=spec, output=drop))
    (waits,) = [text for text in result.notices if "in/b.csv changed within the last 60 seconds" in text]
    assert "clock" not in waits
    assert len(rows()) == 100
    os.utime("in/b.csv", (4e9, 4e9))
    (waits,) = [text for text in run_job(job(input=spec, output=drop)).notices if "in/b.csv changed" in text]
    assert "(input.settle; by its own time, which is ahead of this machine's clock) and is left" in waits
    os.utime("in/b.csv", (1, 1))
    os.utime("in/a.csv")
    run_job(job(input=spec, output=drop))
    assert len(rows()) == 101  # a file that waits is not gone
    os.utime("in/b.csv")
    os.utime("in/a.csv")
    with pytest.raises(InputChangedError, match="run again later") as nothing:
        run_job(job(input=spec, output=drop))
    assert nothing.value.exit_code == EXIT_FAILURE  # schedulers try again after some minutes


@pytest.mark.parametrize("path", ["in", "in/*.csv", "i?"])
def test_a_link_to_a_mount_that_is_away_is_no_removal(counter: Counter, path: str) -> None:
    given = {"input": {**WITH_ID, "path": path}, "output": {"path": "out", "removed": "drop"}}
    write("a.csv", "id,text,note", *LINES)
    Path("mount").mkdir()
    Path("mount/b.csv").write_text("id,text,note\nx,elsewhere,\n")
    Path("in/b.csv").symlink_to(Path("mount/b.csv").resolve())
    done(counter, **given)
    Path("mount").rename("away")
    result = run_job(job(**given))
    assert any("in/b.csv is a symbolic link to what is not there" in text for text in result.notices)
    assert len(rows()) == 101
    Path("in/b.csv").unlink()
    run_job(job(**given))
    assert len(rows()) == 100


@pytest.mark.parametrize("partition_by", [[], ["note"]])
def test_files_of_the_dataset_that_are_gone_are_made_again(counter: Counter, partition_by: list[str]) -> None:
    def data() -> list[Path]:
        return sorted(Path("out/data").rglob("*.parquet"))

    def dataset() -> dict[str, str]:
        return rows().set_index("secbatch_id")["up"].to_dict()

    parts = Path("out/_secbatch/parts")
    given: dict[str, Any] = {"input": WITH_ID, "output": {"path": "out", "partition_by": partition_by}}
    write("a.csv", "id,text,note", *(f"{n},word {n},n{n % 3}" for n in range(100)))
    done(counter, **given)
    write("b.csv", "id,text,note", *(f"x{n},more {n},n1" for n in range(30)))
    done(counter, **given)
    before, shown = dataset(), data()
    assert len(before) == 130 and len(shown) == (3 if partition_by else 1)
    shown[0].unlink()  # one of a file's two names is enough, whichever it is
    for part in [part for part in parts.rglob("*.parquet") if part.name not in shown[0].name]:
        part.unlink()
    assert done(counter, **given) == 0 and data() == shown and dataset() == before
    lost = data()[0]
    count = len(pd.read_parquet(lost))
    lost.unlink()
    (parts / lost.relative_to("out/data")).with_name(lost.name.partition("-")[2]).unlink()
    result = run_job(job(**given))
    assert any("1 file of the dataset in 'out' is gone" in text for text in result.notices)
    assert result.enriched <= count  # an earlier version that is kept has the rest
    assert dataset() == before and result.rows_in_dataset == 130
    assert done(counter, **given) == 0


@pytest.mark.parametrize("target", [None, "_secbatch/versions/000001", "_secbatch/versions/000099"])
def test_a_link_that_was_lost_or_turned_shows_the_dataset_again(counter: Counter, target: str | None) -> None:
    write("a.csv", "id,text,note", *LINES)
    done(counter, input=WITH_ID)
    write("b.csv", "id,text,note", "x,more,n1")
    done(counter, input=WITH_ID)
    Path("out/data").unlink()
    if target:
        Path("out/data").symlink_to(target)
    result = run_job(job(input=WITH_ID))
    assert (result.enriched, result.published, result.rows_in_dataset) == (0, True, 101)
    assert len(rows()) == 101 and Path("out/data").readlink().name == f"{result.version:06d}"
    assert not run_job(job(input=WITH_ID)).published


def test_a_ledger_is_made_anew_whole_or_not_at_all(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.csv", "id,text,note", *LINES)
    done(counter, input=WITH_ID)
    write("b.csv", "id,text,note", "x,new,")
    done(counter, input=WITH_ID)
    Path("in/b.csv").unlink()  # its row is kept: from now on the dataset alone has it
    with closing(sqlite3.connect(LEDGER)) as ledger:
        ledger.execute("CREATE TABLE stray (x)")
        log = LEDGER.with_name("ledger.sqlite-wal")
        stray = log.read_bytes()
    LEDGER.unlink()
    log.write_bytes(stray)
    add_version, added = Ledger.add_version, 0

    def killed(self: Ledger, publication: Any) -> None:
        nonlocal added
        added += 1
        if added > 1:
            raise KeyboardInterrupt
        add_version(self, publication)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "add_version", killed)
        with pytest.raises(KeyboardInterrupt):
            run_job(job(input=WITH_ID))
    result = run_job(job(input=WITH_ID))
    assert (result.enriched, result.rows_in_dataset, len(rows())) == (0, 101, 101)
    with closing(sqlite3.connect(LEDGER)) as ledger:
        assert not ledger.execute("SELECT * FROM sqlite_master WHERE name = 'stray'").fetchall()


DAMAGES = {
    "empty": lambda _: b"",
    "cut": lambda content: content[: len(content) * 2 // 3],
    "cut in its head": lambda content: content[:100],
    "overwritten": lambda content: content[:20] + b"\0" * 64 + content[84:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_row_keys_are_worked_out_again(counter: Counter, damage: str) -> None:
    write("a.csv", "id,text,note", "0,older,", *LINES)
    done(counter, input=WITH_ID)
    for path in Path("out/_secbatch/keys").rglob("*.keys"):
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    write("b.csv", "id,text,note", "1,changed,", "x,new,")
    assert done(counter, input=WITH_ID) == 2
    after = rows().set_index("id")["text"]
    assert len(after) == 101 and after["1"] == "changed" and after["0"] == "word 0"
    LEDGER.unlink()
    for path in Path("out/_secbatch/keys").rglob("*.keys"):
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert done(counter, input=WITH_ID) == 0 and len(rows()) == 101


def test_row_keys_that_are_lost_make_no_results_of_another_model(counter: Counter) -> None:
    write("a.csv", "id,text,note", *LINES)
    done(counter, input=WITH_ID)
    for path in Path("out/_secbatch/keys").rglob("*.keys"):
        path.unlink()
    changed = {"up": {"type": "fill-mask", "model": "fake", "text": "text", "top_k": 3}}
    assert done(counter, input=WITH_ID, tasks=changed) == 100


@pytest.mark.parametrize("damage", ["empty", "cut"])
@pytest.mark.parametrize("ending", ["keys", "parquet"])
@pytest.mark.parametrize("same_job", [True, False])
def test_damaged_checkpoints_are_done_again(
    counter: Counter, monkeypatch: pytest.MonkeyPatch, damage: str, ending: str, same_job: bool
) -> None:
    write("a.csv", "id,text,note", *LINES)
    compute = UpperTask.compute

    def stopping(self: UpperTask, encoded: Any) -> Any:
        if counter.rows >= 50:
            raise Interrupted("stopped")
        return compute(self, encoded)

    with monkeypatch.context() as patch:
        patch.setattr(UpperTask, "compute", stopping)
        with pytest.raises(Interrupted):
            run_job(job(input=WITH_ID))
    left = sorted(Path("out/_secbatch/checkpoints").glob(f"*.{ending}"))
    assert left
    left[-1].write_bytes(DAMAGES[damage](left[-1].read_bytes()))
    result = run_job(job(input=WITH_ID, **({} if same_job else {"max_rejects": "2%"})))
    assert (result.rows_in_dataset, len(rows())) == (100, 100) and 0 < result.reused < 100
    assert rows()["up"].notna().all()


@pytest.mark.parametrize("changed", ["text", "secbatch_source", "secbatch_row"])
def test_a_run_that_goes_on_has_the_rows_as_they_stand_now(counter: Counter, changed: str) -> None:
    write("a.csv", "id,text,note", *LINES[:30])
    with interrupted_after(17):
        run_job(job(input=WITH_ID))
    texts, source, first = [f"word {n}" for n in range(30)], "in/a.csv", 1
    if changed == "text":
        texts[3] = "another word"
    elif changed == "secbatch_source":
        source = "in/b.csv"
        Path("in/a.csv").rename(source)
    else:
        first = 2  # a line that cannot be read stands above them
    bad = ["one,too,many,fields"] * (first - 1)
    write(Path(source).name, "id,text,note", *bad, *(f"{n},{text},note {n}" for n, text in enumerate(texts)))
    run_job(job(input=WITH_ID))
    found = rows()
    assert found["text"].tolist() == texts and found["up"].tolist() == [text.upper() for text in texts]
    assert found["secbatch_source"].unique().tolist() == [source]
    assert found["secbatch_row"].tolist() == list(range(first, 30 + first))


@pytest.mark.parametrize("given", [WITH_ID, {"path": "in/*.csv"}], ids=["with id", "without"])
def test_what_a_stopped_night_has_done_serves_where_its_rows_come_earlier(counter: Counter, given: Any) -> None:
    """A file before them is gone when it goes on: they stand in shards for which there was nothing to do."""
    write("a.csv", "id,text,note", *LINES[:30])
    write("b.csv", "id,text,note", *LINES[30:60])
    run_job(job(input=given))
    write("c.csv", "id,text,note", *LINES[60:])
    with interrupted_after(60 + 20):
        run_job(job(input=given))
    did = counter.rows - 60
    Path("in/a.csv").unlink()
    assert did and done(counter, input=given) == 40 - did
    assert sorted(rows()["text"]) == sorted(f"word {n}" for n in range(100))
