"""The encoder benchmark's figures as a table and as a picture."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table


def show(found: dict[str, Any]) -> None:
    console = Console(highlight=False, width=140)
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    console.print(f"\n{found['machine']}, {found['device']}; {versions}")
    console.print(
        f"RoBERTa-base shape, {found['sentences']:,} sentences of {found['tokens_per_sentence']:.1f} tokens, medians of"
        f" {found['rounds']} rounds in turn. A peer is measured on n sentences drawn alike."
    )
    lines = [line for one in found["measured"] for line in one["lines"]]
    ours = [line for line in lines if line["setting"] == "CSV to Parquet"]
    precisions = list(dict.fromkeys(line["precision"] for line in ours))
    table = Table("task", "who", "setting", "precision")
    for title in ("n", "padding", "sentences/s", *(f"secbatch {kind}" for kind in precisions)):
        table.add_column(title, justify="right")
    for line in lines:
        ratios = []
        for kind in precisions:
            peer = line["who"] != "secbatch"
            same = [one for one in ours if (one["task"], one["precision"]) == (line["task"], kind)]
            ratios.append(f"{ratio(same[0], line):.2f} ×" if peer and same else "")
        figures = (f"{line['n']:,}", f"{line['padding']:.1%}", f"{line['rate']:,.1f}")
        table.add_row(line["task"], line["who"], line["setting"], line["precision"], *figures, *ratios)
    console.print(table)
    for one in found["measured"]:
        console.print(
            f"{one['task']}, {one['precision']}: linear layers of real tokens at {one['share']:.0%} of the rate of"
            f" matrix products beside it ({one['gemm_median'] / 1e9:,.0f} GFLOP/s in the middle,"
            f" {one['gemm_best'] / 1e9:,.0f} at best; best of best {one['share_of_best']:.0%};"
            f" {one['share_counting_skipped_work']:.0%} when the work that is left out counts as done);"
            f" end to end {one['end_to_end_of_alone']:.0%} of the model alone; starting {one['starting_seconds']:.1f} s"
        )
        if one["device_busy"] is not None:
            console.print(f"  the GPU had work {one['device_busy']:.1%} of the time from its first batch to its last")
        stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in one["stages"].items())
        console.print(f"  seconds of the last run's stages, which overlap: {stages}")
    for one in found.get("float32_on_gpu_and_cpu", ()):
        console.print(
            f"{one['task']}: float32 on GPU and CPU differ by {one['largest_difference']:.1e} at most,"
            f" {one['words_that_differ']} words differ (n = {one['n']})"
        )


def ratio(ours: dict[str, Any], peer: dict[str, Any]) -> float:
    """Of the same rounds, the one in the middle."""
    if ours["precision"] != peer["precision"]:
        return float(ours["rate"] / peer["rate"])
    return float(np.median(np.divide(ours["rates"], peer["rates"])))


def draw(found: dict[str, Any], target: Path) -> None:
    """Bars of sentences a second, a panel for each task."""
    if not find_spec("matplotlib"):
        print(f"matplotlib is not installed, so {target} is not drawn (pip install 'secbatch[bench]').")
        return
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "secbatch"  # the same figures give the same file
    from matplotlib import pyplot

    lines = [line for one in found["measured"] for line in one["lines"] if line["setting"] != "model alone"]
    tasks = list(dict.fromkeys(line["task"] for line in lines))
    heights = [sum(line["task"] == task for line in lines) for task in tasks]
    figure, panels = pyplot.subplots(
        len(tasks), 1, figsize=(8, 1.0 + 0.42 * sum(heights)), squeeze=False, height_ratios=heights
    )
    for task, panel in zip(tasks, panels[:, 0], strict=True):
        own = sorted((line for line in lines if line["task"] == task), key=lambda line: line["rate"])
        names = [f"{line['who']}, {line['precision']}" for line in own]
        colours = ["#1f6f8b" if line["who"] == "secbatch" else "#b8c4cc" for line in own]
        bars = panel.barh(names, [line["rate"] for line in own], color=colours)
        panel.bar_label(bars, [f"{line['rate']:,.0f}/s" for line in own], padding=3)
        panel.set_title(f"{task}: sentences a second", loc="left", fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(x=0.12)
    figure.suptitle(
        f"RoBERTa-base shape, {found['tokens_per_sentence']:.0f} tokens a sentence, {found['device']}", fontsize=10
    )
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})
    pyplot.close(figure)
