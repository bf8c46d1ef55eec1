"""A first run shows what it has now and then; the more there is to show, the less often."""

from pathlib import Path
from typing import Any

import pytest
from fake_task import install_in
from nights import LINES, job, write

from secbatch import finished_shards
from secbatch.finished_shards import FinishedShards
from secbatch.runner import run_job


class Clock:
    """Five minutes for each shard."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(("takes", "shown"), [(1.0, [1, 4, 7, 10]), (90.0, [1, 8])])
def test_a_long_publication_is_followed_by_more_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takes: float, shown: list[int]
) -> None:
    install_in(tmp_path, monkeypatch, (10,))
    write("a.csv", "id,text,note", *LINES)
    clock, published = Clock(), []
    monkeypatch.setattr(finished_shards, "time", clock)
    add = FinishedShards.add

    def added(self: FinishedShards, *arguments: Any) -> None:
        clock.now += 300.0
        add(self, *arguments)

    publisher = finished_shards.Publisher
    publish = publisher.publish

    def watched(self: Any, checkpoints: Any, *arguments: Any, **more: Any) -> Any:
        clock.now += takes
        if not more["final"]:
            published.append(len(checkpoints))
        return publish(self, checkpoints, *arguments, **more)

    monkeypatch.setattr(FinishedShards, "add", added)
    monkeypatch.setattr(publisher, "publish", watched)
    run_job(job())
    assert published == shown
