"""How large shards become, in a pipeline that cuts some of them before the first one is done."""

from pathlib import Path

import pytest
from fake_task import install_in
from nights import job as nightly
from nights import write

from secbatch import pacing
from secbatch.job import Job
from secbatch.pacing import LARGEST, RESULT_BYTES, SMALLEST, ShardSizes
from secbatch.runner import run_job, shard_rows_schedule

AHEAD = 4  # shards that are read, encoded or waiting while one is computed


def job(kind: str) -> Job:
    task = {"type": kind, "model": "fake", "text": "text"}
    return Job.model_validate({"name": "n", "input": {"path": "x"}, "tasks": {"t": task}, "output": {"path": "o"}})


def sizes_at(rate: float, kind: str, cuda: bool, shards: int) -> list[int]:
    sizes = ShardSizes(shard_rows_schedule(job(kind), cuda))
    cut = [sizes(shard) for shard in range(AHEAD)]
    for shard in range(shards - AHEAD):
        sizes.measured(cut[shard], cut[shard] / rate)
        cut.append(sizes(shard + AHEAD))
    return cut


@pytest.mark.parametrize("rate", [2.0, 7.5, 60.0, 900.0, 50_000.0])
def test_a_crash_costs_about_a_minute_at_most(rate: float) -> None:
    """One shard is computed while the one before is being written down; a row of work each is the least."""
    cut = sizes_at(rate, "fill-mask", False, 30)
    assert max(rows / rate for rows in cut) <= 64


def test_a_fast_model_soon_has_large_shards() -> None:
    for cuda in (False, True):
        cut = sizes_at(50_000.0, "embed", cuda, 12)
        assert cut[-1] == LARGEST


def test_large_shards_come_step_by_step() -> None:
    cut = sizes_at(50_000.0, "embed", True, 12)
    assert cut == [128, 512, 2048, 2048, 4096, 8192, *[LARGEST] * 6]


def test_answers_begin_with_small_shards() -> None:
    assert max(rows / 0.5 for rows in sizes_at(0.5, "chat", False, 10)) <= 64


def test_choices_are_recorded_together_before_work() -> None:
    recorded: list[list[tuple[int, int]]] = []
    sizes = ShardSizes((2, 3, 0), {0: 7}, recorded.append)
    assert [sizes(shard) for shard in range(4)] == [7, 3, 3, 3] and recorded == []
    sizes.record()
    sizes.record()
    assert recorded == [[(1, 3), (2, 3), (3, 3)]]


def test_a_run_in_which_all_is_done_has_shards_by_the_speed_of_the_run_before() -> None:
    sizes = ShardSizes((16, 64, 128, 0), expected=100.0)
    assert [sizes(shard) for shard in range(5)] == [16, 64, 128, 2048, 2048]
    sizes.measured(16, 16 / 2.0)  # what this run measures counts
    assert sizes(5) == 32 and sizes.rate == 0.0  # 16 rows say too little for another run
    sizes.measured(64, 64 / 2.0)
    assert sizes.rate == 2.0


@pytest.mark.parametrize(
    ("floats", "rows"), [(0, LARGEST), (768, LARGEST), (1024, 12_288), (4096, 3072), (10**9, SMALLEST)]
)
def test_wide_rows_make_small_shards(floats: int, rows: int) -> None:
    sizes = ShardSizes((128, 4096, 0), expected=50_000.0)
    sizes.hold(4 * floats)
    cut = [sizes(shard) for shard in range(8)]
    assert max(cut) == rows and (rows == SMALLEST or rows * 4 * floats <= RESULT_BYTES)
    assert cut[:2] == [min(128, rows), min(4096, rows)]


def test_rows_that_turn_out_to_be_wide_make_small_shards() -> None:
    sizes = ShardSizes((128, 4096, 0), expected=50_000.0)
    sizes.hold(240)
    sizes.weighed(4096, 4096 * 300)
    assert sizes(5) == LARGEST  # about what was known
    sizes.weighed(4096, 4096 * 60_000)
    assert [sizes(shard) for shard in (6, 7)] == [RESULT_BYTES // 60_000] * 2
    sizes.weighed(512, 512 * 300)
    assert sizes(8) == RESULT_BYTES // 60_000


def test_a_run_weighs_what_became_of_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install_in(tmp_path, monkeypatch, (64,))
    monkeypatch.setattr(pacing, "RESULT_BYTES", 2000)  # of rows with 50 bytes of results each
    write("a.csv", "id,text", *(f"{number},{number:050}" for number in range(640)))
    result = run_job(nightly())
    assert result.enriched == 640 and result.shards > 12  # of 64 rows they would be ten
