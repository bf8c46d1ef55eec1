"""The training curve as a picture."""

from pathlib import Path
from typing import Any

from secbatch.quiet_matplotlib import quiet_matplotlib


def draw_curve(record: dict[str, Any], path: Path) -> None:
    """Loss on both sides, and the metric that the best epoch was chosen by, over the epochs."""
    with quiet_matplotlib():
        from matplotlib import rc_context

        # A user's own settings may have LaTeX write all texts: it need not be there, and f1_micro is none of its words.
        with rc_context({"text.usetex": False}):
            _draw(record, path)


def _draw(record: dict[str, Any], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    history, metric = record["history"], record["chosen_by"]
    epochs = [entry["epoch"] for entry in history]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(epochs, [entry["train_loss"] for entry in history], "o-", color="tab:gray", label="loss, training")
    axes.plot(epochs, [entry["dev"]["loss"] for entry in history], "o-", color="tab:blue", label="loss, dev")
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.axvline(record["best_epoch"], color="tab:green", linestyle=":", label="kept")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    lines, names = axes.get_legend_handles_labels()
    if metric != "loss":
        other = axes.twinx()
        other.plot(
            epochs, [entry["dev"][metric] for entry in history], "s-", color="tab:orange", label=f"{metric}, dev"
        )
        other.set_ylabel(metric)
        more = other.get_legend_handles_labels()
        lines, names = lines + more[0], names + more[1]
    figure.legend(lines, names, loc="outside lower center", ncols=len(names))
    axes.set_title(f"{record['name']} ({record['objective']})")
    figure.savefig(path, dpi=110)
