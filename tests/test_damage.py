"""Files of an output that a disk has damaged: nothing of it is wrong in silence, and the next runs mend it."""

import errno
import os
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fake_task import Counter, install_in, interrupted_after
from nights import LINES, WITH_ID, done, job, rows, write

from secbatch.errors import OutputError
from secbatch.runner import run_job
from secbatch.store.layout import Layout
from secbatch.store.ledger import Ledger
from secbatch.store.rebuild import _keep_damaged
from secbatch.store.rollback import list_versions
from secbatch.store.row_keys import MAGIC, UNSUMMED, StoredKeys

STORE = Path("out/_secbatch")
LEDGER = STORE / "ledger.sqlite"


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter:
    return install_in(tmp_path, monkeypatch, (8, 16, 32))


def flip(path: Path, place: int) -> None:
    """One bit of the byte at `place`, in the file that all its names share."""
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 4]))


def cut(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def last_byte(path: Path, column: str) -> int:
    """Of a column in the first row group of a part."""
    group = pq.read_metadata(path).row_group(0)
    chunk = next(group.column(n) for n in range(group.num_columns) if group.column(n).path_in_schema == column)
    return int(chunk.data_page_offset + chunk.total_compressed_size)


def texts() -> dict[str, str]:
    found = rows()
    assert found["id"].is_unique and (found["up"] == found["text"].str.upper()).all()
    assert (found["secbatch_source"] == "in/a.csv").sum() in (98, 99, 100)
    return dict(zip(found["id"], found["text"], strict=True))


def two_nights(counter: Counter, **changes: Any) -> None:
    write("a.csv", "id,text,note", *LINES)
    done(counter, **changes)
    write("b.csv", "id,text,note", "3,changed,", "x,new,")
    done(counter, **changes)


def shown_part() -> Path:
    link = next(Path("out/data").resolve().rglob("*.parquet"))
    return STORE / "parts" / link.name.partition("-")[2]


def expected() -> dict[str, str]:
    return {str(n): f"word {n}" for n in range(100)} | {"3": "changed", "x": "new", "4": "later", "y": "newer"}


@pytest.mark.parametrize("column", ["ids", "content", "flags", "by id", "filter id"])
def test_a_flipped_bit_in_row_keys_is_noticed(counter: Counter, column: str) -> None:
    two_nights(counter, input=WITH_ID)
    path = STORE / "keys" / f"{shown_part().stem}.keys"
    stored = StoredKeys(path)
    flip(path, stored._base + stored._arrays[column][2] + stored.array(column).nbytes // 2)
    write("c.csv", "id,text,note", "4,later,", "y,newer,")
    before = counter.rows
    result = run_job(job(input=WITH_ID))
    assert counter.rows - before == 2 and texts() == expected()
    assert [text for text in result.notices if "row keys" in text and str(path) in text]
    assert not [text for text in run_job(job(input=WITH_ID)).notices if "row keys" in text]


def test_row_keys_that_have_each_others_names_are_noticed(counter: Counter) -> None:
    two_nights(counter, input=WITH_ID)
    one, other = sorted((STORE / "keys").glob("*.keys"))[:2]
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    write("c.csv", "id,text,note", "4,later,", "y,newer,")
    assert done(counter, input=WITH_ID) == 2 and texts() == expected()


def test_row_keys_of_a_release_without_checksums_are_read(counter: Counter) -> None:
    two_nights(counter, input=WITH_ID)
    for path in (STORE / "keys").rglob("*.keys"):
        content = path.read_bytes()
        assert content.startswith(MAGIC)
        path.write_bytes(UNSUMMED + content[len(MAGIC) : -8])
    write("c.csv", "id,text,note", "4,later,", "y,newer,")
    result = run_job(job(input=WITH_ID))
    assert texts() == expected() and not [text for text in result.notices if "row keys" in text]


@pytest.mark.parametrize("damaged", [True, False])
def test_results_of_superseded_rows_without_their_keys_are_not_missed(counter: Counter, damaged: bool) -> None:
    write("a.csv", "id,text,note", *LINES, "3,changed,")
    done(counter, input=WITH_ID)
    [path] = (STORE / "keys/_superseded").glob("*.keys")
    if damaged:
        flip(path, path.stat().st_size // 2)
    else:
        path.unlink()
    write("b.csv", "id,text,note", "4,later,", "x,new,", "y,newer,")
    before = counter.rows
    result = run_job(job(input=WITH_ID))
    assert counter.rows - before == 3 and len(rows()) == 102
    said = [text for text in result.notices if "row keys" in text]
    assert all("results of replaced rows that they name are no longer of use" in text for text in said)
    assert len(said) == damaged
    last = {"3": "changed", "4": "later", "x": "new", "y": "newer"}
    assert rows().set_index("id")["text"].loc[list(last)].to_dict() == last


@pytest.mark.parametrize("damaged", [True, False])
def test_superseded_rows_that_were_done_anew_are_kept_aside_anew(counter: Counter, damaged: bool) -> None:
    write("a.csv", "id,text,note", *LINES)
    write("b.csv", "id,text,note", *(line.replace("word", "later word") for line in LINES[:30]))
    done(counter, input=WITH_ID)
    for night in range(3):  # the first version goes, in which some of them stood
        write(f"c{night}.csv", "id,text,note", f"c{night},new {night},")
        assert done(counter, input=WITH_ID) == 1
    for path in (STORE / "keys/_superseded").glob("*.keys"):
        flip(path, path.stat().st_size // 2) if damaged else path.unlink()
    assert done(counter, input=WITH_ID) == 30
    assert done(counter, input=WITH_ID) == 0 and len(rows()) == 103


def test_a_removed_row_whose_key_was_worked_out_comes_back(counter: Counter) -> None:
    output = {"path": "out", "removed": "mark", "max_removed": "100%"}
    write("a.csv", "id,text,note", *LINES)
    done(counter, input=WITH_ID, output=output)
    write("a.csv", "id,text,note", *LINES[1:])
    done(counter, input=WITH_ID, output=output)
    assert (rows()["secbatch_status"] == "removed").sum() == 1
    flip(next((STORE / "keys").glob(f"{shown_part().stem}.keys")), 2000)
    write("a.csv", "id,text,note", *LINES)
    done(counter, input=WITH_ID, output=output)
    assert len(rows()) == 100 and (rows()["secbatch_status"] == "ok").all()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "page": lambda path: flip(path, last_byte(path, "text") - 8),
    "footer": lambda path: flip(path, path.stat().st_size - 5),
    "statistics": lambda path: flip(path, path.read_bytes().rindex(b"word 99") + 3),
    "cut": lambda path: cut(path, path.stat().st_size // 2),
    "empty": lambda path: cut(path, 0),
}


@pytest.mark.parametrize("ledger_too", [False, True])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_part_is_named_and_made_again(counter: Counter, damage: str, ledger_too: bool) -> None:
    two_nights(counter, input=WITH_ID)
    part = shown_part()
    DAMAGES[damage](part)
    if ledger_too:
        (STORE / "ledger.sqlite").unlink()
    write("c.csv", "id,text,note", "4,later,", "y,newer,")
    said: list[str] = []
    for _ in range(2):  # at most one sentence that asks for something
        try:
            said += run_job(job(input=WITH_ID)).notices
            break
        except OutputError as error:
            said.append(str(error))
            assert error.exit_code == 1
            assert re.findall("'(.*?)' cannot be read back .* remove it and run again", str(error)) == [str(part)]
            part.unlink()
    assert texts() == expected()
    assert any(part.stem in text or "made from the parts" in text for text in said)
    assert done(counter, input=WITH_ID) == 0 and texts() == expected()


def swap_parts() -> Path:
    """What is shown, with what another part holds, and the other way round."""
    one = shown_part()
    other = next(path for path in (STORE / "parts").glob("*.parquet") if path != one)
    content = one.read_bytes()
    for path, written in ((one, other.read_bytes()), (other, content)):
        with path.open("r+b") as file:
            file.truncate(0)
            file.write(written)
    return one


@pytest.mark.parametrize("found", ["once", "by an earlier release"])
def test_the_rows_of_other_parts_stand_once_when_a_part_is_lost_for_good(
    counter: Counter, monkeypatch: pytest.MonkeyPatch, found: str
) -> None:
    output = {"path": "out", "partition_by": ["note"]}
    lines = [f"{n},word {n},{'xxzzyy'[n // 5]}" for n in range(30)]
    write("a.csv", "id,text,note", *lines)
    run_job(job(input=WITH_ID, output=output))
    write("a.csv", "id,text,note", *(line for line in lines if not line.endswith("y")))
    for part in [*STORE.glob("parts/note=y/*"), *Path("out/data/").glob("note=y/*")]:
        part.unlink()

    if found == "by an earlier release":  # which left the folder as it was, and put the others' links into it twice
        with monkeypatch.context() as patch:
            patch.setattr("secbatch.store.rebuild._put_in_order", lambda layout, ledger: None)
            run_job(job(input=WITH_ID, output=output))
        link = next(Path("out/data/").glob("note=z/000002-*"))
        link.with_name(link.name.replace("000002", "000001")).hardlink_to(link)
    for _ in range(3):
        run_job(job(input=WITH_ID, output=output))
        assert sorted(rows()["id"]) == sorted(line.split(",")[0] for line in lines if not line.endswith("y"))
    assert sorted(path.name[:6] for path in Path("out/data/").rglob("*.parquet")) == ["000000", "000001"]


def test_an_earlier_version_that_has_lost_a_part_is_not_offered(counter: Counter) -> None:
    output = {"path": "out", "partition_by": ["note"]}
    write("a.csv", "id,text,note", *(f"{n},word {n},{'xyz'[n % 3]}" for n in range(30)))
    run_job(job(input=WITH_ID, output=output))
    first = Path("out/data").resolve()
    write("b.csv", "id,text,note", *(f"{n},other {n},y" for n in range(30)))
    run_job(job(input=WITH_ID, output=output))
    for part in [*first.glob("note=x/*"), *STORE.glob("parts/note=x/*")]:
        part.unlink()
    LEDGER.unlink()

    run_job(job(input=WITH_ID, output=output))
    assert first.name not in {f"{version.number:06d}" for version in list_versions(Layout(Path("out")))}


@pytest.mark.parametrize("ledger_too", [False, True])
def test_parts_that_have_each_others_names_are_made_again(counter: Counter, ledger_too: bool) -> None:
    two_nights(counter)
    one = swap_parts()
    if ledger_too:
        LEDGER.unlink()
    result = run_job(job())
    said = "was gone; a new one was made" if ledger_too else "gone or damaged"
    assert len(rows()) == 102 and any(said in text for text in result.notices)
    assert (rows()["up"] == rows()["text"].str.upper()).all() and rows()["secbatch_id"].is_unique
    if not ledger_too:
        assert one.name in {path.name for path in (STORE / "damaged").iterdir()}


@pytest.mark.parametrize(("how", "stays"), [("keep", True), ("drop", False)])
def test_what_was_put_aside_does_not_outlast_rows_that_are_dropped(counter: Counter, how: str, stays: bool) -> None:
    output = {"path": "out", "removed": how, "max_removed": "100%"}
    write("a.csv", "id,text,note", *LINES)
    done(counter, input=WITH_ID, output=output)
    cut(shown_part(), shown_part().stat().st_size // 2)
    write("a.csv", "id,text,note", *LINES[1:])
    run_job(job(input=WITH_ID, output=output), limit=10)  # who has not seen all of the input drops nothing
    assert len(list((STORE / "damaged").iterdir())) == 1
    run_job(job(input=WITH_ID, output=output))
    assert (STORE / "damaged").exists() == stays and len(rows()) == 99


def test_a_damaged_part_is_put_aside_under_all_its_names(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "out")
    names = [layout.parts / "day=mon" / "part.parquet", layout.versions / "000001" / "000000-part.parquet"]
    for name in names:
        name.parent.mkdir(parents=True)
    names[0].write_bytes(b"damaged")
    names[1].hardlink_to(names[0])
    for name in names:
        _keep_damaged(layout, name, "day=mon/part.parquet")
    assert not any(name.exists() for name in names)
    assert (layout.damaged / "day=mon" / "part.parquet").read_bytes() == b"damaged"


@pytest.mark.parametrize("same_job", [True, False])
def test_a_flipped_bit_in_a_checkpoint_has_its_rows_done_again(counter: Counter, same_job: bool) -> None:
    write("a.csv", "id,text,note", *LINES)
    with interrupted_after(50):
        run_job(job(input=WITH_ID))
    left = sorted((STORE / "checkpoints").glob("*.parquet"))
    assert len(left) > 1
    flip(left[-1], left[-1].read_bytes().index(b"WORD 3"))
    result = run_job(job(input=WITH_ID, **({} if same_job else {"max_rejects": "2%"})))
    assert texts() == {str(n): f"word {n}" for n in range(100)} and 0 < result.reused < 100
    assert any(left[-1].stem in text and "done again" in text for text in result.notices)


@pytest.mark.parametrize("same_job", [True, False])
def test_a_flipped_bit_in_the_row_keys_of_a_checkpoint_gives_no_row_another_name(
    counter: Counter, same_job: bool
) -> None:
    write("a.csv", "id,text,note", *LINES)
    with interrupted_after(50):
        run_job(job(input=WITH_ID))
    for path in (STORE / "checkpoints").glob("*.keys"):
        stored = StoredKeys(path)
        flip(path, stored._base + stored._arrays["ids"][2])
    run_job(job(input=WITH_ID, **({} if same_job else {"max_rejects": "2%"})))
    assert texts() == {str(n): f"word {n}" for n in range(100)}
    assert done(counter, input=WITH_ID) == 0 and len(rows()) == 100


def test_parts_of_an_earlier_version_that_are_others_are_not_taken_from(counter: Counter) -> None:
    """The sizes that the ledger notes tell of what is shown; the file of an earlier version has its footer noted."""
    two_nights(counter, input=WITH_ID)
    swap_parts()
    write("c.csv", "id,text,note", "4,later,", "y,newer,")
    run_job(job(input=WITH_ID))
    assert texts() == expected()


@pytest.mark.parametrize("value", ['["id"]', '"input"', "upper text", "finished", "in/*.csv", "rejected INTEGER"])
def test_a_flipped_bit_in_a_value_of_the_ledger_is_noticed(counter: Counter, value: str) -> None:
    two_nights(counter, input=WITH_ID)
    ledger = STORE / "ledger.sqlite"
    flip(ledger, ledger.read_bytes().index(value.encode()) + 2)
    write("c.csv", "id,text,note", "4,later,", "y,newer,")
    before = counter.rows
    result = run_job(job(input=WITH_ID))
    assert counter.rows - before == 2 and texts() == expected()
    assert any("The ledger was damaged (" in text for text in result.notices)
    assert not any("damaged" in text for text in run_job(job(input=WITH_ID)).notices)


CHANGES = {
    "meta": "value = value || ' '",
    "runs": "started = started || ' '",
    "parts": "rejected = rejected + 1",
    "version_parts": "position = position + 1",
    "versions": "rows = rows + 1",
}


@pytest.mark.parametrize("table", CHANGES)
def test_no_table_of_the_ledger_changes_unnoticed(counter: Counter, table: str) -> None:
    two_nights(counter, input=WITH_ID)
    with closing(sqlite3.connect(LEDGER)) as ledger, ledger:
        newest = ledger.execute(f"SELECT MAX(rowid) FROM {table}").fetchone()
        ledger.execute(f"UPDATE {table} SET {CHANGES[table]} WHERE rowid = ?", newest)
    assert any("The ledger was damaged (" in text for text in run_job(job(input=WITH_ID)).notices)
    assert rows()["id"].is_unique and len(rows()) == 101


@pytest.mark.parametrize("table", ["shard_rows", "checkpoints"])
def test_nor_do_those_of_a_run_that_was_stopped(counter: Counter, table: str) -> None:
    write("a.csv", "id,text,note", *LINES)
    with interrupted_after(40):
        run_job(job(input=WITH_ID))
    with closing(sqlite3.connect(LEDGER)) as ledger, ledger:
        assert ledger.execute(f"UPDATE {table} SET rows = rows + 1 WHERE shard = 0").rowcount == 1
    assert any("The ledger was damaged (" in text for text in run_job(job(input=WITH_ID)).notices)
    assert rows()["id"].is_unique and len(rows()) == 100


def test_a_ledger_that_a_killed_run_has_left_is_open(counter: Counter) -> None:
    write("a.csv", "id,text,note", *LINES)
    done(counter, input=WITH_ID)
    left = Ledger(STORE / "ledger.sqlite")
    newest = left.newest_run()
    assert newest is not None
    left.start_run("killed", newest.job, "2026-01-01T00:00:00+00:00")
    left._connection.close()
    assert not any("damaged" in text for text in run_job(job(input=WITH_ID)).notices)


def test_a_damaged_index_of_a_ledger_that_a_killed_run_has_left_is_noticed(counter: Counter) -> None:
    two_nights(counter, input=WITH_ID)
    left = Ledger(LEDGER)
    left.fix_setting("a", "b")
    name = left.parts()[-1].name
    root, size = (
        left._connection.execute(statement).fetchone()[0]
        for statement in ("SELECT rootpage FROM sqlite_master WHERE name LIKE '%index_parts%'", "PRAGMA page_size")
    )
    left._connection.close()
    flip(LEDGER, LEDGER.read_bytes().index(name.encode(), (root - 1) * size) + 2)
    write("c.csv", "id,text,note", "4,later,", "y,newer,")
    result = run_job(job(input=WITH_ID))
    assert any("The ledger was damaged (" in text for text in result.notices)
    assert texts() == expected()


@pytest.mark.parametrize("kind", ["keys/*.keys", "parts/*.parquet", "versions"])
def test_what_may_not_be_read_is_not_to_be_removed(
    counter: Counter, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For root, who may read all, the system's refusal is put in its place."""
    two_nights(counter, input=WITH_ID)
    closed = STORE / kind.replace("*", shown_part().stem)

    def refusing(function: Callable[..., Any], refused: str) -> Callable[..., Any]:
        def refuse(path: Path, *rest: Any, **named: Any) -> Any:
            if str(path) == refused:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return function(path, *rest, **named)

        return refuse

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refusing(Path.open, str(closed)))
        patch.setattr(Path, "exists", refusing(Path.exists, "out/data" if kind == "versions" else ""))
        write("c.csv", "id,text,note", "4,later,", "y,newer,")
        with pytest.raises(OutputError, match=r"Permission denied\); mend its rights and run again"):
            run_job(job(input=WITH_ID))
    assert done(counter, input=WITH_ID) <= 2 and texts() == expected()


def test_checkpoints_that_have_each_others_names_are_done_again(counter: Counter) -> None:
    write("a.csv", "id,text,note", *LINES)
    with interrupted_after(70):
        run_job(job(input=WITH_ID))
    one, other = sorted((STORE / "checkpoints").glob("*.parquet"))[-2:]
    assert pq.read_metadata(one).num_rows == pq.read_metadata(other).num_rows
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    result = run_job(job(input=WITH_ID))
    assert texts() == {str(n): f"word {n}" for n in range(100)} and 0 < result.reused < 100
    write("b.csv", "id,text,note", "60,later,")
    assert done(counter, input=WITH_ID) == 1
    assert texts() == {str(n): f"word {n}" for n in range(100)} | {"60": "later"}


def test_nothing_is_shown_before_its_end_by_a_run_that_takes_from_earlier_versions(counter: Counter) -> None:
    """All that was shown last is gone: with each publication a version goes, and the results that are at hand in it."""
    two_nights(counter, input=WITH_ID)
    shown = int(Path("out/data").readlink().name)
    cut(shown_part(), 9)
    result = run_job(job(input=WITH_ID))
    assert (result.version, result.rows_in_dataset) == (shown + 1, 101) and result.reused > 0
