"""Log lines: one for each call that ends, as a machine reads them."""

import io
import json
import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from arithmetic_engine import ArithmeticEngine
from cli_process import start
from refusals import drained, refusal
from seqserve_client import Client
from seqserve_server.log_lines import ConsoleFormatter, JsonFormatter
from serving import ENDLESS, Served, ask, ask_stream, ids, serving

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
WORD = "zyxw"
METHOD = "seqserve.v1.Seq2SeqService"


class Lines:
    """What was logged since the test began."""

    def __init__(self) -> None:
        self.text = io.StringIO()

    @property
    def ends(self) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.text.getvalue().splitlines()]
        return [line for line in lines if line["event"] == "call ended"]


@pytest.fixture
def lines() -> Iterator[Lines]:
    found, root = Lines(), logging.getLogger()
    handler, level = logging.StreamHandler(found.text), root.level
    handler.setFormatter(JsonFormatter())
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield found
    root.removeHandler(handler)
    root.setLevel(level)


async def ended(served: Served, lines: Lines, count: int) -> list[dict[str, Any]]:
    """So many lines; a caller has its answer a moment before the line is written."""
    await served.until(lambda: len(lines.ends) == count)
    return lines.ends


async def test_a_call_that_ends_well_is_one_line_with_its_ids_times_and_counts(lines: Lines) -> None:
    metadata = (("x-request-id", "mine-1"), ("traceparent", f"00-{TRACE}-{PARENT}-01"))
    async with serving(access_log=True) as served:
        await served.stub.Generate(ask(f"c {WORD} d", "c d", max_new_tokens=4), metadata=metadata)
        (line,) = await ended(served, lines, 1)
    assert (line["level"], line["request_id"]) == ("info", "mine-1")
    assert (line["trace_id"], line["span_id"], line["trace_flags"]) == (TRACE, PARENT, "01")
    assert (line["grpc.method"], line["grpc.code"], line["model"]) == (f"{METHOD}/Generate", "OK", "pencil")
    assert line["peer"].startswith("ipv4:127.0.0.1:")
    assert (line["requests"], line["input_tokens"]) == (2, 4 + 3)
    assert 2 <= line["output_tokens"] <= 8
    assert 0 < line["queue_ms"] < line["duration_ms"]
    assert line["queue_ms"] + line["encode_ms"] + line["decode_ms"] < line["duration_ms"]
    assert line["timestamp"].endswith("Z")
    assert WORD not in lines.text.getvalue()


async def test_how_a_call_ended_decides_on_the_level(lines: Lines) -> None:
    engine = ArithmeticEngine()
    engine.poison = 27
    async with serving(engine, access_log=True, max_waiting=1, max_rows=1) as served:
        await refusal(served.stub.Generate(ask(f"c {WORD}", model=WORD)))
        await refusal(served.stub.Generate(ask("c d", "c d", "c d")))
        await refusal(served.stub.Generate(ask(ids(27))))
        await drained(served.stub.GenerateStream(ask_stream("c d", max_new_tokens=2)))
        found = await ended(served, lines, 4)
    assert [(line["grpc.code"], line["level"], line.get("reason")) for line in found] == [
        ("NOT_FOUND", "info", "MODEL_NOT_FOUND"), ("RESOURCE_EXHAUSTED", "warning", "QUEUE_FULL"),
        ("INTERNAL", "error", "ENGINE_FAILURE"), ("OK", "info", None),
    ]
    assert WORD not in lines.text.getvalue()
    assert "/secret" not in lines.text.getvalue()


@pytest.mark.parametrize(("timeout", "code"), [(None, "CANCELLED"), (0.2, "DEADLINE_EXCEEDED")])
async def test_a_caller_that_goes_away_is_no_trouble(lines: Lines, timeout: float | None, code: str) -> None:
    engine = ArithmeticEngine()
    async with serving(engine, access_log=True) as served:
        engine.hold()
        call = served.stub.Generate(ask(ids(*ENDLESS)), timeout=timeout)
        await served.until_stepping()
        if timeout is None:
            call.cancel()
        else:
            with pytest.raises(grpc.aio.AioRpcError):
                await call
        await served.until_abandoned(1)
        engine.allow()
        (line,) = await ended(served, lines, 1)
    assert (line["grpc.code"], line["level"]) == (code, "info")


async def test_neither_probes_nor_anything_unless_it_is_wanted(lines: Lines) -> None:
    async with serving(access_log=True) as served:
        await served.health.Check(health_pb2.HealthCheckRequest())
        await served.stub.Generate(ask("c d"))
        await ended(served, lines, 1)
    async with serving() as served:
        await served.stub.Generate(ask("c d"))
    assert len(lines.ends) == 1


def raised() -> Any:
    try:
        try:
            raise KeyError(f"what a user sent: {WORD}")
        except KeyError as error:
            raise ValueError(WORD) from error
    except ValueError as error:
        return type(error), error, error.__traceback__


@pytest.mark.parametrize("kind", [JsonFormatter, ConsoleFormatter])
def test_of_an_exception_types_and_places_are_logged_and_the_rest_for_debugging_alone(kind: Any) -> None:
    record = logging.LogRecord("a", logging.ERROR, "/path", 1, "it broke", (), raised())
    line = kind().format(record)
    assert "builtins.ValueError at test_access_log.py:" in line
    assert "caused by builtins.KeyError at test_access_log.py:" in line
    assert WORD not in line
    assert __file__ not in line
    record.exc_text = None
    assert WORD in kind(whole=True).format(record)


def test_every_line_of_the_command_is_an_object(tiny_bundle: Path) -> None:
    process = start(
        "serve", str(tiny_bundle), "--port", "0", "--metrics-port", "0", "--threads", "1",
        "--log-format", "json", "--access-log",
    )
    try:
        target = process.stdout.readline().split()[1].removeprefix("grpc=")
        with Client(target, timeout=60) as client:
            client.generate(token_ids=[[5, 17]], max_new_tokens=3)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    lines = [json.loads(line) for line in errors.splitlines()]
    assert lines[0]["event"] == "configuration"
    assert lines[0]["log_format"] == "json (--log-format)"
    (end,) = (line for line in lines if line["event"] == "call ended")
    assert (end["grpc.method"], end["output_tokens"]) == (f"{METHOD}/Generate", 3)
