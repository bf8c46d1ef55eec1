"""How large shards are: about half a minute of work, so that a crash costs little and a fast model is not held up."""

from collections.abc import Callable

SECONDS = 30.0  # of work in a shard
SMALLEST, LARGEST = 16, 65_536  # rows


class ShardSizes:
    """Row targets of the shards of a run, in their order; what is chosen once is never chosen again."""

    def __init__(
        self,
        first: tuple[int, ...],
        fixed: dict[int, int] | None = None,
        fix: Callable[[int, int], None] = lambda shard, rows: None,
    ) -> None:
        """`first`: targets of the first shards, the last of them for all that follow until speed is measured; a
        schedule that ends with 0 is followed by measured targets. `fixed`: what earlier tries of this run chose;
        `fix(shard, rows)` records a choice.
        """
        self._measures = first[-1] == 0
        self._first = first[:-1] if self._measures else first
        self._fixed, self._fix = dict(fixed or {}), fix
        self._rate = 0.0  # rows a second

    def __call__(self, shard: int) -> int:
        if shard not in self._fixed:
            self._fixed[shard] = self._choose(shard)
            self._fix(shard, self._fixed[shard])
        return self._fixed[shard]

    def measured(self, rows: int, seconds: float) -> None:
        """A shard's `rows` took the models so long."""
        if rows and seconds > 0:
            rate = rows / seconds
            # Slower at once, faster by and by: a shard that is too large is what costs.
            self._rate = min(rate, (self._rate or rate) * 4)

    def expected(self, rows: int, rate: float) -> int:
        """About how many shards `rows` rows will make at `rate` rows a second."""
        first = [rows for rows in self._first if rows]
        self._rate, shards = rate, 0
        while rows > 0 and shards < len(first):
            rows -= first[shards]
            shards += 1
        return shards + -(-max(rows, 0) // self._choose(shards))

    def _choose(self, shard: int) -> int:
        if not self._measures or not self._rate or shard < len(self._first):
            return self._first[min(shard, len(self._first) - 1)]
        rows = max(1, int(self._rate * SECONDS))
        return max(SMALLEST, min(LARGEST, 1 << (rows.bit_length() - 1)))
