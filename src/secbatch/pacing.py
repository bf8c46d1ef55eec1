"""How large shards are: about half a minute of work, so that a crash costs little and a fast model is not held up."""

from collections.abc import Callable

SECONDS = 30.0  # of work in a shard
SMALLEST, LARGEST = 16, 16_384  # rows
EASY = 2048  # rows; larger shards grow step by step, so that the next is read before the one before it is computed
RESULT_BYTES = 48 << 20  # of a shard: several of them are in memory at a time
TELLING = 64  # rows of a shard whose time says something about a long run


class ShardSizes:
    """Row targets of the shards of a run, in their order; what is chosen once is never chosen again."""

    def __init__(
        self,
        first: tuple[int, ...],
        fixed: dict[int, int] | None = None,
        fix: Callable[[list[tuple[int, int]]], None] = lambda chosen: None,
        expected: float = 0.0,
    ) -> None:
        """`first`: targets of the first shards, the last of them for all that follow until speed is measured; a
        schedule that ends with 0 is followed by measured targets. `fixed`: what earlier tries of this run chose;
        `fix([(shard, rows), …])` records choices. `expected`: rows a second of the run before, 0 if not known.
        """
        self._measures = first[-1] == 0
        self._first = first[:-1] if self._measures else first
        self._fixed, self._fix = dict(fixed or {}), fix
        self._unrecorded: list[tuple[int, int]] = []
        self._rate = 0.0  # rows a second
        self._most = 0  # rows of the largest shard that was measured
        self._expected = expected
        self._largest = LARGEST
        self._row_bytes = 0

    def hold(self, row_bytes: int) -> None:
        """What becomes of a row takes so many bytes, as far as that is known beforehand: large rows, smaller shards."""
        self._largest = max(SMALLEST, min(self._largest, RESULT_BYTES // max(1, row_bytes)))
        self._row_bytes = row_bytes

    def weighed(self, rows: int, size: int) -> None:
        """What became of a shard's `rows` takes `size` bytes: where texts have many masks, far more than was known."""
        if size > 2 * self._row_bytes * rows:
            self.hold(size // max(1, rows))

    def __call__(self, shard: int) -> int:
        if shard not in self._fixed:
            self._fixed[shard] = self._choose(shard)
            self._unrecorded.append((shard, self._fixed[shard]))
        return self._fixed[shard]

    def settled(self, shard: int) -> bool:
        """Whether more is not known of the target of `shard` once one before it is done."""
        known = bool(self._rate or self._expected) or not self._measures
        return known or shard in self._fixed or shard < len(self._first)

    def record(self) -> None:
        """Records what was chosen; to be called before a shard becomes work.

        Shards without work leave nothing behind that would have to be found again, and in a dataset that has not
        changed they are all there is: no transaction for each of them.
        """
        if self._unrecorded:
            self._fix(self._unrecorded)
            self._unrecorded = []

    @property
    def rate(self) -> float:
        """Rows a second of this run's models, 0 where too few rows were measured to tell."""
        return self._rate if self._most >= TELLING else 0.0

    def measured(self, rows: int, seconds: float) -> None:
        """A shard's `rows` took the models so long."""
        if rows and seconds > 0:
            rate = rows / seconds
            # Slower at once, faster by and by: a shard that is too large is what costs.
            self._rate = min(rate, (self._rate or rate) * 4)
            self._most = max(self._most, rows)

    def expected(self, rows: int, rate: float) -> int:
        """About how many shards `rows` rows will make at `rate` rows a second."""
        first = [rows for rows in self._first if rows]
        self._rate, shards = rate, 0
        while rows > 0 and shards < len(first):
            rows -= first[shards]
            shards += 1
        return shards + -(-max(rows, 0) // self._choose(shards))

    def _choose(self, shard: int) -> int:
        rate = self._rate or self._expected
        if not self._measures or not rate or shard < len(self._first):
            return min(self._largest, self._first[min(shard, len(self._first) - 1)])
        before = self._fixed.get(shard - 1, LARGEST)
        rows = max(1, min(int(rate * SECONDS), 2 * max(before, EASY)))
        return max(SMALLEST, min(self._largest, 1 << (rows.bit_length() - 1)))
