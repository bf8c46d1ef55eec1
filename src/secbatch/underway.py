"""Shards that a device has begun with and that are not durable yet."""

from secbatch.work_done import WorkDone


class Underway:
    """How far they are. One thread begins with shards, one ends them, any may look."""

    def __init__(self) -> None:
        self._shards: dict[int, tuple[int, WorkDone]] = {}

    def begin(self, shard: int, rows: int) -> WorkDone:
        """To be told how much of the shard's work is done."""
        work_done = WorkDone()
        self._shards[shard] = rows, work_done
        return work_done

    def end(self, shard: int) -> None:
        """It is durable, or nothing was to do."""
        self._shards.pop(shard, None)

    def rows(self) -> float:
        """As many as come to the work that is done: half of a hundred rows' work is fifty."""
        return sum(rows * work_done.share for rows, work_done in list(self._shards.values()))

    def held_up(self) -> str | None:
        """What one of them waits for at this moment, as a sentence."""
        return next((text for _, work_done in list(self._shards.values()) if (text := work_done.held_up)), None)
