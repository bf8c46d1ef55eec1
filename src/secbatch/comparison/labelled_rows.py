"""What every objective has: rows of files, together in groups or each by itself."""

from collections.abc import Hashable, Sequence

from secbatch.comparison.predictions import Predicted, one_sentence
from secbatch.comparison.trained_on import trained_on
from secbatch.labelled.examples import DataFile


class LabelledRows:
    """n rows; `groups` is None where no row has one."""

    def __init__(self, groups: Sequence[str | None], files: Sequence[DataFile], notices: Sequence[str]) -> None:
        """`groups`: one for each row, None for a row without. `notices`: what reading the files has to say."""
        self.rows = len(groups)
        self.groups: Sequence[Hashable] | None = None
        if any(groups):  # a row without one, as of a CoNLL file without documents beside others, is one by itself
            self.groups = [row if group is None else group for row, group in enumerate(groups)]
        self.files = files
        self._notices = tuple(notices)

    def check(self, model: str) -> tuple[str, ...]:
        """Notices on a model before it is run; raises InputError for one that the labels do not fit."""
        return ()

    def notices(self, outcomes: Sequence[Predicted]) -> tuple[str, ...]:
        """What a user should know, one sentence each."""
        notices = list(self._notices)
        for outcome in outcomes:
            notices += trained_on(outcome.model, self.files)
            notices += [*outcome.notices, *one_sentence(outcome.errors, self.rows, outcome.model.name)]
        return tuple(notices)
