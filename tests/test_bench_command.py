"""``seqserve bench`` as users call it; the load itself has tests of its own."""

import asyncio
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import grpc
import pytest

from cli_process import start
from fake_server import FakeServer, aborting, refuse, sleep
from seqserve_cli.bench_progress import Live
from seqserve_cli.main import main
from seqserve_client.load_progress import Tally
from serving import serving
from test_cli import exit_code

FAST = ["--rate", "inf", "--requests", "6", "--warmup", "1"]


def bench(server: FakeServer, *arguments: str) -> int:
    return exit_code(["bench", "--target", server.target, *arguments])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rate", "0"], "argument --rate: must be a number above 0"),
        (["--rate", "fast"], 'argument --rate: must be a number above 0, or "inf", not fast'),
        (["--rate", "nan"], "argument --rate: must be"),
        (["--rate", "inf", "--duration", "1"], "--rate inf needs --requests"),
        (["--rate", "inf", "--requests", "1", "--ramp", "1"], "--rate inf has no --ramp"),
        (["--duration", "0"], "argument --duration: must be a number above 0, not 0"),
        (["--ramp", "-1"], "argument --ramp: must be 0 or more seconds, not -1"),
        (["--burstiness", "0"], "argument --burstiness: must be a number above 0"),
        (["--burstiness", "2", "--concurrency", "3"], "--burstiness needs --rate"),
        (["--processes", "0"], "argument --processes: must be at least 1, not 0"),
        (["--processes", "65"], "argument --processes: must be at most 64, not 65"),
        (["--processes", "3", "--concurrency", "2"], "--concurrency 2 is below --processes 3"),
        (["--sweep", "1,two"], "argument --sweep: must be a number above 0, not two"),
        (["--sweep", "1,inf"], "argument --sweep: must be a number above 0, not inf"),
        (["--sweep", "1,1"], "argument --sweep: has a rate twice: 1,1"),
        (["--sweep", "1,2", "--rate", "3"], "--sweep has the rates: not with --rate"),
        (["--sweep", "1,2", "--capacity", "--goodput", "e2el:1"], "--sweep or --capacity, not both"),
        (["--capacity"], "--capacity needs --goodput"),
        (["--capacity", "--goodput", "e2el:1", "--rate", "inf", "--requests", "1"], "--capacity begins at --rate"),
        (["--settle", "1"], "--settle needs --sweep or --capacity"),
        (["--trace", "t", "--rate", "3"], "--trace has times of its own: not with --rate"),
        (["--trace", "t", "--sweep", "3"], "--trace has times of its own: not with --sweep"),
        (["--trace", "t", "--burstiness", "3"], "--trace has times of its own: not with --burstiness"),
        (["--trace", "t", "--ramp", "3"], "--trace has times of its own: not with --ramp"),
        (["--trace-speed", "2"], "--trace-speed needs --trace"),
        (["--trace", "t", "--trace-speed", "0"], "argument --trace-speed: must be a number above 0"),
        (["--mix", "unary=1,fast=1"], "argument --mix: 'fast' is not unary, stream, beamN"),
        (["--mix", "unary=0"], "argument --mix: 'unary=0' is not KIND=WEIGHT with a weight above 0"),
        (["--mix", "unary=1", "--stream"], "argument --stream: not allowed with argument --mix"),
        (["--goodput", "speed:100"], "argument --goodput: 'speed:100' is not METRIC:MS"),
        (["--goodput", "e2el:soon"], "argument --goodput: 'e2el:soon' lacks a number of milliseconds above 0"),
        (["--goodput", "e2el:-1"], "argument --goodput: 'e2el:-1' lacks"),
        (["--goodput", "e2el:1", "e2el:2"], "--goodput has a metric twice"),
        (["--goodput", "ttft:100"], "--goodput ttft needs --stream"),
        (["--goodput", "ttft:100", "--mix", "unary=1,beam2=1"], "--goodput ttft needs --stream, or a --mix with it"),
        (["--metrics", "localhost:9090"], "argument --metrics: must be an address such as http://"),
        (["--metrics", "file:///etc/passwd"], "argument --metrics: must be an address such as http://"),
        (["--report", "page.pdf"], "argument --report: must end in .html or .png, not page.pdf"),
        (["--report", "/nowhere/page.html"], "--report: /nowhere/page.html is not a file in a directory that exists"),
        (["--save-result", "/"], "--save-result: / is not a file in a directory that exists"),
    ],
)
def test_wrong_flags_are_named_before_anything_is_sent(
    arguments: list[str], words: str, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(server, *arguments) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""
    assert server.servicer.calls == []


def test_wrong_files_are_named(server: FakeServer, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    missing, empty, wrong = (tmp_path / name for name in ("missing", "empty", "wrong"))
    empty.write_text("\n\n")
    wrong.write_text('{"offset": 0}\n{"offset": "soon"}\n')
    for arguments, words in (
        (["--input", missing], f"cannot read {missing}"),
        (["--input", empty], f"{empty} holds no text"),
        (["--trace", missing], f"cannot read {missing}"),
        (["--trace", empty], f"{empty}:1: the trace holds no request"),
        (["--trace", wrong], f"{wrong}:2: offset must be a number of seconds, 0 or more, not 'soon'"),
    ):
        assert bench(server, *map(str, arguments)) == 1
        assert capsys.readouterr().err.startswith(f"seqserve: {words}")
    assert bench(server, "--model-name", "other") == 1
    assert server.servicer.calls == []


def test_servers_out_of_reach_are_exit_code_3(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    for extra in ([], ["--processes", "2"]):
        assert exit_code(["bench", "--target", "127.0.0.1:1", *FAST, *extra]) == 3
        assert "cannot reach a server at 127.0.0.1:1" in capsys.readouterr().err
    assert bench(server, *FAST, "--metrics", "http://127.0.0.1:1/metrics") == 3
    assert "seqserve: --metrics: no metrics at http://127.0.0.1:1/metrics" in capsys.readouterr().err


def test_a_run_in_which_nothing_succeeds_fails(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.servicer.before = aborting(grpc.StatusCode.INTERNAL, "broken")
    assert bench(server, "--rate", "inf", "--requests", "6", "--warmup", "0") == 1
    assert "6 x INTERNAL, such as: broken" in capsys.readouterr().out
    assert bench(server, *FAST) == 1  # already in the warm-up
    words = "seqserve: the warm-up failed, INTERNAL: broken (--warmup 0 goes without it)\n"
    assert capsys.readouterr().err == words
    assert bench(server, "--sweep", "500,900", "--requests", "3", "--warmup", "0", "--settle", "0") == 1


def test_the_seed_of_the_load_does_not_make_the_server_draw(server: FakeServer) -> None:
    assert bench(server, *FAST, "--seed", "5", "--max-new-tokens", "4") == 0
    assert not any(call.options.HasField("seed") for call in server.servicer.calls)
    assert {call.options.max_new_tokens for call in server.servicer.calls} == {4}


def test_a_sweep_has_a_result_for_each_rate(
    server: FakeServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    saved = tmp_path / "sweep.json"
    load = ["--sweep", "400,800", "--requests", "20", "--settle", "0", "--save-result", str(saved)]
    assert bench(server, *load, "--goodput", "e2el:60000") == 0
    record = json.loads(saved.read_text())
    assert [each["request_rate"] for each in record["sweep"]] == [400, 800]
    assert [each["completed"] for each in record["sweep"]] == [20, 20]
    assert record["num_prompts"] == 20
    assert "completed" not in record
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown if re.match(r" +\d", line)] == ["400", "800"]


def test_the_search_for_capacity_ends_between_good_and_bad(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    # Whatever the machine does, a rate is borne until the server has seen 100 requests, and no rate is after them.
    def before(request: Any, context: grpc.ServicerContext) -> None:
        if len(server.servicer.calls) > 100:
            refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "full", "QUEUE_FULL")

    server.servicer.before = before
    load = ["--capacity", "--rate", "200", "--requests", "40", "--warmup", "0", "--settle", "0", "--json"]
    assert bench(server, *load, "--goodput", "e2el:60000") == 0  # though some runs completed nothing
    record = json.loads(capsys.readouterr().out)
    rates = [each["request_rate"] for each in record["sweep"]]
    assert rates == sorted(rates)
    assert rates[:2] == [200, 400]
    assert record["capacity"] == 400
    assert rates[2] <= 400 * 1.1
    server.servicer.calls.clear()
    assert bench(server, *load, "--requests", "3", "--goodput", "e2el:0.000001") == 1
    assert json.loads(capsys.readouterr().out)["capacity"] is None


def test_a_trace_and_a_ramp_are_in_the_result(
    server: FakeServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("offset,text,max_new_tokens\n10,two dogs,1\n10.2,a man,\n")
    assert bench(server, "--trace", str(trace), "--trace-speed", "10", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["completed"], record["trace"], record["request_rate"]) == (2, str(trace), None)
    assert record["total_output_tokens"] == 1 + 3
    assert bench(server, "--rate", "200", "--requests", "10", "--ramp", "0.2", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["completed"] == 10
    assert record["ramp"]["completed"] > 0
    assert sum(each["requests"] for each in record["clients"]) == 10 + record["ramp"]["completed"]


def test_progress_is_drawn_over_itself_and_gone_at_the_end(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.servicer.before = sleep(0.3)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    load = ["--concurrency", "1", "--requests", "3", "--warmup", "0"]
    assert bench(server, *load) == 0
    shown = capsys.readouterr().err
    assert re.search(r"in flight 1  failed 0  ended \d  sent \d", shown)
    assert shown.endswith("\r\033[K")
    assert bench(server, *load, "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_the_line_fits_the_terminal_and_begins_with_its_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setattr("seqserve_cli.bench_progress.SHOWN_SECONDS", 0.0)
    stream = io.StringIO()
    Live(stream, "rate 20:").tell(Tally(sent=5))
    assert stream.getvalue().startswith("\rrate 20:")
    assert len(stream.getvalue()) == 1 + 29 + len("\033[K")


class Outside(HTMLParser):
    """Collects what a page loads or links to, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe")
        self.addresses += [str(value) for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


async def test_processes_metrics_and_report_work_together_on_a_real_server(tmp_path: Path) -> None:
    page, saved = tmp_path / "page.html", tmp_path / "run.json"
    async with serving() as served:
        process = start(
            "bench", "--target", f"127.0.0.1:{served.server.port}", "--processes", "2", "--rate", "100",
            "--requests", "30", "--warmup", "1", "--mix", "unary=1,stream=1", "--max-new-tokens", "5",
            "--random-ids", "3", "--goodput", "e2el:60000", "--report", str(page), "--save-result", str(saved),
            "--metrics", f"http://127.0.0.1:{served.server.metrics_port}/metrics",
        )
        output, errors = await asyncio.to_thread(process.communicate, timeout=120)
    assert (process.returncode, errors) == (0, "")
    record = json.loads(saved.read_text())
    assert (record["completed"], record["failed"]) == (30, 0)
    assert sorted(client["requests"] for client in record["clients"]) == [15, 15]
    assert {name: kind["failed"] for name, kind in record["kinds"].items()} == {"unary": 0, "stream": 0}
    assert record["server"]["calls_by_code"]["OK"] == 30  # not the warm-up, not the question for the model
    assert record["server"]["output_tokens"] == record["total_output_tokens"]
    assert "client process" in output
    found = Outside(page.read_text())
    assert all(address.startswith(("#", "data:")) for address in found.addresses)
    for words in ("Load test of pencil (native, fp32, version 0123456789ab)", "30 completed", "How to read it",
                  "What the server says", "mix unary 1.0, stream 1.0"):
        assert words in " ".join(found.text.split())


def test_a_report_can_be_a_picture(server: FakeServer, tmp_path: Path) -> None:
    picture = tmp_path / "curve.png"
    assert bench(server, "--sweep", "400,900", "--requests", "9", "--settle", "0", "--report", str(picture)) == 0
    assert picture.read_bytes().startswith(b"\x89PNG\r\n")


def test_a_missing_package_is_named_with_its_extra(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for package in ("matplotlib", "prometheus_client"):
        monkeypatch.setitem(sys.modules, package, None)
    assert main(["bench", "--target", server.target, "--report", str(tmp_path / "page.html")]) == 1
    assert "bench needs the package 'matplotlib': pip install 'seqserve[bench]'" in capsys.readouterr().err
    assert main(["bench", "--target", server.target, "--metrics", "http://127.0.0.1:1/metrics"]) == 1
    assert "bench needs the package 'prometheus_client'" in capsys.readouterr().err
    assert server.servicer.calls == []
