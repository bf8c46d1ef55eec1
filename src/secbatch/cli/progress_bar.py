"""The bar that a person watches."""

from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.constrain import Constrain
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

# A terminal that becomes narrower breaks a line that is longer, and its first half stays there: no longer than a usual
# window, however wide this one is.
MOST_COLUMNS = 80
MARGIN = 3  # columns: a terminal shows ^C at the cursor, and on a line of its own if there is no room for it


class ProgressBar(Progress):
    """One line, which goes when the work ends: also the one that Ctrl-C was pressed on."""

    def __init__(self, console: Console) -> None:
        self._terminal = console
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            # One column: on a narrow terminal all columns lose alike, and the share done is the last thing to lose.
            TextColumn("{task.percentage:>3.0f}% {task.fields[status]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        for drawn in super().get_renderables():
            yield Constrain(drawn, max(1, min(MOST_COLUMNS, self._terminal.width) - MARGIN))
