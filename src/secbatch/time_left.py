"""How long a run goes on."""

from collections import deque

TELLING = 0.05  # of the input: where less was reached at once, the time for it is mostly that of loading a model
MOMENT = 1.0  # seconds: steps in less say nothing, unless so much of the input was reached by them
# Seconds that tell how fast it goes; what was before them (a model that was loaded, rows that were done already) says
# nothing. As far back as there is to go, within these bounds.
LEAST, MOST = 15.0, 300.0


class TimeLeft:
    """An estimate by how far the run has come lately. For one thread at a time."""

    def __init__(self, begin: float) -> None:
        """`begin`: the monotonic time at which the run began, unless it is told that nothing is done yet."""
        self._begin = begin
        self._begun = False
        self._marks: deque[tuple[float, float]] = deque()  # when it had come how far
        self._window = MOST

    def seconds(self, now: float, fraction: float) -> float | None:
        """`fraction` (0 to 1) is done at the monotonic time `now`; None while there is nothing to tell it by."""
        if not fraction and not self._begun:
            self._begin, self._begun = now, True
        if fraction and (not self._marks or fraction > self._marks[-1][1]):
            self._marks.append((now, fraction))
        while len(self._marks) > 2 and self._marks[1][0] < now - self._window:
            self._marks.popleft()
        if not self._marks:
            return None
        (first, before), (last, done) = self._marks[0], self._marks[-1]
        if last - first < MOMENT and done - before < TELLING:
            if done < TELLING:
                return None
            first, before = self._begin, 0.0  # as if it had gone as slowly from the start
        usual = (last - first) / max(len(self._marks) - 1, 1)  # between two marks
        due = min(now - last, usual)  # of the time for the next one; what is beyond that makes the run a slower one
        late = now - last - due
        left = max(0.0, (last - first + late) * (1 - done) / (done - before) - due)
        self._window = min(max(left, LEAST), MOST)
        return left
