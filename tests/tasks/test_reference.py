"""References: read from all formats, and what is wrong with one is one sentence."""

import json
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from secbatch.errors import InputError, JobError
from secbatch.task_specs import Reference
from secbatch.tasks import reference as reading
from secbatch.tasks.reference import read_reference

ROWS = [{"id": "T1", "name": "Phishing", "text": "a mail"}, {"id": "T2", "name": "Brute force", "text": "many tries"}]
KEY = "tasks.near.reference"


def spec(path: Path, **changes: Any) -> Reference:
    return Reference.model_validate({"path": str(path), "id": "id", "text": "text"} | changes)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [rows[0].keys(), *(row.values() for row in rows)]
        path.write_text("".join(",".join(f'"{value}"' for value in line) + "\n" for line in lines))
    return path


def test_all_formats_give_the_same_reference(tmp_path: Path) -> None:
    made = [read_reference(spec(write(tmp_path / f"r{end}", ROWS)), KEY) for end in (".csv", ".parquet", ".jsonl")]
    for one in made:
        assert one.ids.to_pylist() == ["T1", "T2"]
        assert list(one.texts()) == [(0, ["a mail", "many tries"])]
    assert len({one.digest() for one in made}) == 1


def test_the_digest_follows_ids_texts_and_their_order(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    changed = [{**ROWS[0], "text": "a message"}, ROWS[1]]
    renamed = [{**ROWS[0], "id": "T3"}, ROWS[1]]
    digests = {read_reference(spec(write(path, rows)), KEY).digest() for rows in (ROWS, ROWS[::-1], changed, renamed)}
    template = read_reference(spec(write(path, ROWS), text="{name}: {text}"), KEY)
    assert len(digests | {template.digest()}) == 5
    other = [{**row, "name": "?"} for row in ROWS]  # no column that is read
    assert (
        read_reference(spec(write(path, other)), KEY).digest() == read_reference(spec(write(path, ROWS)), KEY).digest()
    )


def test_many_rows_come_in_chunks_and_equal_texts_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHUNK", 10)
    rows = [{"id": number, "text": f"text {number % 7}"} for number in range(95)]
    made = read_reference(spec(write(tmp_path / "r.parquet", rows)), KEY)
    assert made.ids.to_pylist() == [str(number) for number in range(95)]  # ids of any plain type become text
    chunks = list(made.texts())
    assert [start for start, _ in chunks] == list(range(0, 95, 10))
    assert [text for _, texts in chunks for text in texts] == [row["text"] for row in rows]
    assert made.first_with_text().tolist() == [number % 7 for number in range(95)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*ROWS, {"id": "T1", "name": "x", "text": "y"}], r"the id 'T1' stands twice, in .*r.csv row 1 and in .*row 3"),
        ([{"id": "T1", "name": "x", "text": " "}, *ROWS[1:]], r"r.csv row 1 has no text in 'text'; fill it in"),
        ([*ROWS, {"id": "", "name": "x", "text": "y"}], r"r.csv row 3 has no id in 'id'; fill it in"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InputError, match=f"^{KEY}: .*{message}"):
        read_reference(spec(write(tmp_path / "r.csv", rows)), KEY)


def test_a_late_row_of_another_type_names_no_key_that_a_reference_has_not(tmp_path: Path) -> None:
    rows = [{"id": number, "text": "x" * 1000} for number in range(1100)]  # types are told by the first MiB
    path = write(tmp_path / "r.jsonl", [*rows, {"id": "T1", "text": "a mail"}])
    with pytest.raises(InputError, match=r"row 1101: .*'T1' is not of type int64; mend the value, or write the whole"):
        read_reference(spec(path), KEY)


def test_an_id_that_is_no_number_is_none(tmp_path: Path) -> None:
    for ids in (pa.array([1.0, float("nan")]), pa.array([1.0, float("nan")]).dictionary_encode()):
        pq.write_table(pa.table({"id": ids, "text": ["a", "b"]}), tmp_path / "r.parquet")
        with pytest.raises(InputError, match=r"r.parquet row 2 has no id in 'id'"):
            read_reference(spec(tmp_path / "r.parquet"), KEY)


def test_files_that_are_no_reference_are_named(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("id,text\nT1,one\nT2\n")
    with pytest.raises(InputError, match=rf"^{KEY}: .*r.csv line 3: .*a reference must be whole$"):
        read_reference(spec(path), KEY)
    path.write_text("id,text\n")
    with pytest.raises(InputError, match=rf"^{KEY}: .*r.csv holds no rows to compare with"):
        read_reference(spec(path), KEY)
    path.write_bytes(b"id,text\nT1,caf\xe9\n")
    with pytest.raises(InputError, match=rf"^{KEY}: .*r.csv line 2: .*for example `reference.encoding: cp1252`"):
        read_reference(spec(path), KEY)
    assert list(read_reference(spec(path, encoding="cp1252"), KEY).texts()) == [(0, ["café"])]
    with pytest.raises(InputError, match=rf"^{KEY}: path '.*nothing.csv' does not exist"):
        read_reference(spec(tmp_path / "nothing.csv"), KEY)
    write(path, ROWS)
    with pytest.raises(JobError, match=rf"^{KEY}.id: there is no column 'idd' in .*r.csv \(did you mean 'id'\?\)"):
        read_reference(spec(path, id="idd"), KEY)
    with pytest.raises(JobError, match=rf"^{KEY}.text: there is no column 'txt' in .*r.csv \(did you mean 'text'\?\)"):
        read_reference(spec(path, text="txt"), KEY)
    (tmp_path / "r.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match=rf"^{KEY}: .*r.parquet"):
        read_reference(spec(tmp_path / "r.parquet"), KEY)


def test_a_file_that_changes_amid_a_run_stops_it(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", ROWS)
    made = read_reference(spec(path), KEY)
    for rows in ([ROWS[0], {**ROWS[1], "text": "other"}], ROWS[:1], [*ROWS, {**ROWS[0], "id": "T3"}]):
        write(path, rows)
        with pytest.raises(InputError, match="has changed since this run began"):
            list(made.texts())


def test_ids_of_types_that_are_not_plain_become_text(tmp_path: Path) -> None:
    uuids = [uuid.UUID(int=2**128 - 1), uuid.UUID(int=2**127)]
    stored = pa.array([one.bytes for one in uuids], pa.binary(16))
    for ids, wanted in (
        (pa.ExtensionArray.from_storage(pa.uuid(), stored), [str(one) for one in uuids]),
        (stored, [one.hex for one in uuids]),
        (pa.array([b"T1", b"T2"]), ["T1", "T2"]),
        (pa.array([b"\xff", b"T2"]), ["ff", "5432"]),
        (pa.array([7, 8]).dictionary_encode(), ["7", "8"]),
    ):
        pq.write_table(pa.table({"id": ids, "text": ["a mail", "many tries"]}), tmp_path / "r.parquet")
        assert read_reference(spec(tmp_path / "r.parquet"), KEY).ids.to_pylist() == wanted
