"""An alignment as a picture, and as pairs of numbers; ``attention_shades`` draws it in characters.

Takes a result of ``Client.score`` with its alignment, or of ``seqserve_server.in_process``, which has the same fields.
"""

import importlib
import sys
import warnings
from pathlib import Path
from typing import Any

from seqserve_cli import exits

SUFFIXES = (".png", ".svg", ".pdf")
MOST_INCHES = 60  # of a side's cells: beyond it they shrink, for a picture costs memory by its area


def weights_of(result: Any) -> list[list[float]]:
    """[target, source]."""
    return [[float(weight) for weight in row] for row in result.alignment]


def labels_of(result: Any) -> tuple[list[str], list[str]]:
    """Of the source's columns and the target's rows: entries, or without a tokenizer places and ids."""
    source = result.source_tokens or [str(place) for place in range(result.input_token_count)]
    return source, result.tokens or [str(token_id) for token_id in result.token_ids]


def pharaoh(result: Any) -> str:
    """The most attended source token of each target token, ties to the first: "0-0 2-1"."""
    rows = weights_of(result)
    return " ".join(f"{row.index(max(row))}-{place}" for place, row in enumerate(rows))


def require_drawing() -> None:
    """Raise a ModuleNotFoundError now, and not when everything has been computed."""
    importlib.import_module("matplotlib")


def draw(path: Path, result: Any, title: str) -> None:
    """A heat map with tokens on both axes. What the font lacks is told on stderr.

    Raises:
        CommandError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    source, target = labels_of(result)
    rows = weights_of(result)
    cell = min(0.3, MOST_INCHES / max(len(source), len(target)))
    size = (2.5 + cell * len(source), 2.0 + cell * max(len(target), 1))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    # Linear from none to all of it, so that two drawings can be compared.
    image = axes.imshow(rows or [[0.0] * len(source)], vmin=0.0, vmax=1.0, cmap="Blues", aspect="equal")
    # Tokens are no formulas, though they may hold two dollar signs.
    axes.set_xticks(range(len(source)), labels=source, rotation=90, parse_math=False)
    axes.set_yticks(range(len(target)), labels=target, parse_math=False)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("source", labelpad=8)
    axes.set_ylabel("target")
    figure.colorbar(image, ax=axes, label="attention", shrink=0.8)
    if title:
        figure.suptitle(title, fontsize="small", parse_math=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            figure.savefig(path, dpi=150)
        except OSError as error:
            raise exits.CommandError(f"{path}: {error.strerror}") from error
    if any("missing from" in str(warning.message) for warning in caught):
        print("seqserve: the drawing's font lacks letters of these tokens; --json has them all", file=sys.stderr)
