"""How long a run goes on."""

from collections import deque

TELLING = 0.05  # of the input: where less was reached at once, the time for it is mostly that of loading a model
WINDOW = 300.0  # seconds that tell how fast it goes; what was before them (a model that was loaded) says nothing


class TimeLeft:
    """An estimate by how far the run has come lately. For one thread at a time."""

    def __init__(self, begin: float) -> None:
        """`begin`: the monotonic time at which the run began."""
        self._begin = begin
        self._marks: deque[tuple[float, float]] = deque()  # when it had come how far

    def seconds(self, now: float, fraction: float) -> float | None:
        """`fraction` (0 to 1) is done at the monotonic time `now`; None while there is nothing to tell it by."""
        if fraction and (not self._marks or fraction > self._marks[-1][1]):
            self._marks.append((now, fraction))
        while len(self._marks) > 2 and self._marks[1][0] < now - WINDOW:
            self._marks.popleft()
        if not self._marks or (len(self._marks) == 1 and self._marks[0][1] < TELLING):
            return None
        last, done = self._marks[-1]
        # From one mark alone: as if it had gone as slowly from the start.
        first, before = self._marks[0] if len(self._marks) > 1 else (self._begin, 0.0)
        usual = (last - first) / max(len(self._marks) - 1, 1)  # between two marks
        due = min(now - last, usual)  # of the time for the next one; what is beyond that makes the run a slower one
        late = now - last - due
        return max(0.0, (last - first + late) * (1 - done) / (done - before) - due)
