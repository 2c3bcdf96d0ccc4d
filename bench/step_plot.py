"""Draw what steps cost: by rows, valid length and capacity, and the encoder by length; medians, the quarters shaded."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from step_cost import BASE_LENGTH, BASE_ROWS, BASE_SOURCE, SWEEPS, Costs

COLOURS = ("#1f6fb4", "#d1592a")
Lines = dict[str, tuple[list[int], list[list[float]]]]


def draw(costs: Costs, name: str, path: Path) -> None:
    """Write the picture."""
    figure, panels = plt.subplots(2, 2, figsize=(9.6, 6.8))
    _panel(panels[0][0], "rows decoded in one step", "ms a step", _steps(costs, "rows"))
    _panel(panels[0][1], f"valid positions, of the target or of the source; {BASE_ROWS} rows", "ms a step", {
        "target": _steps(costs, "length")[""], "source": _steps(costs, "source")[""],
    })
    _panel(panels[1][0], f"capacity in target positions; {BASE_ROWS} rows, {BASE_LENGTH} valid", "ms a step",
           _steps(costs, "capacity"))
    encodings: Lines = {}
    for case, times in costs.encodings.items():
        places, values = encodings.setdefault(f"{case.sources} source{'s' * (case.sources > 1)}", ([], []))
        places.append(case.length)
        values.append(times)
    _panel(panels[1][1], "source tokens of each", "ms to encode", encodings)
    title = f"{name}; {BASE_LENGTH} target and {BASE_SOURCE} source positions unless the axis says otherwise"
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _steps(costs: Costs, name: str) -> Lines:
    cases = SWEEPS[name]
    return {"": ([getattr(case, name) for case in cases], [costs.steps[case] for case in cases])}


def _panel(axes: Axes, what: str, unit: str, lines: Lines) -> None:
    for (label, (places, values)), colour in zip(lines.items(), COLOURS, strict=False):
        found = [quarters(times) for times in values]
        axes.plot(places, [middle for _, middle, _ in found], marker="o", markersize=3.5, color=colour, label=label)
        axes.fill_between(
            places, [low for low, _, _ in found], [high for _, _, high in found], color=colour, alpha=0.2,
            linewidth=0,
        )
    axes.set_xlim(left=0)  # linear, so that what is proportional looks it
    axes.set_ylim(bottom=0)
    axes.set_xlabel(what, fontsize=8.5)
    axes.set_ylabel(unit, fontsize=8.5)
    axes.tick_params(labelsize=8)
    axes.grid(visible=True, color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    if len(lines) > 1:
        axes.legend(fontsize=8, frameon=False)


def quarters(times: Sequence[float]) -> tuple[float, float, float]:
    """First quarter, median, third quarter."""
    low, middle, high = statistics.quantiles(times, n=4)
    return low, middle, high
