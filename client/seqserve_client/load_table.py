"""Results of a load test for people at a terminal. Pure functions from the JSON result to text."""

from collections.abc import Mapping, Sequence
from typing import Any

from seqserve_client.report import METRICS, PERCENTILES

SERVER_TIMES = {
    "queue": "queue", "encode": "one encoder batch", "step": "one decoder step", "ttft": "time to first token",
    "request": "end to end",
}
COLUMNS = ("mean", *(f"p{percent}" for percent in PERCENTILES))


def table(figures: Mapping[str, Any]) -> str:
    """One result: what came of the requests and their latencies; then kinds, clients and server where there are any."""
    lines = [f"WARNING     {warning}" for warning in figures.get("warnings", ())]
    lines += _summary(figures)
    lines += _latencies(figures)
    if figures.get("kinds"):
        lines += _kinds(figures["kinds"])
    if len(figures.get("clients", ())) > 1:
        lines += _clients(figures["clients"])
    if figures.get("server"):
        lines += _server(figures["server"])
    return "\n".join(lines)


def sweep_table(record: Mapping[str, Any]) -> str:
    """One line for each rate of a sweep, and the capacity where it was looked for."""
    results = record["sweep"]
    streamed = any(result["p50_ttft_ms"] is not None for result in results)
    with_goodput = any(result["request_goodput"] is not None for result in results)
    head = ["rate/s", "done/s", *["good/s"] * with_goodput, "tokens/s", "failed", "p50 ms", "p95 ms", "p99 ms"]
    head += ["p50 ttft", "p99 ttft"] * streamed
    rows = [head]
    for result in results:
        cells = [f"{result['request_rate']:g}", f"{result['request_throughput']:.1f}"]
        if with_goodput:
            cells.append(f"{result['request_goodput']:.1f}")
        cells += [f"{result['output_throughput']:.0f}", str(result["failed"])]
        names = ["p50_e2el_ms", "p95_e2el_ms", "p99_e2el_ms", *["p50_ttft_ms", "p99_ttft_ms"] * streamed]
        rows.append(cells + ["-" if result[name] is None else f"{result[name]:.1f}" for name in names])
    lines = [
        f"WARNING     rate {result['request_rate']:g}: {warning}"
        for result in results for warning in result.get("warnings", ())
    ]
    lines += ["".join(f"{cell:>10}" for cell in row) for row in rows]
    lines += [f"error       rate {result['request_rate']:g}: {text}" for result in results for text in _errors(result)]
    if "capacity" in record:
        found = record["capacity"]
        lines.append(
            "capacity    none: every rate was too much" if found is None
            else f"capacity    {found:g} requests/s within the limits"
        )
    lines.append("latencies count from the intended send time")
    return "\n".join(lines)


def _errors(figures: Mapping[str, Any]) -> list[str]:
    examples = figures["error_examples"]
    return [f"{count} x {code}, such as: {examples[code]}" for code, count in sorted(figures["errors"].items())]


def _summary(figures: Mapping[str, Any]) -> list[str]:
    lines = [
        f"requests    {figures['completed']} completed, {figures['failed']} failed, in {figures['duration']:.2f} s",
        f"throughput  {figures['request_throughput']:.2f} requests/s, {figures['output_throughput']:.1f} tokens/s",
    ]
    if figures["request_goodput"] is not None:
        lines.append(f"goodput     {figures['request_goodput']:.2f} requests/s within the limits")
    lines += [f"error       {text}" for text in _errors(figures)]
    if ramp := figures.get("ramp"):
        lines.append(f"ramp        {ramp['completed']} completed, {ramp['failed']} failed, not counted here")
    return lines


def _latencies(figures: Mapping[str, Any]) -> list[str]:
    shown = {name: text for name, text in METRICS.items() if figures[f"mean_{name}_ms"] is not None}
    if not shown:
        return []
    rows = [
        [text, *(_ms(figures[f"{column}_{name}_ms"]) for column in COLUMNS)] for name, text in shown.items()
    ]
    note = "latencies count from the intended send time unless they say otherwise"
    return ["", *_aligned([["milliseconds", *COLUMNS], *rows]), note]


def _kinds(kinds: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = [["kind", "completed", "failed", "p50 ms", "p99 ms", "p50 ttft", "p99 ttft"]]
    for name, each in kinds.items():
        latencies = [_ms(each[figure]) for figure in ("p50_e2el_ms", "p99_e2el_ms", "p50_ttft_ms", "p99_ttft_ms")]
        rows.append([name, str(each["completed"]), str(each["failed"]), *latencies])
    return ["", *_aligned(rows)]


def _clients(clients: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [["client process", "requests", "core", "late p99 ms"]]
    rows += [
        [str(number), str(each["requests"]), f"{each['processor_ratio']:.0%}", f"{each['p99_lag_ms']:.2f}"]
        for number, each in enumerate(clients)
    ]
    return ["", *_aligned(rows, 12)]


def _server(server: Mapping[str, Any]) -> list[str]:
    rows = [["server, milliseconds", "mean", "p50", "p99"]]
    rows += [
        [text, *(_ms(server[f"{figure}_{name}_ms"]) for figure in ("mean", "p50", "p99"))]
        for name, text in SERVER_TIMES.items()
    ]
    mean_rows = server["mean_rows_per_step"]
    lines = ["", *_aligned(rows)]
    lines.append(
        f"{server['decode_steps']} steps" + ("" if mean_rows is None else f" of {mean_rows:.1f} rows in the mean")
        + f", {server['output_tokens']} tokens; "
        + ", ".join(f"{count} x {code}" for code, count in server["calls_by_code"].items())
    )
    if server.get("peak_waiting") is not None:
        lines.append(f"at most {server['peak_waiting']:g} waiting, {server['peak_running']:g} running when looked at")
    return lines


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _aligned(rows: Sequence[Sequence[str]], width: int = 10) -> list[str]:
    """The first column to the left, the others to the right."""
    first = max(len(row[0]) for row in rows)
    return [f"{row[0]:<{first}}" + "".join(f"{cell:>{width}}" for cell in row[1:]) for row in rows]
