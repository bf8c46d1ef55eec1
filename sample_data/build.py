"""Builds `reports.parquet` from its readable source `reports.jsonl` (`make sample-data`)."""

import datetime
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = Path(__file__).resolve().parent
SOURCE = FOLDER / "reports.jsonl"
TARGET = FOLDER / "reports.parquet"
SCHEMA = pa.schema(
    [
        ("report_id", pa.string()),
        ("title", pa.string()),
        ("published", pa.date32()),
        ("severity", pa.float64()),  # 0 to 10, null where a report has none
        ("text", pa.string()),
    ]
)


def read_reports(source: Path = SOURCE) -> pa.Table:
    """The reports as a table in SCHEMA, in the order of the lines of `source`."""
    lines = source.read_text(encoding="utf-8").splitlines()
    reports = [json.loads(line) for line in lines]
    for report in reports:
        report["published"] = datetime.date.fromisoformat(report["published"])
    return pa.Table.from_pylist(reports, schema=SCHEMA)


def main() -> None:
    """Writes TARGET and says what it holds."""
    table = read_reports()
    pq.write_table(table, TARGET, compression="zstd")
    print(f"{TARGET.name}: {table.num_rows} reports")


if __name__ == "__main__":
    main()
