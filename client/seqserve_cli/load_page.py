"""The report of a load test: one HTML page without outside parts, or a picture, with the same curves."""

import html
import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqserve_cli.load_charts import run_figure, sweep_figure
from seqserve_client.load_table import COLUMNS, SERVER_TIMES
from seqserve_client.report import METRICS, Sample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c1c1c; background: #fff; max-width: 1120px; margin: 2rem auto;
  padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
p { margin: .3rem 0 } .quiet { color: #666 }
.warning { background: #fdecea; border-left: 4px solid #a3123f; padding: .6rem 1rem; margin: 1rem 0 }
.cards { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1.2rem 0 }
.cards div { background: #f4f6f8; border-radius: 6px; padding: .5rem .9rem }
.cards b { display: block; font-size: 1.3rem }
.wide { overflow-x: auto; margin-bottom: 1rem } svg { width: 100%; height: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .22rem .8rem .22rem 0; text-align: right; border-bottom: 1px solid #e6e6e6 }
th:first-child, td:first-child { text-align: left } th { font-weight: 600; color: #444 }
table.words td, table.words th { text-align: left; vertical-align: top; overflow-wrap: anywhere }
"""
HOW_TO_READ = (
    "Latency counts from the time at which the schedule wanted a request sent, not from when it was: what a request "
    "waited before it was sent is what a user would have waited.",
    "A percentile p99 of 300 ms says that 99 of 100 requests took at most 300 ms. Look at the worst percentile that "
    "you have promised, not at the mean.",
    "Beyond the rate that the server bears, completed requests stay below the offered rate and latency grows for as "
    "long as the test lasts: it then says how long the test was, and nothing of the server.",
    "Figures are worth something only while the generator kept up, which is told above where it did not.",
)
CAPTION_LETTERS = 170
# Settings that are no lines of the table: the head shows them, or they are results.
SHOWN_ELSEWHERE = ("date", "target", "model", "model_id", "machine")


def write(path: Path, record: Mapping[str, Any], samples: Sequence[Sample]) -> None:
    """Write the report of a whole result, as ``seqserve bench --save-result`` has it.

    Args:
        path: Ends in .html or .png.
        record: The result.
        samples: Those of a single run; of a sweep none are needed.
    """
    limits = record["goodput_limits_ms"]
    figure = sweep_figure(record["sweep"], limits) if "sweep" in record else run_figure(record, samples, limits)
    if path.suffix == ".png":
        _caption(figure, record)
        figure.savefig(path, dpi=120)
    else:
        path.write_text(page(record, _svg(figure)), encoding="utf-8")


def page(record: Mapping[str, Any], drawing: str) -> str:
    """The HTML page around a drawing."""
    sweep = record.get("sweep")
    parts = [f"<h1>{_title(record)}</h1>", f'<p class="quiet">{html.escape(record["date"])}</p>']
    parts += [f'<p class="warning">Warning: {html.escape(warning)}</p>' for warning in _warnings(record)]
    parts.append(_cards(record))
    parts.append(f'<div class="wide" role="img" aria-label="Curves; the tables hold their numbers">{drawing}</div>')
    parts += _sweep_tables(sweep, bool(record["goodput_limits_ms"])) if sweep is not None else _run_tables(record)
    parts.append("<h2>How to read it</h2>")
    parts += [f"<p>{html.escape(sentence)}</p>" for sentence in HOW_TO_READ]
    parts.append("<h2>Settings</h2>" + _settings(record))
    parts.append(f'<p class="quiet">Load generated on: {html.escape(record["machine"])}</p>')
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_title(record)}</title><style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _title(record: Mapping[str, Any]) -> str:
    return html.escape(f"Load test of {record['model']} at {record['target']}")


def _warnings(record: Mapping[str, Any]) -> list[str]:
    if "sweep" not in record:
        return list(record["warnings"])
    return [f"rate {each['request_rate']:g}: {text}" for each in record["sweep"] for text in each["warnings"]]


def _cards(record: Mapping[str, Any]) -> str:
    """The figures to begin with."""
    if "sweep" in record:
        results = record["sweep"]
        cards = [("rates", str(len(results))), ("completed", str(sum(each["completed"] for each in results))),
                 ("failed", str(sum(each["failed"] for each in results)))]
        best = max(results, key=lambda each: each["request_throughput"])
        cards.append(("most completed per second", f"{best['request_throughput']:.1f}"))
        if "capacity" in record:
            found = record["capacity"]
            cards.insert(0, ("capacity within the limits", "none found" if found is None else f"{found:g} /s"))
    else:
        cards = [("completed", str(record["completed"])), ("failed", str(record["failed"])),
                 ("requests per second", f"{record['request_throughput']:.1f}")]
        if record["request_goodput"] is not None:
            cards.append(("good ones per second", f"{record['request_goodput']:.1f}"))
        cards.append(("tokens per second", f"{record['output_throughput']:.0f}"))
        for name, text in (("e2el", "end to end"), ("ttft", "first token")):
            if record[f"p50_{name}_ms"] is not None:
                cards += [(f"{text}, p50", f"{record[f'p50_{name}_ms']:.1f} ms"),
                          (f"{text}, p99", f"{record[f'p99_{name}_ms']:.1f} ms")]
    shown = "".join(f"<div><b>{html.escape(value)}</b>{html.escape(name)}</div>" for name, value in cards)
    return f'<div class="cards">{shown}</div>'


def _sweep_tables(results: Sequence[Mapping[str, Any]], with_goodput: bool) -> list[str]:
    names = {"request_rate": "offered /s", "request_throughput": "completed /s"}
    names |= {"request_goodput": "good /s"} if with_goodput else {}
    names |= {"output_throughput": "tokens /s", "failed": "failed"}
    names |= {f"{name}_e2el_ms": f"{name}, ms" for name in ("p50", "p95", "p99")}
    if any(result["p50_ttft_ms"] is not None for result in results):
        names |= {f"{name}_ttft_ms": f"{name} first token, ms" for name in ("p50", "p99")}
    rows = [[_number(result[name]) for name in names] for result in results]
    parts = ["<h2>Rates</h2>", _table([*names.values()], rows)]
    errors = [
        [f"{result['request_rate']:g}", code, str(count), result["error_examples"][code]]
        for result in results for code, count in sorted(result["errors"].items())
    ]
    if errors:
        parts += ["<h2>Errors</h2>", _table(["offered /s", "code", "requests", "such as"], errors, "words")]
    return parts


def _run_tables(record: Mapping[str, Any]) -> list[str]:
    rows = [
        [text, *(_number(record[f"{column}_{name}_ms"]) for column in COLUMNS)]
        for name, text in METRICS.items() if record[f"mean_{name}_ms"] is not None
    ]
    parts = ["<h2>Latency</h2>", _table(["milliseconds", *COLUMNS], rows)]
    if record["errors"]:
        examples = record["error_examples"]
        errors = [[code, str(count), examples[code]] for code, count in sorted(record["errors"].items())]
        parts += ["<h2>Errors</h2>", _table(["code", "requests", "such as"], errors, "words")]
    if record["kinds"]:
        names = ("completed", "failed", "p50_e2el_ms", "p99_e2el_ms", "p50_ttft_ms", "p99_ttft_ms")
        head = ["kind", "completed", "failed", "p50, ms", "p99, ms", "p50 first token", "p99 first token"]
        kinds = [[name, *(_number(each[figure]) for figure in names)] for name, each in record["kinds"].items()]
        parts += ["<h2>Kinds of requests</h2>", _table(head, kinds)]
    clients = [
        [str(number), str(each["requests"]), f"{each['processor_ratio']:.0%}", f"{each['p99_lag_ms']:.2f}"]
        for number, each in enumerate(record["clients"])
    ]
    head = ["process", "requests", "of a core", "late at p99, ms"]
    parts += ["<h2>The generator itself</h2>", _table(head, clients)]
    if record.get("server"):
        parts += ["<h2>What the server says</h2>", _server(record["server"])]
    return parts


def _server(server: Mapping[str, Any]) -> str:
    times = [
        [text, *(_number(server[f"{figure}_{name}_ms"]) for figure in ("mean", "p50", "p99"))]
        for name, text in SERVER_TIMES.items()
    ]
    rows = []
    for name, value in server.items():
        if name == "series" or name.endswith("_ms") or value is None:
            continue
        if isinstance(value, Mapping):
            value = ", ".join(f"{count} {key}" for key, count in value.items()) or "none"
        rows.append([name.replace("_", " "), _number(value)])
    return _table(["milliseconds", "mean", "p50", "p99"], times) + _table(["", ""], rows)


def _settings(record: Mapping[str, Any]) -> str:
    return _table(["", ""], _asked(record), "words")


def _asked(record: Mapping[str, Any]) -> list[list[str]]:
    """Names and values of what was asked for, as far as it was: settings come before results in the record."""
    settings: list[list[str]] = []
    for name, value in record.items():
        if name in ("duration", "sweep"):
            break
        if name in SHOWN_ELSEWHERE or value is None or value == {}:
            continue
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {each}" for key, each in value.items())
        settings.append([name.replace("_", " "), str(value)])
    return settings


def _number(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.2f}" if value < 100 else f"{value:.1f}"
    return str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], name: str = "") -> str:
    titles = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    first = f"<tr>{titles}</tr>\n" if any(head) else ""
    lines = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table class="{name}">{first}{lines}</table></div>'


def _svg(figure: "Figure") -> str:
    """The drawing as an element of a page, without the declarations and metadata that name outside addresses."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawn = text.getvalue()
    return drawn[drawn.index("<svg"):]


def _caption(figure: "Figure", record: Mapping[str, Any]) -> None:
    """What the page says around the drawing, on the picture itself."""
    head = [f"Load test of {record['model']} at {record['target']}, {record['date']}"]
    for warning in _warnings(record):
        head += textwrap.wrap(f"WARNING: {warning}", CAPTION_LETTERS)
    colour = "#a3123f" if len(head) > 1 else "#1c1c1c"
    figure.suptitle("\n".join(head), fontsize="small", color=colour, parse_math=False)
    settings = "; ".join(f"{name} {value}" for name, value in _asked(record))
    text = "\n".join(textwrap.wrap(f"{settings}. Load generated on: {record['machine']}", CAPTION_LETTERS))
    figure.supxlabel(text, fontsize="x-small", color="#555555", parse_math=False)
