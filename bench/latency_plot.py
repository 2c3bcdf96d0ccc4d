"""Draw latency against arrival rate: p50 and p99 of both systems, logarithmic, one panel a workload."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from latency_report import Results
from seqserve_client.report import percentile

COLOURS = ("#1f6fb4", "#d1592a")
STYLES = {50: "-", 99: "--"}


def draw(collected: Sequence[Results], path: Path) -> None:
    """Write the picture."""
    figure, panels = plt.subplots(1, len(collected), figsize=(5.6 * len(collected), 5.2), squeeze=False)
    for axes, results in zip(panels[0], collected, strict=True):
        _panel(axes, results)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _panel(axes: Axes, results: Results) -> None:
    for system, colour in zip((results.ours, results.theirs), COLOURS, strict=True):
        fractions = [part for part in results.fractions() if results.pooled(system, part)]
        rates = [results.select(system, part)[0].rate for part in fractions]
        for percent, style in STYLES.items():
            values = [percentile(results.pooled(system, part), percent) for part in fractions]
            axes.plot(rates, values, style, color=colour, marker="o", markersize=3.5, label=f"{system} p{percent}")
    axes.axhline(results.slo_ms, color="#777777", linewidth=0.8, linestyle=":", label=f"limit, {results.slo_ms:.0f} ms")
    for system, colour in zip((results.ours, results.theirs), COLOURS, strict=True):
        axes.axvline(
            results.capacity(system), color=colour, linewidth=0.9, linestyle="-.",
            label=f"{system}'s capacity, 64 in flight",
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(left=0)
    axes.set_xlabel("arrivals per second (Poisson, open loop)")
    axes.set_ylabel("milliseconds from intended arrival to answer")
    axes.set_title(results.title, fontsize=9)
    axes.grid(visible=True, which="major", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    # Below: inside it would lie on one of the curves, whichever corner it took.
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)
