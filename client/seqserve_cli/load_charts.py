"""The curves of a load test, drawn by matplotlib: latency against rate for a sweep, latency over time for one run."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from seqserve_client.report import Sample

if TYPE_CHECKING:  # only who draws needs matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart with red-green blindness too (Okabe and Ito); the worst percentile is the darkest line.
COLOURS = {
    "p50": "#56b4e9", "p95": "#e69f00", "p99": "#a3123f", "good": "#009e73", "done": "#0072b2", "limit": "#777777",
}
CODE_COLOURS = ("#a3123f", "#d55e00", "#e69f00", "#cc79a7", "#777777", "#000000")
INTENDED = "from the intended send time"


def sweep_figure(results: Sequence[Mapping[str, Any]], limits: Mapping[str, float]) -> "Figure":
    """Latency, throughput, time to first token (or tokens) and failures, each against the rate."""
    ordered = sorted(results, key=lambda result: result["request_rate"])
    figure, (latency, done, third, failures) = _panels()
    _percentiles(latency, ordered, "e2el", limits)
    latency.set_title(f"End-to-end latency, {INTENDED}")
    _throughput(done, ordered)
    if any(result["p50_ttft_ms"] is not None for result in ordered):
        _percentiles(third, ordered, "ttft", limits)
        third.set_title(f"Time to first token, {INTENDED}")
    else:
        third.plot(_rates(ordered), [result["output_throughput"] for result in ordered], "o-", color=COLOURS["done"])
        third.set(title="Generated tokens", ylabel="tokens per second", ylim=(0, None))
    _failures(failures, ordered)
    for axes in (latency, done, third, failures):
        axes.set_xlabel("offered rate, requests per second")
        axes.set_xlim(left=0)
    return figure


def run_figure(result: Mapping[str, Any], samples: Sequence[Sample], limits: Mapping[str, float]) -> "Figure":
    """Latency over time, its percentiles, requests in flight and what became of them; samples with the ramp's."""
    ramp = result["ramp_seconds"]
    figure, (over_time, curve, flight, outcomes) = _panels()
    for axes in (over_time, flight):
        if ramp:
            axes.axvspan(0, ramp, color="#eeeeee", label="ramp, not counted")
    _latency_over_time(over_time, samples, limits)
    _percentile_curve(curve, [sample for sample in samples if sample.intended >= ramp], limits)
    _in_flight(flight, result, samples)
    _outcomes(outcomes, result)
    return figure


def _panels() -> "tuple[Figure, list[Axes]]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8.4))
    figure.set_layout_engine("constrained", hspace=0.06)
    axes = [figure.add_subplot(2, 2, place) for place in range(1, 5)]
    for each in axes:
        each.grid(alpha=0.25, linewidth=0.8)
        each.spines[["top", "right"]].set_visible(False)
        each.title.set_fontsize("medium")
    return figure, axes


def _rates(results: Sequence[Mapping[str, Any]]) -> list[float]:
    return [result["request_rate"] for result in results]


def _percentiles(axes: "Axes", results: Sequence[Mapping[str, Any]], metric: str, limits: Mapping[str, float]) -> None:
    """p50, p95 and p99 of one metric against the rate; a rate at which nothing succeeded is a gap."""
    for name in ("p99", "p95", "p50"):
        values = [result[f"{name}_{metric}_ms"] for result in results]
        heights = [math.nan if value is None else value for value in values]
        axes.plot(_rates(results), heights, "o-", markersize=4, color=COLOURS[name], label=name)
    _limit(axes, limits.get(metric))
    _log_milliseconds(axes)
    _legend(axes)


def _throughput(axes: "Axes", results: Sequence[Mapping[str, Any]]) -> None:
    rates = _rates(results)
    axes.plot([0, max(rates)], [0, max(rates)], "--", color=COLOURS["limit"], linewidth=1, label="offered")
    completed = [result["request_throughput"] for result in results]
    axes.plot(rates, completed, "o-", color=COLOURS["done"], label="completed")
    if all(result["request_goodput"] is not None for result in results):
        axes.plot(
            rates, [result["request_goodput"] for result in results], "s-", color=COLOURS["good"],
            label="within the limits (goodput)",
        )
    axes.set(title="Throughput", ylabel="requests per second", ylim=(0, None))
    _legend(axes)


def _failures(axes: "Axes", results: Sequence[Mapping[str, Any]]) -> None:
    """Parts of all requests by code, as bars on the rates."""
    rates = _rates(results)
    codes = sorted({code for result in results for code in result["errors"]})
    gaps = [after - before for before, after in zip([0.0, *rates[:-1]], rates, strict=True)]
    width = min(gaps) * 0.6
    bottom = [0.0] * len(rates)
    for place, code in enumerate(codes):
        totals = [max(1, result["completed"] + result["failed"]) for result in results]
        parts = [100 * result["errors"].get(code, 0) / all_ for result, all_ in zip(results, totals, strict=True)]
        axes.bar(rates, parts, width, bottom, color=CODE_COLOURS[place % len(CODE_COLOURS)], label=code)
        bottom = [below + part for below, part in zip(bottom, parts, strict=True)]
    axes.set(title="Failed requests", ylabel="% of requests", ylim=(0, max(1.0, *bottom) * 1.15))
    axes.set_xlim(right=max(rates) + width)
    if codes:
        _legend(axes)
    else:
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", va="center", color=COLOURS["limit"])


def _latency_over_time(axes: "Axes", samples: Sequence[Sample], limits: Mapping[str, float]) -> None:
    """A point for each request; many are drawn as pixels, for a page with a hundred thousand shapes is slow."""
    kinds = sorted({sample.kind for sample in samples})
    palette = (COLOURS["done"], COLOURS["p95"], COLOURS["good"], *CODE_COLOURS)
    for place, kind in enumerate(kinds):
        good = [sample for sample in samples if sample.kind == kind and sample.error is None]
        axes.scatter(
            [sample.intended for sample in good], [_e2el(sample) for sample in good], s=9, alpha=0.55, linewidths=0,
            color=palette[place % len(palette)], label=kind, rasterized=len(samples) > 2000,
        )
    failed = [sample for sample in samples if sample.error is not None]
    if failed:
        axes.scatter(
            [sample.intended for sample in failed], [_e2el(sample) for sample in failed], s=22, marker="x",
            color=COLOURS["p99"], linewidths=1.2, label="failed", rasterized=len(samples) > 2000,
        )
    _limit(axes, limits.get("e2el"))
    _log_milliseconds(axes)
    axes.set(title=f"Each request's end-to-end latency, {INTENDED}", xlabel="intended send time, seconds")
    _legend_below(axes)


def _percentile_curve(axes: "Axes", samples: Sequence[Sample], limits: Mapping[str, float]) -> None:
    """Latency against percentile, with as much room between 99 and 99.9 as between 0 and 90."""
    from matplotlib.ticker import NullLocator

    values: dict[str, list[float]] = {}
    for sample in samples:
        if sample.error is None:
            for name, added in sample.milliseconds().items():
                values.setdefault(name, []).extend(added)
    drawn = {
        "e2el": ("end to end", COLOURS["p99"], "-"),
        "e2el_from_send": ("end to end, from the actual send", COLOURS["p99"], ":"),
        "ttft": ("time to first token", COLOURS["done"], "-"),
        "itl": ("between messages of a stream", COLOURS["good"], "-"),
    }
    most = 10.0
    for name, (label, colour, style) in drawn.items():
        if ordered := sorted(values.get(name, [])):
            count = len(ordered)
            most = max(most, 2.0 * count)
            # The k-th of n samples is all percentiles from (k - 1) / n to k / n: of the largest one, a part is drawn.
            places = [1.0, *(count / (count - rank) for rank in range(1, count)), 2.0 * count]
            axes.step(places, [ordered[0], *ordered], style, where="pre", color=colour, label=label)
    _limit(axes, limits.get("e2el"))
    axes.set_xscale("log")
    ticks = {1 / (1 - part): f"{100 * part:g}" for part in (0, 0.5, 0.9, 0.99, 0.999, 0.9999)}
    axes.set_xticks([place for place in ticks if place <= most], [ticks[place] for place in ticks if place <= most])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(1, most)
    _log_milliseconds(axes)
    # Two messages that are read at once are nothing apart, and a logarithm of nothing has no end.
    axes.set_ylim(bottom=max(0.1, axes.get_ylim()[0]))
    axes.set(title="Percentiles of latency", xlabel="percentile")
    if values:
        _legend(axes)


def _in_flight(axes: "Axes", result: Mapping[str, Any], samples: Sequence[Sample]) -> None:
    """Requests sent and not answered, and what waited in the server as it says itself."""
    from matplotlib.ticker import MaxNLocator

    steps = sorted([(sample.sent, 1) for sample in samples] + [(sample.ended, -1) for sample in samples])
    times, counts, now = [0.0], [0], 0
    for second, step in steps:
        now += step
        times.append(second)
        counts.append(now)
    axes.step(times, counts, where="post", color=COLOURS["done"], linewidth=1, label="sent and not answered")
    series = (result.get("server") or {}).get("series")
    if series:
        seconds = [record["seconds"] for record in series]
        axes.plot(seconds, [record["waiting"] for record in series], "o-", markersize=3, color=COLOURS["p95"],
                  label="waiting in the server")
    axes.set(title="Requests in flight", xlabel="seconds", ylabel="requests", ylim=(0, None))
    axes.set_xlim(left=0)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    _legend_below(axes)


def _outcomes(axes: "Axes", result: Mapping[str, Any]) -> None:
    """How many requests were good, merely completed, or failed with which code."""
    bars: list[tuple[str, int, str]]
    if result["request_goodput"] is None:
        bars = [("completed", result["completed"], COLOURS["done"])]
    else:
        good = round(result["request_goodput"] * result["duration"])
        bars = [
            ("within the limits", good, COLOURS["good"]),
            ("completed, too slow", result["completed"] - good, COLOURS["p95"]),
        ]
    codes = sorted(result["errors"].items(), key=lambda item: -item[1])
    bars += [(code, count, CODE_COLOURS[place % len(CODE_COLOURS)]) for place, (code, count) in enumerate(codes)]
    bars.reverse()  # the first at the top
    drawn = axes.barh([name for name, _, _ in bars], [count for _, count, _ in bars], 0.6,
                      color=[colour for _, _, colour in bars])
    axes.bar_label(drawn, padding=4)
    axes.set(title="What became of the requests", xlabel="requests")
    axes.margins(x=0.12)
    axes.set_ylim(len(bars) - 3.6 if len(bars) < 3 else -0.6, len(bars) - 0.4)
    axes.grid(axis="y", visible=False)


def _e2el(sample: Sample) -> float:
    return (sample.ended - sample.intended) * 1000


def _legend(axes: "Axes") -> None:
    axes.legend(loc="best", fontsize="small", framealpha=0.85, edgecolor="none")


def _legend_below(axes: "Axes") -> None:
    """Where points are all over the axes."""
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=5, fontsize="small", edgecolor="none")


def _limit(axes: "Axes", milliseconds: float | None) -> None:
    if milliseconds is not None:
        axes.axhline(milliseconds, color=COLOURS["limit"], linestyle="--", linewidth=1)
        axes.annotate(
            f"limit {milliseconds:g} ms", (0.995, milliseconds), xycoords=("axes fraction", "data"), ha="right",
            va="bottom", fontsize="small", color="#444444",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1},
        )


def _log_milliseconds(axes: "Axes") -> None:
    """A logarithmic axis of plain numbers: a tail ten times as long is seen beside the median."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = axes.get_ylim()
    # Within a decade there would be one labelled tick, or none.
    minor = FuncFormatter(lambda value, _: f"{value:g}" if str(f"{value:e}")[0] in "25" else "")
    axes.yaxis.set_minor_formatter(minor if high / low < 1000 else NullFormatter())
    axes.set_ylabel("milliseconds")
