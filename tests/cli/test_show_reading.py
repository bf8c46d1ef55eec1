"""How much of an output `secbatch show` reads for a few rows of it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from secbatch.cli.main import _run

PARTS = 12


def bytes_read() -> int:
    """By this process so far."""
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not tell what a process reads")
def test_of_a_large_output_the_first_part_alone_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out/data").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for number in range(PARTS):
        columns = {"x": draw.random(200_000), "secbatch_status": ["ok"] * 200_000}
        table = pa.table(columns).replace_schema_metadata({b"secbatch": b'{"specs": {}}'})
        pq.write_table(table, f"out/data/{number:06}.parquet", row_group_size=20_000)
    part = Path("out/data/000000.parquet").stat().st_size
    assert _run(["show", "out", "--rows", "1"]) == 0  # imports
    before = bytes_read()
    assert _run(["show", "out", "--rows", "2"]) == 0
    assert bytes_read() - before < 2 * part
    assert capsys.readouterr().out.count("Row: x=") == 3
