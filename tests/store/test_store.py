import datetime
import errno
import itertools
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from secbatch.errors import JobError, OutputError, OutputHeldError, UnfitOutputError
from secbatch.store import ledger_errors, spilled_groups
from secbatch.store import parts as part_files
from secbatch.store.durable_files import write_atomically
from secbatch.store.filesystem import check_output_place
from secbatch.store.layout import Layout
from secbatch.store.ledger import Ledger
from secbatch.store.ledger_records import Part
from secbatch.store.ledger_schema import SCHEMA_VERSION
from secbatch.store.lock import hold, holder
from secbatch.store.partitions import (
    NULL_PARTITION,
    check_partition_columns,
    misread_partitions,
    partition_folders,
    with_partitions,
)
from secbatch.store.parts import RowGroups, read_part, write_tables
from secbatch.store.spilled_groups import SpilledGroups
from secbatch.store.versions import link_name, part_name, prune, publish


def write_part(folder: Path, name: str, table: pa.Table, partition_by: tuple[str, ...]) -> tuple[str, ...]:
    """Writes `table` as one file, or one for each combination of partition values; their paths under `folder`."""
    places, codes = partition_folders(table, partition_by)
    rest = table.drop_columns(list(partition_by))
    files = []
    for code, place in enumerate(places):
        rows = rest.take(pa.array(np.flatnonzero(codes == code)))
        files.append(f"{place}/{name}.parquet" if place else f"{name}.parquet")
        write_tables(folder / files[-1], rest.schema, [rows], "part")
    return tuple(files)


def part(layout: Layout, name: str, values: list[str]) -> Part:
    files = write_part(layout.parts, name, pa.table({"text": values}), ())
    made = Part(name, {"mask": ["f"]}, files, len(values), 0, 0, "run")
    return made


def test_a_version_is_what_readers_see_and_old_ones_are_pruned(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    ledger = Ledger(layout.ledger)
    for number in range(1, 7):
        newest = part(layout, f"p{number}", [str(number)] * number)
        assert publish(layout, ledger, "run", [newest], "now") == number
        prune(layout, ledger)
        assert pd.read_parquet(layout.data)["text"].tolist() == [str(number)] * number
    assert ledger.versions() == [4, 5, 6]
    assert sorted(p.name for p in layout.versions.iterdir()) == ["000004", "000005", "000006"]
    assert sorted(p.name for p in layout.parts.iterdir()) == ["p4.parquet", "p5.parquet", "p6.parquet"]


def test_publishing_again_after_a_crash_before_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(tmp_path)
    ledger = Ledger(layout.ledger)
    made = part(layout, "p", ["x"])

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "add_version", crash)
        with pytest.raises(KeyboardInterrupt):
            publish(layout, ledger, "run", [made], "now")
    (layout.root / ".data.tmp").symlink_to("nowhere")  # as another crash has left them
    (layout.parts / ".q.parquet.tmp").write_bytes(b"PAR1")
    assert publish(layout, ledger, "run", [made], "now") == 2
    prune(layout, ledger)
    assert pd.read_parquet(layout.data)["text"].tolist() == ["x"]
    assert [p.name for p in layout.versions.iterdir()] == ["000002"]
    assert [p.name for p in layout.parts.iterdir()] == ["p.parquet"]


def test_what_somebody_has_put_in_the_place_of_the_link_meanwhile_is_left_there(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    with closing(Ledger(layout.ledger)) as ledger:
        made = part(layout, "p", ["x"])
        layout.data.write_text("mine")
        with pytest.raises(UnfitOutputError, match="was not made by secbatch"):
            publish(layout, ledger, "run", [made], "now")
    assert layout.data.read_text() == "mine"


@pytest.mark.parametrize("folder", ["", "day=1/"])
def test_links_are_sorted_as_their_parts_stand_and_tell_their_names(folder: str) -> None:
    links = [link_name(position, f"{folder}part.parquet") for position in (0, 2, 10, 999_999)]
    assert links == sorted(links)
    links.append(link_name(1_000_000, f"{folder}part.parquet"))
    assert {part_name(Path(link)) for link in links} == {f"{folder}part"}


def test_partition_folders_are_read_back_with_their_values(tmp_path: Path) -> None:
    days = ["2025-01-01", "a/b=c%", None, "..", "_hidden", "2025-01-01"]
    table = pa.table({"day": days, "n": list(range(6))})
    files = write_part(tmp_path, "p", table, ("day",))
    assert len(files) == 5
    assert any(NULL_PARTITION in file for file in files)
    found = ds.dataset(tmp_path, format="parquet", partitioning="hive").to_table().to_pylist()
    assert {(row["day"], row["n"]) for row in found} == set(zip(days, range(6), strict=True))


def test_partition_values_that_readers_misread_stand_as_null(tmp_path: Path) -> None:
    files = write_part(tmp_path, "p", pa.table({"code": ["007", "", "x"], "n": [1, 2, 3]}), ("code",))
    assert sorted(file.split("/")[0] for file in files) == [f"code={NULL_PARTITION}", "code=x"]
    assert sum(read_part(tmp_path / file).num_rows for file in files) == 3


@pytest.mark.parametrize("values", [["mon", "tue"], [1, 2], [True, False], [datetime.date(2024, 1, 1)] * 2])
def test_dictionaries_are_partitions_as_their_values_are(values: list[Any]) -> None:
    places = pa.array([0, 1, None], pa.int8())
    column = pa.DictionaryArray.from_arrays(places, pa.array(values))
    schema = pa.schema([("x", column.type)])
    check_partition_columns(("x",), schema)
    table = pa.table({"x": column})
    names, _ = partition_folders(table, ("x",))
    assert names == partition_folders(pa.table({"x": pa.array([*values, None])}), ("x",))[0]
    rest = pa.table({"n": [1]})
    back = [with_partitions(rest, name, schema).column("x") for name in names]
    assert {one.type for one in back} == {column.type}
    assert {value for one in back for value in one.to_pylist()} == {*values, None}


@pytest.mark.parametrize("values", [[7, None], [True, False], [datetime.date(2024, 1, 1), None]])
def test_values_that_are_no_text_are_read_back_as_they_are(values: list[Any]) -> None:
    assert misread_partitions(pa.chunked_array([pa.array(values)]), "x") == {}
    assert misread_partitions(pa.chunked_array([pa.array(["7", "07", None, ""])]), "x") == {1: "07", 3: ""}


@pytest.mark.parametrize(("name", "kind"), [("_x", pa.string()), ("x", pa.float64()), ("x", pa.list_(pa.int8()))])
def test_partition_columns_that_cannot_be(name: str, kind: pa.DataType) -> None:
    with pytest.raises(JobError):
        check_partition_columns((name,), pa.schema([(name, kind)]))


def test_the_second_holder_is_told_who_the_first_is(tmp_path: Path) -> None:
    lock = tmp_path / "_secbatch" / "lock"
    with hold(lock), pytest.raises(OutputHeldError, match=f"process {os.getpid()} on"), hold(lock):
        pass
    with hold(lock):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    code = "\n".join(
        [
            "import os",
            "from pathlib import Path",
            "from secbatch.store.lock import hold",
            f"with hold(Path({str(lock)!r})): os.kill(os.getpid(), 9)",
        ]
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    lock.write_text(lock.read_text() + " a longer note")
    with hold(lock):
        assert (holder(lock) or {})["process"] == os.getpid()


def test_a_lock_that_its_holder_removes_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that waits for it has another file in hand than those that come later."""
    path = tmp_path / "out" / "_secbatch" / "lock"
    first = ExitStack()
    first.enter_context(hold(path))

    def removed(_: float) -> None:
        shutil.rmtree(tmp_path / "out")
        first.close()

    monkeypatch.setattr("secbatch.store.lock.time.sleep", removed)
    with hold(path):
        assert holder(path) is not None


def test_a_group_shares_an_output_where_umask_says_so(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "out")
    before = os.umask(0o007)
    try:
        with hold(layout.lock), closing(Ledger(layout.ledger)):
            modes = {path.name: path.stat().st_mode & 0o777 for path in layout.internal.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("lock", "ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"), 0o660)


def test_a_change_of_the_ledger_is_on_the_disk_before_what_rests_on_it(tmp_path: Path) -> None:
    full = 2
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        assert ledger._connection.execute("PRAGMA synchronous").fetchone() == (full,)


def test_a_newer_ledger_is_refused_and_a_broken_one_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    ledger._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    ledger.close()
    with pytest.raises(OutputError, match="newer secbatch"):
        Ledger(path)
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(OutputError, match=r"cannot be opened .*; the next run makes a new one from the parts"):
        Ledger(path)


def test_what_to_do_about_a_ledger_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.mkdir()
    for opened in (Ledger, Ledger.read_only):
        with pytest.raises(OutputError, match="mend the rights of the file and of its folder, and run again"):
            opened(path)
    path.rmdir()
    ledger = Ledger(path)
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        ledger._connection.execute("PRAGMA busy_timeout = 0")
        with pytest.raises(OutputError, match=r"cannot be written .*; another program has it open"):
            ledger.fix_setting("a", "b")
    ledger._connection.execute(
        f"PRAGMA max_page_count = {ledger._connection.execute('PRAGMA page_count').fetchone()[0]}"
    )
    with pytest.raises(OutputError, match=r"cannot be written .*; free space on its disk"):
        ledger.fix_setting("a", "b" * 100_000)
    ledger.close()


@pytest.mark.parametrize(
    ("number", "said"), [(errno.EDQUOT, "the disk quota is exceeded"), (errno.EIO, "see to its disk")]
)
def test_a_quota_is_no_fault_of_the_disk(
    number: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_: Any) -> None:
        raise OSError(number, os.strerror(number))

    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    monkeypatch.setattr(ledger_errors.tempfile, "TemporaryFile", refused)
    assert said in str(ledger_errors.explain(error, tmp_path / "ledger.sqlite", "written"))


def test_outputs_that_are_not_local_are_refused() -> None:
    with pytest.raises(UnfitOutputError, match=r"'s3://bucket/out' is not"):
        check_output_place(Path("s3://bucket/out"))
    with pytest.raises(UnfitOutputError, match="not a local folder") as no:
        check_output_place(Path("s3://KEY:SECRET@bucket/out"))
    assert "SECRET" not in str(no.value)


@pytest.mark.parametrize("name", ["plain", "Käse", "with space", "in\u3000wide", "line\u2028end", "\udce4"])
def test_network_file_systems_are_known_whatever_the_names_of_folders(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = f"disk / ext4 rw 0 0\nserver:/x {tmp_path}/{name.replace(' ', chr(92) + '040')} nfs4 rw 0 0\n"
    monkeypatch.setattr(Path, "read_bytes", lambda path: mounts.encode("utf-8", "surrogateescape"))
    with pytest.raises(UnfitOutputError, match=r"network file system \(nfs4\)"):
        check_output_place(tmp_path / name / "out")
    check_output_place(tmp_path / "out")


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"disk of .* is full"):
        write_atomically(tmp_path / "x", fail)
    assert list(tmp_path.iterdir()) == []


def test_rows_that_become_large_make_smaller_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_files, "ROW_GROUP_BYTES", 100_000)
    rows = [f"{n}" if n < 3000 else f"{n} " + "long " * 400 for n in range(5000)]
    table = pa.table({"text": [*rows, *(f"{n}" for n in range(5000, 9000))]})
    groups = set()
    for cuts in ((1024, 2000, 4321), (5001,), (3000, 3001, 3777)):
        bounds = [0, *cuts, table.num_rows]
        cut = [table.slice(start, stop - start) for start, stop in itertools.pairwise(bounds)]
        write_tables(tmp_path / "a.parquet", table.schema, cut, "part")
        with pq.ParquetFile(tmp_path / "a.parquet") as file:
            assert file.read().equals(table)
            found = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
        assert max(group.total_byte_size for group in found) < 4 * 100_000
        groups.add(tuple(group.num_rows for group in found))
    assert len(groups) == 1  # however the rows come


def test_a_row_group_of_very_large_rows_ends_amid_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_files, "ROW_GROUP_BYTES", 10_000)
    monkeypatch.setattr(part_files, "BLOCK_BYTES", 40_000)
    large = {30, 31, 32, 33, 34, 35, 60, *range(1500, 1540)}
    table = pa.table({"text": [f"{n}" + "long " * 2000 * (n in large) for n in range(2000)]})
    groups = set()
    for cuts in ((1000,), (32, 33, 1501, 1502), tuple(range(1, 2000))):
        bounds = [0, *cuts, table.num_rows]
        cut = [table.slice(start, stop - start) for start, stop in itertools.pairwise(bounds)]
        write_tables(tmp_path / "a.parquet", table.schema, cut, "part")
        with pq.ParquetFile(tmp_path / "a.parquet") as file:
            assert file.read().equals(table)
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        groups.add(tuple(sizes))
    assert len(groups) == 1  # however the rows come
    assert sizes[0] == 34  # four large rows of 10,000 bytes are enough


def test_row_groups_of_vectors_are_smaller_than_those_of_narrow_rows() -> None:
    rows = [part_files.row_group_rows(width * 1000, 1000) for width in (0, 100, 400, 3100, 100_000)]
    assert rows == [65_536, 65_536, (16 << 20) // 400, (8 << 20) // 3100, 1024]


def test_rows_that_come_one_by_one_wait_in_little_memory(tmp_path: Path) -> None:
    word = pa.struct([("token", pa.string()), ("score", pa.float32())])
    schema = pa.schema([("n", pa.int64()), ("words", pa.list_(pa.list_(word)))])

    def row(number: int) -> pa.Table:
        return pa.table([[number], [[[{"token": f"w{number}", "score": 0.5}]]]], schema=schema)

    held: list[int] = []

    def rows() -> Iterator[pa.Table]:
        before = pa.total_allocated_bytes()
        for number in range(5000):
            yield row(number)
        held.append(pa.total_allocated_bytes() - before)

    whole = pa.concat_tables(map(row, range(5000))).combine_chunks()
    write_tables(tmp_path / "one by one.parquet", schema, rows(), "part")
    assert held[0] < 2 * whole.nbytes
    write_tables(tmp_path / "whole.parquet", schema, [whole], "part")
    assert (tmp_path / "one by one.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_row_groups_of_a_table_are_not_copied_and_those_of_several_tables_have_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_files, "ROW_GROUP_BYTES", 100_000)
    vectors = [None if n % 7 == 3 else [n + place / 8 for place in range(n % 5 * 8)] for n in range(5003)]
    texts = [None if n % 11 == 5 else f"row {n}" for n in range(5003)]
    table = pa.table({"vector": pa.array(vectors, pa.list_(pa.float32())), "text": texts})
    written: list[pa.Table] = []

    class Watched(pq.ParquetWriter):
        def write_table(self, table: pa.Table, row_group_size: int | None = None) -> None:
            written.append(table)
            super().write_table(table, row_group_size)

    monkeypatch.setattr(pq, "ParquetWriter", Watched)
    write_tables(tmp_path / "whole.parquet", table.schema, [table], "part")
    values = table.column("vector").chunk(0).values.buffers()[1].address
    assert len(written) > 2
    assert {group.column("vector").chunk(0).values.buffers()[1].address for group in written} == {values}
    pieces = [table.slice(start, 700) for start in range(0, 5003, 700)]
    write_tables(tmp_path / "pieces.parquet", table.schema, pieces, "part")
    assert (tmp_path / "whole.parquet").read_bytes() == (tmp_path / "pieces.parquet").read_bytes()
    assert pq.read_table(tmp_path / "whole.parquet").equals(table)


def test_a_row_group_that_was_taken_is_let_go_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"a": [f"{number:064}" for number in range(4000)], "b": range(4000)})
    path = tmp_path / "a.parquet"
    write_tables(path, table.schema, [table], "part", most_rows=1000)
    groups = RowGroups(tmp_path / "scratch")
    for start in range(0, 4000, 500):  # as a night goes through them, with a row in a hundred that is another now
        rows = np.array([row for row in range(start, start + 500) if row % 100])
        assert groups.take(path, rows, ["a"]).equals(table.select(["a"]).take(pa.array(rows)))
        half_taken = start % 1000 == 0
        assert len(groups._cache) == half_taken and (groups._bytes > 0) == half_taken
    for row in (3500, 500, 1500):  # to and fro: they are kept, the oldest ones until there is no room
        assert groups.take(path, np.array([row]), ["b", "a"]).to_pylist() == [{"b": row, "a": f"{row:064}"}]
    held = groups._bytes
    assert len(groups._cache) == 3 and held > 3 * 64 * 1000
    monkeypatch.setattr(part_files, "CACHED_BYTES", held)
    groups.take(path, np.array([2500]), ["b", "a"])
    assert [group for _, group, _ in groups._cache] == [0, 1, 2] and groups._bytes <= held
    assert not (tmp_path / "scratch").exists()


def test_row_groups_without_room_are_read_twice_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(1)
    prediction = [[{"token": f"t{number % 7}", "score": number / 7}] for number in range(3)]
    tables = []
    for part in range(12):
        table = pa.table(
            {
                "a": [f"{part}-{row}" * 9 if row % 5 else None for row in range(300)],
                "vector": [[float(part), float(row)] * (row % 3) for row in range(300)],
                "predictions": [prediction[: row % 4] or None for row in range(300)],
                "b": pa.array([part * 1000 + row for row in range(300)], pa.int32() if part % 2 else pa.int64()),
            }
        )
        write_tables(tmp_path / f"{part}.parquet", table.schema, [table], "part", most_rows=100)
        tables.append(table)
    read: list[tuple[str, int]] = []
    opens: list[str] = []

    class Watched(pq.ParquetFile):
        def __init__(self, path: Path, **options: Any) -> None:
            super().__init__(path, **options)
            self._name = path.name
            opens.append(path.name)

        def read_row_group(self, group: int, **options: Any) -> pa.Table:
            read.append((self._name, group))
            return super().read_row_group(group, **options)

    monkeypatch.setattr(pq, "ParquetFile", Watched)
    names = ["vector", "b", "a", "predictions"]
    groups = RowGroups(tmp_path / "scratch")

    def taken() -> None:
        for part in draw.permutation(12):
            rows = draw.integers(0, 300, 12)
            found = groups.take(tmp_path / f"{part}.parquet", rows, names)
            assert found.equals(tables[part].select(names).take(pa.array(rows)))
        groups.release()

    for _ in range(3):  # there is room for all
        taken()
    assert len(read) == 36 and len(opens) <= 36 and not (tmp_path / "scratch").exists()
    monkeypatch.setattr(part_files, "CACHED_BYTES", groups._bytes // 4)
    monkeypatch.setattr(part_files, "SPILLED_BYTES", groups._bytes // 16)
    read.clear()
    for _ in range(12):
        taken()
        assert groups._bytes <= part_files.CACHED_BYTES
    assert max(map(read.count, read)) <= 2
    opens.clear()
    taken()
    assert not opens
    assert len(list((tmp_path / "scratch").iterdir())) > 2


def test_row_groups_in_scratch_go_once_their_rows_were_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"a": [f"{number:064}" for number in range(1200)]})
    for part in range(8):
        write_tables(tmp_path / f"{part}.parquet", table.schema, [table], "part", most_rows=400)
    monkeypatch.setattr(part_files, "CACHED_BYTES", 3 * 400 * 64)
    monkeypatch.setattr(part_files, "SPILLED_BYTES", 400 * 64)
    groups, most = RowGroups(tmp_path / "scratch"), 0
    for start in range(0, 1200, 50):  # as a night goes through rows that take turns in eight partitions
        for part in range(8):
            rows = np.arange(start, start + 50)
            found = groups.take(tmp_path / f"{part}.parquet", rows, ["a"])
            assert found.equals(table.take(pa.array(rows)))
        groups.release()
        most = max(most, len(list((tmp_path / "scratch").iterdir())) if start else 0)
    assert 0 < most <= 8
    assert not list((tmp_path / "scratch").iterdir())
    again = groups.take(tmp_path / "3.parquet", np.array([7, 5, 1100]), ["a"])  # rows that are asked for twice
    assert again.equals(table.take(pa.array([7, 5, 1100])))


def test_a_row_group_in_scratch_that_cannot_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"a": [1, 2, 3]})
    spilled, group = SpilledGroups(tmp_path / "scratch"), (tmp_path / "a.parquet", 0, ("a",))
    spilled.add({group: (table, 3)})

    def refused(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(spilled_groups, "remove_file", refused)
    assert spilled.take(group, np.array([2, 0])).to_pylist() == [{"a": 3}, {"a": 1}]
    with pytest.raises(OutputError, match=r"0\.arrow"):
        spilled.take(group, np.array([1]))
