"""Draw the dashboard's panels as Grafana lays them out, from what Prometheus answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FuncFormatter

if TYPE_CHECKING:  # it lies in deploy/, which the script that draws has put on its path by then
    from monitoring_files import Panel, Row


@dataclass(frozen=True)
class Line:
    """A legend, and values over seconds."""

    name: str
    points: list[tuple[float, float]]


def draw(rows: "Sequence[Row]", lines: Mapping[str, Sequence[Line]], path: Path) -> None:
    """Write the picture; ``lines`` are by panels' titles."""
    columns = max(len(row.panels) for row in rows)
    figure, grid = plt.subplots(len(rows), columns, figsize=(6.2 * columns, 3.3 * len(rows)), squeeze=False)
    for place, row in enumerate(rows):
        for axes, panel in zip(grid[place], row.panels, strict=True):
            _panel(axes, panel, lines[panel.title])
        grid[place][0].annotate(
            row.title, (0, 1), (-46, 26), xycoords="axes fraction", textcoords="offset points", fontsize=13,
            fontweight="bold",
        )
    figure.tight_layout(h_pad=2.2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=75)
    plt.close(figure)


def _panel(axes: Axes, panel: "Panel", lines: Sequence[Line]) -> None:
    if panel.stacked:
        moments = sorted({moment for line in lines for moment, _ in line.points})
        values = [[dict(line.points).get(moment, 0.0) for moment in moments] for line in lines]
        axes.stackplot(moments, values, labels=[line.name for line in lines], alpha=0.75)
    else:
        for line in lines:
            axes.plot(*zip(*line.points, strict=True), label=line.name, linewidth=1.3)
    axes.set_title(panel.title, fontsize=10, loc="left")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} s"))
    if panel.unit == "percentunit":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    elif panel.unit in ("s", "bytes"):
        axes.yaxis.set_major_formatter(EngFormatter({"s": "s", "bytes": "B"}[panel.unit]))
    else:
        suffix = " /s" if panel.unit == "reqps" else ""
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}{suffix}"))
    axes.grid(visible=True, color="#e4e4e4", linewidth=0.6)
    axes.tick_params(labelsize=8)
    axes.set_axisbelow(True)
    if lines:
        axes.legend(fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False)
