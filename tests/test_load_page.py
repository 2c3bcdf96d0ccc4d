"""The report of a load test: what the curves show, and pages of results of which much is missing."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from seqserve_cli.load_charts import run_figure, sweep_figure
from seqserve_cli.load_page import write
from seqserve_client.report import Part, Sample, clients, kinds, result

SETTINGS: dict[str, Any] = {
    "date": "2026-11-21 12:00:00 UTC", "target": "host:1", "model_id": "m", "model": "m <b> (t5)",
    "machine": "a machine", "ramp_seconds": 0.0, "goodput_limits_ms": {}, "trace": None, "seed": 3,
}
GOOD = Sample(0.0, 0.0, 0.5, token_times=[0.1, 0.3], output_tokens=3, kind="stream")
SLOW = Sample(1.0, 1.5, 9.0, kind="unary")
BAD = Sample(2.0, 2.0, 2.5, error="INTERNAL", error_text="<broken>", kind="unary")


def record(samples: list[Sample], rate: Any = 10.0, **more: Any) -> dict[str, Any]:
    limits = more.get("goodput_limits_ms", {})
    part = Part(samples, 0.1, 9.0)
    figures = result(samples, limits) | {"kinds": kinds(samples, limits), "clients": clients([part]), "warnings": []}
    return {**SETTINGS, **more, "request_rate": rate, **figures}


def panels(figure: Figure) -> dict[str, Any]:
    return {axes.get_title().partition(",")[0]: axes for axes in figure.axes}


def curve(axes: Any, name: str) -> tuple[list[float], list[float]]:
    (line,) = [line for line in axes.lines if line.get_label() == name]
    return [float(x) for x in line.get_xdata()], [float(y) for y in line.get_ydata()]


def test_a_sweep_draws_percentiles_and_throughput_against_the_rate() -> None:
    limits = {"e2el": 1000.0}
    results = [record([SLOW, BAD], 40.0, goodput_limits_ms=limits), record([GOOD], 20.0, goodput_limits_ms=limits)]
    drawn = panels(sweep_figure(results, limits))
    latency = drawn["End-to-end latency"]
    assert latency.get_yscale() == "log"
    for name in ("p50", "p95", "p99"):
        assert curve(latency, name) == ([20.0, 40.0], [500.0, 8000.0])
    assert [text.get_text() for text in latency.texts] == ["limit 1000 ms"]
    assert curve(drawn["Throughput"], "completed")[1] == pytest.approx([2.0, 1 / 8])
    assert curve(drawn["Throughput"], "within the limits (goodput)")[1] == pytest.approx([2.0, 0.0])
    rates, first = curve(drawn["Time to first token"], "p99")
    assert (rates, round(first[0], 6), math.isnan(first[1])) == ([20.0, 40.0], 100.0, True)
    assert [bar.get_height() for bar in drawn["Failed requests"].patches] == [0.0, 50.0]


def test_a_run_draws_each_request_and_what_became_of_it() -> None:
    found = record([GOOD, SLOW, BAD], goodput_limits_ms={"e2el": 1000.0})
    drawn = panels(run_figure(found, [GOOD, SLOW, BAD], {"e2el": 1000.0}))
    clouds = drawn["Each request's end-to-end latency"].collections
    points = {each.get_label(): each.get_offsets().tolist() for each in clouds}
    assert points == {"stream": [[0.0, 500.0]], "unary": [[1.0, 8000.0]], "failed": [[2.0, 500.0]]}
    assert curve(drawn["Percentiles of latency"], "end to end") == ([1.0, 2.0, 4.0], [500.0, 500.0, 8000.0])
    outcomes = drawn["What became of the requests"]
    names = [label.get_text() for label in outcomes.get_yticklabels()]
    widths = [bar.get_width() for bar in outcomes.patches]
    assert dict(zip(names, widths, strict=True)) == {"within the limits": 1, "completed, too slow": 1, "INTERNAL": 1}
    seconds, counts = curve(drawn["Requests in flight"], "sent and not answered")
    assert list(zip(seconds, counts, strict=True))[1:] == [(0.0, 1), (0.5, 0), (1.5, 1), (2.0, 2), (2.5, 1), (9.0, 0)]


def test_the_ramp_is_seen_and_not_counted() -> None:
    drawn = panels(run_figure(record([SLOW], ramp_seconds=1.0), [GOOD, SLOW], {}))
    labels = drawn["Each request's end-to-end latency"].get_legend_handles_labels()[1]
    assert labels == ["ramp, not counted", "stream", "unary"]
    assert curve(drawn["Percentiles of latency"], "end to end")[1] == [8000.0, 8000.0]


@pytest.mark.parametrize(
    ("rate", "samples"),
    [(10.0, []), ("inf", [BAD]), (None, [GOOD]), (10.0, [GOOD] * 3000)],
    ids=["nothing", "failures", "one", "many"],
)
def test_a_report_is_written_whatever_came_of_the_run(rate: Any, samples: list[Sample], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write(path, record(samples, rate), samples)
    assert path.stat().st_size > 5000


@pytest.mark.parametrize("samples", [[], [BAD], [GOOD]], ids=["nothing", "failures", "one"])
def test_a_sweep_is_drawn_whatever_came_of_its_rates(samples: list[Sample], tmp_path: Path) -> None:
    path = tmp_path / "report.png"
    write(path, {**SETTINGS, "sweep": [record(samples, 10.0), record([], 20.0)], "capacity": None}, [])
    assert path.stat().st_size > 5000


def test_what_others_wrote_is_text_on_the_page(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    found = record([GOOD, BAD], warnings=["<late>"], trace="a&b.csv")
    found["warnings"] = ["<late>"]
    write(path, found, [GOOD, BAD])
    page = path.read_text()
    for words in ("m &lt;b&gt; (t5)", "&lt;late&gt;", "&lt;broken&gt;", "a&amp;b.csv"):
        assert words in page
    assert not re.search("<b> |<late>|<broken>", page)
    # The namespaces of SVG are names; nothing is at an address.
    assert set(re.findall(r"https?://[^\"' <)]+", page)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
