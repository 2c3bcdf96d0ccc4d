"""Draw goodput against arrivals: whether a server that is asked for too much still does what it can."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from overload import Goodput

OURS, BESIDE = "#1f6fb4", "#777777"


def draw(curve: "Sequence[Goodput]", overload: "Goodput", closed: Sequence[float], path: Path) -> None:
    """Write the picture."""
    figure, axes = plt.subplots(figsize=(7.0, 3.8))
    points = [*curve, overload]
    rates, peak = [point.rate for point in points], max(point.good for point in curve)
    axes.plot(rates, [point.good for point in points], color=OURS, marker="o", markersize=4, label="answered in time")
    axes.plot(rates, [point.refused for point in points], "--", color="#d1592a", marker="o", markersize=3,
              linewidth=1, label="refused at once")
    axes.plot([0, peak], [0, peak], color=BESIDE, linewidth=0.8, linestyle=":", label="all that come")
    axes.axhline(sum(closed) / len(closed), color=BESIDE, linewidth=0.9, linestyle="-.",
                 label="64 in flight, closed loop")
    axes.annotate(
        f"{overload.good / peak:.0%} of the peak", (overload.rate, overload.good), xytext=(-8, -16),
        textcoords="offset points", ha="right", fontsize=8.5, color=OURS,
    )
    axes.set_xlim(0, 1.04 * overload.rate)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("arrivals per second (Poisson, open loop)")
    axes.set_ylabel("per second")
    axes.grid(visible=True, color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
