"""Draw what length costs: step time, state, encoder time; medians, the quarters shaded, the laws of theory dashed."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from length_laws import DEGREES, STEP_DEGREES, Costs, Times, fitted, medians
from step_plot import quarters

ATTENTION, RETENTION, RECURRENT, CONVOLUTION = "#1f6fb4", "#d1592a", "#3d8b52", "#7b5ea7"
COLOURS = {
    "transformer": ATTENTION, "self-attention": ATTENTION, "retention": RETENTION, "recurrent": RECURRENT,
    "GRU": RECURRENT, "convolution": CONVOLUTION,
}
NAMES = {
    "transformer": "KV cache (Transformer), O(n d)", "retention": "retention (RetNet), O(d²)",
    "recurrent": "GRU, O(d²)", "self-attention": "self-attention, O(n² d)", "GRU": "GRU, O(n d²)",
    "convolution": "convolution, O(k n d²)",
}


def draw(costs: Costs, title: str, path: Path) -> None:
    """Write the picture."""
    figure, panels = plt.subplots(1, 3, figsize=(12.6, 4.2))
    _times(panels[0], costs.steps, STEP_DEGREES, "target position", "ms a step")
    _state(panels[1], costs.state)
    _times(panels[2], costs.encodings, DEGREES, "source tokens", "ms to encode one source")
    explained = "dots are medians, shades quarters, dashes the fitted law with its lower powers"
    figure.suptitle(f"{title}; {explained}", fontsize=9)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _times(axes: Axes, times: Times, degrees: Mapping[str, int], what: str, unit: str) -> None:
    for name, by_length in times.items():
        lengths = sorted(by_length)
        found = [quarters(by_length[length]) for length in lengths]
        axes.plot(
            lengths, [middle for _, middle, _ in found], "o", markersize=4, color=COLOURS[name], label=NAMES[name]
        )
        low, high = [each[0] for each in found], [each[2] for each in found]
        axes.fill_between(lengths, low, high, color=COLOURS[name], alpha=0.2, linewidth=0)
        law = fitted(medians(by_length), degrees[name])
        places = np.geomspace(lengths[0], lengths[-1], 100)
        axes.plot(places, [law.at(place) for place in places], "--", linewidth=1, color=COLOURS[name])
    _dress(axes, what, unit)


def _state(axes: Axes, state: Mapping[str, Mapping[int, int]]) -> None:
    for name, by_length in state.items():
        lengths = sorted(by_length)
        sizes = [by_length[length] / 1024 for length in lengths]
        axes.plot(lengths, sizes, "o-", markersize=4, linewidth=1, color=COLOURS[name], label=NAMES[name].split(",")[0])
    _dress(axes, "target position", "KiB of state a row")


def _dress(axes: Axes, what: str, unit: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_xlabel(what, fontsize=8.5)
    axes.set_ylabel(unit, fontsize=8.5)
    axes.tick_params(labelsize=8)
    axes.grid(visible=True, color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False)
