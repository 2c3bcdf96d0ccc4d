"""Draw tokens per second of all systems as bars, a panel a size, with how many times faster the last one is."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from comparison import Report

OURS, THEIRS = "#1f6fb4", "#b9b3a8"


def draw(report: Report, path: Path) -> None:
    """Write the picture: medians, whiskers from the slowest to the fastest round."""
    sizes = sorted(report.turns)
    figure, panels = plt.subplots(1, len(sizes), figsize=(3.1 * len(sizes) + 1.4, 3.6), sharey=True, squeeze=False)
    for axes, size in zip(panels[0], sizes, strict=True):
        _panel(axes, report, size)
    panels[0][0].set_yticks(range(len(report.systems)), list(report.systems))
    panels[0][0].invert_yaxis()  # of all panels, which share it
    subject = list(report.systems)[-1]
    figure.suptitle(f"{report.workload}; in brackets how many times faster {subject} is", fontsize=9)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _panel(axes: Axes, report: Report, size: int) -> None:
    subject = list(report.systems)[-1]
    spreads = {name: report.speed(size, name) for name in report.systems}
    most = max(spread.high for spread in spreads.values())
    for place, (name, spread) in enumerate(spreads.items()):
        axes.barh(
            place, spread.median, color=OURS if name.startswith("Seqserve") else THEIRS, height=0.7,
            xerr=[[spread.median - spread.low], [spread.high - spread.median]], error_kw={"elinewidth": 0.9},
        )
        note = f"{spread.median:.0f}"
        if name != subject:
            note += f"  ({report.ratio(size, name).median:.2f}x)"
        axes.text(spread.high + 0.02 * most, place, note, va="center", fontsize=7.5)
    axes.set_xlim(0, 1.5 * most)  # room for the figures
    axes.set_title(f"{size} row{'s' * (size > 1)}", fontsize=9)
    axes.set_xlabel("tokens/s", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
