"""Traces as a collector receives them from a running server."""

import os
import subprocess
import sys
from typing import Any

import pytest
from grpc_health.v1 import health_pb2
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from collector import Collector, attributes
from refusals import drained, refusal
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve_server import tracing
from seqserve_server.call_record import Call
from seqserve_server.errors import StartupError
from seqserve_server.tracing import open_tracing
from serving import ask, ask_stream, ids, serving

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
STAGES = ["tokenize", "queue", "encode", "decode"]
WORD = "zyxw"  # in no vocabulary, so that it can come from nowhere else


def by_name(spans: list[Any]) -> dict[str, Any]:
    found = {span.name: span for span in spans}
    assert len(found) == len(spans)
    return found


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


async def test_a_request_is_one_span_in_the_callers_trace_and_its_stages_follow_one_another() -> None:
    with Collector() as collector:
        async with serving(otlp_endpoint=collector.endpoint) as served:
            metadata = (*SAMPLED, ("x-request-id", "mine-1"))
            await served.stub.Generate(ask(f"c {WORD} d", "c d"), metadata=metadata)
        spans = by_name(collector.spans)
        assert collector.resource["service.name"] == "seqserve"
        assert WORD not in "".join(str(request) for request in collector.requests)
    request = spans.pop("seqserve.v1.Seq2SeqService/Generate")
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    assert request.kind == Span.SPAN_KIND_SERVER
    assert request.status.code == Status.STATUS_CODE_UNSET
    found = attributes(request)
    assert found["seqserve.request_id"] == "mine-1"
    assert (found["rpc.system.name"], found["rpc.response.status_code"]) == ("grpc", "OK")
    assert (found["gen_ai.request.model"], found["gen_ai.operation.name"]) == ("pencil", "text_completion")
    assert (found["seqserve.requests"], found["gen_ai.usage.input_tokens"]) == (2, 4 + 3)
    assert found["gen_ai.usage.output_tokens"] >= 16 + 1
    assert sorted(spans) == sorted(STAGES)
    assert {span.parent_span_id for span in spans.values()} == {request.span_id}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    last = request.start_time_unix_nano
    for name in STAGES:
        span = spans[name]
        assert abs(span.start_time_unix_nano - last) < 1_000_000  # each moment is converted on its own
        assert span.end_time_unix_nano > span.start_time_unix_nano - 1_000_000
        last = span.end_time_unix_nano
    assert last <= request.end_time_unix_nano + 1_000_000


async def test_a_stream_of_many_tokens_has_no_more_spans_than_a_short_answer() -> None:
    with Collector() as collector:
        async with serving(otlp_endpoint=collector.endpoint) as served:
            assert len(await drained(served.stub.GenerateStream(ask_stream("c d")))) > 3
        assert sorted(by_name(collector.spans)) == sorted([*STAGES, "seqserve.v1.Seq2SeqService/GenerateStream"])


async def test_a_score_has_a_stage_of_its_own() -> None:
    pair = pb.ScorePair(source=ids(5), target=pb.Target(token_ids=pb.TokenIds(ids=[14])))
    with Collector() as collector:
        async with serving(otlp_endpoint=collector.endpoint) as served:
            await served.stub.Score(pb.ScoreRequest(pairs=[pair]))
        spans = by_name(collector.spans)
    assert sorted(spans) == sorted(["tokenize", "score", "seqserve.v1.Seq2SeqService/Score"])
    assert attributes(spans["seqserve.v1.Seq2SeqService/Score"])["gen_ai.usage.output_tokens"] == 2


async def test_only_what_is_the_servers_fault_makes_a_span_an_error() -> None:
    from arithmetic_engine import ArithmeticEngine

    engine = ArithmeticEngine()
    engine.poison = 27
    with Collector() as collector:
        async with serving(engine, otlp_endpoint=collector.endpoint) as served:
            await refusal(served.stub.Generate(ask(ids(27))))
            await refusal(served.stub.Generate(ask("c d", model="other")))
        broken, unknown = sorted(
            (span for span in collector.spans if span.name.endswith("/Generate")),
            key=lambda span: span.start_time_unix_nano,
        )
    assert broken.status.code == Status.STATUS_CODE_ERROR
    assert attributes(broken)["error.type"] == "ENGINE_FAILURE"
    assert unknown.status.code == Status.STATUS_CODE_UNSET
    assert attributes(unknown)["error.type"] == "MODEL_NOT_FOUND"
    assert attributes(unknown)["rpc.response.status_code"] == "NOT_FOUND"


async def test_neither_probes_nor_what_the_caller_does_not_sample_are_traced() -> None:
    unsampled = (("traceparent", f"00-{TRACE}-{PARENT}-00"),)
    with Collector() as collector:
        async with serving(otlp_endpoint=collector.endpoint) as served:
            await served.health.Check(health_pb2.HealthCheckRequest())
            await served.stub.Generate(ask("c d"), metadata=unsampled)
        assert collector.spans == []


async def test_the_sampler_and_the_name_of_the_service_are_those_of_the_variables(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "translation")
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        async with serving() as served:
            await served.stub.Generate(ask("c d"))
        assert collector.resource["service.name"] == "translation"
        count = len(collector.spans)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
        async with serving() as served:
            await served.stub.Generate(ask("c d"))
        assert len(collector.spans) == count == 5


async def test_a_collector_that_is_not_there_costs_neither_answers_nor_the_stop(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "CLOSE_SECONDS", 0.2)
    async with serving(otlp_endpoint="http://127.0.0.1:1") as served:
        assert (await served.stub.Generate(ask("c d"))).results


@pytest.mark.parametrize(("endpoint", "environment"), [
    ("", {}),
    ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "  "}),
    ("http://c:4317", {"OTEL_SDK_DISABLED": "true"}),
    ("http://c:4317", {"OTEL_TRACES_EXPORTER": "none"}),
])
def test_tracing_is_off_unless_it_is_wanted(endpoint: str, environment: dict[str, str]) -> None:
    assert open_tracing(endpoint, environment) is None


@pytest.mark.parametrize(("endpoint", "environment", "said"), [
    ("collector:4317", {}, "--otlp-endpoint: 'collector:4317' begins with neither http:// nor https://"),
    ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "c"}, "OTEL_EXPORTER_OTLP_ENDPOINT: 'c' begins with neither"),
    ("http://c:4317", {"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER: 'zipkin' is neither otlp nor none"),
    ("http://c:4318", {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "only grpc is supported"),
])
def test_what_cannot_be_had_is_refused_at_the_start(endpoint: str, environment: dict[str, str], said: str) -> None:
    with pytest.raises(StartupError, match=said):
        open_tracing(endpoint, environment)


def test_without_the_packages_the_error_names_the_extra_and_serving_without_traces_works() -> None:
    program = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
import seqserve_server.server
from seqserve_server.errors import StartupError
from seqserve_server.tracing import open_tracing
assert open_tracing("", {}) is None
try:
    open_tracing("http://collector:4317", {})
except StartupError as error:
    print(error)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--otlp-endpoint" in done.stdout
    assert "pip install 'seqserve[otel]'" in done.stdout


@pytest.mark.parametrize(("given", "found"), [
    (f"00-{TRACE}-{PARENT}-01", (TRACE, PARENT, "01")),
    (f"cc-{TRACE}-{PARENT}-00-what-a-later-version-adds", (TRACE, PARENT, "00")),
    (f"ff-{TRACE}-{PARENT}-01", None),
    (f"00-{'0' * 32}-{PARENT}-01", None),
    (f"00-{TRACE}-{'0' * 16}-01", None),
    (f"00-{TRACE.upper()}-{PARENT}-01", None),
    (f"00-{TRACE}-{PARENT}-01\n", None),
    ("", None),
])
def test_a_callers_trace_is_known_without_tracing(given: str, found: tuple[str, str, str] | None) -> None:
    assert Call("service/Method", "id", "peer", 0.0, given).trace_ids() == found
