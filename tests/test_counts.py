"""What a run counts: each row that it reads is enriched, reused or superseded, and no row is two of these."""

import random
from pathlib import Path
from typing import Any

import pytest
from fake_task import install_in, interrupted_after
from nights import WITH_ID, job, rows, write
from sampling import sampled

from secbatch.run_options import RunOptions
from secbatch.runner import RunResult, run_job

SENTENCES = {
    "input": {**WITH_ID, "sentences": "text"},
    "tasks": {"up": {"type": "fill-mask", "model": "fake", "text": "sentence"}},
}


def add_up(result: RunResult) -> bool:
    counts = (result.enriched, result.reused, result.superseded)
    return min(counts) >= 0 and sum(counts) == result.read


NIGHTS: dict[str, dict[str, Any]] = {"places": {}, "ids": {"input": WITH_ID}, "sentences": SENTENCES}


@pytest.mark.parametrize(
    ("shard_rows", "names", "partition_by"), sampled(2, [(3,), (7, 10), (1000,)], list(NIGHTS), [[], ["kind"]])
)
def test_nights_with_ids_that_come_again(
    shard_rows: tuple[int, ...],
    names: str,
    partition_by: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Half of the combinations, each two of their values together; all of them in the soak."""
    counter, night = install_in(tmp_path, monkeypatch, shard_rows), NIGHTS[names]
    chance = random.Random(5)
    texts = ["POISON", "", "One. Two.", "Three. Four. Five.", "Six."]
    night = {"max_rejects": "100%", **night, "output": {"path": "out", "partition_by": partition_by}}
    for number in range(5):
        for name in ("a.csv", "b.csv"):
            lines = [f"{chance.randrange(25)},{chance.choice(texts)},{chance.randrange(2)}" for _ in range(30)]
            write(name, "id,text,kind", *lines)
        if number == 3:
            run_job(job(**night), options=RunOptions(limit=40))
        before = counter.rows
        result = run_job(job(**night))
        assert add_up(result)
        key = ["id", "sentence_index"] if "sentences" in night.get("input", {}) else ["id"]
        if night.get("input"):
            found = rows()
            assert result.enriched + result.reused <= len(found) == len(found.drop_duplicates(key))
        assert result.enriched <= counter.rows - before
        assert add_up(run_job(job(**night)))


def test_models_may_have_run_for_a_superseded_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    counter = install_in(tmp_path, monkeypatch, (7, 10))
    write("a.csv", "id,text", *(f"{n},word {n}" for n in range(20)))
    write("b.csv", "id,text", *(f"{n},later {n}" for n in range(15)))
    with interrupted_after(11):
        run_job(job(input=WITH_ID))
    done = counter.rows
    result = run_job(job(input=WITH_ID))  # goes on
    assert add_up(result) and (result.read, result.superseded) == (35, 15)
    assert result.enriched <= counter.rows - done
    write("a.csv", "id,text", *(f"{n},{'word' if n % 2 else 'new'} {n}" for n in range(20)))
    result = run_job(job(input=WITH_ID))  # of the superseded rows some are worked on, some were known
    assert add_up(result) and (result.superseded, len(rows())) == (15, 20)
    assert (result.enriched, result.reused) == (2, 18)  # 16 and 18 are new, and stay
