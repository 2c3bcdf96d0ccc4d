"""What a terminal shows of a load test."""

from typing import Any

from seqserve_client.load_table import sweep_table, table
from seqserve_client.report import Sample, clients, kinds, result

STREAMED = Sample(intended=1.0, sent=1.5, ended=3.0, token_times=[2.0, 2.25], output_tokens=5, kind="stream")
REFUSED = Sample(0, 0, 1, error="INTERNAL", error_text="the engine failed", kind="unary")
SERVER: dict[str, Any] = {
    "decode_steps": 16, "mean_rows_per_step": 2.5, "output_tokens": 40, "calls_by_code": {"OK": 6},
    "peak_waiting": 3.0, "peak_running": 2.0,
    **{f"{figure}_{name}_ms": 1.5 for figure in ("mean", "p50", "p99")
       for name in ("queue", "encode", "step", "ttft", "request")},
    "mean_encode_ms": None,
}


def figures(samples: list[Sample], **more: Any) -> dict[str, Any]:
    limits: dict[str, float] = more.pop("limits", {})
    several = len({sample.kind for sample in samples}) > 1
    found = result(samples, limits) | {"clients": clients([]), "warnings": []}
    found["kinds"] = kinds(samples, limits) if several else {}
    return {"request_rate": 10.0, **found, **more}


def test_the_table_shows_errors_and_only_what_was_measured() -> None:
    text = table(result([Sample(0, 0, 1), REFUSED], {}))
    assert "1 completed, 1 failed" in text
    assert "1 x INTERNAL, such as: the engine failed" in text
    assert "end-to-end latency" in text
    assert "first token" not in text
    assert "goodput" not in text
    assert "goodput" in table(result([STREAMED], {"ttft": 1.0}))
    assert "0 completed" in table(result([], {}))


def test_warnings_come_first_and_parts_only_where_there_are_several() -> None:
    text = table(figures([STREAMED], warnings=["the generator could not keep up"]))
    assert text.startswith("WARNING     the generator could not keep up\n")
    assert "kind" not in text
    assert "client process" not in text
    record = {"requests": 3, "processor_ratio": 0.25, "p99_lag_ms": 1.0}
    text = table(figures(
        [STREAMED, REFUSED], clients=[record, record], server=SERVER, ramp={"completed": 7, "failed": 1}
    ))
    for line in (
        "stream         1         0   2000.00   2000.00   1000.00   1000.00",
        "unary          0         1         -         -         -         -",
        "1" + 24 * " " + "3         25%        1.00",
        "queue                     1.50      1.50      1.50",
        "one encoder batch            -      1.50      1.50",
        "16 steps of 2.5 rows in the mean, 40 tokens; 6 x OK",
        "at most 3 waiting, 2 running when looked at",
        "ramp        7 completed, 1 failed, not counted here",
    ):
        assert line in text.splitlines()


def test_a_sweep_has_a_line_for_each_rate() -> None:
    results = [
        figures([STREAMED], limits={"e2el": 2000.0}),
        figures([REFUSED], limits={"e2el": 2000.0}, request_rate=20.0, warnings=["late"]),
    ]
    lines = sweep_table({"sweep": results, "capacity": 10.0}).splitlines()
    assert lines[0] == "WARNING     rate 20: late"
    head = ["rate/s", "done/s", "good/s", "tokens/s", "failed", "p50 ms", "p95 ms", "p99 ms", "p50 ttft", "p99 ttft"]
    assert lines[1] == "".join(f"{cell:>10}" for cell in head)
    assert lines[2].split() == ["10", "0.5", "0.5", "2", "0", "2000.0", "2000.0", "2000.0", "1000.0", "1000.0"]
    assert lines[3].split() == ["20", "0.0", "0.0", "0", "1", "-", "-", "-", "-", "-"]
    assert "error       rate 20: 1 x INTERNAL, such as: the engine failed" in lines
    assert "capacity    10 requests/s within the limits" in lines
    assert "capacity    none: every rate was too much" in sweep_table({"sweep": results, "capacity": None})
    plain = sweep_table({"sweep": [figures([STREAMED])]})
    assert "good/s" not in plain
    assert "capacity" not in plain
    assert "ttft" not in sweep_table({"sweep": [figures([REFUSED])]})
