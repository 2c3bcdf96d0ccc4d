"""Known traffic, then the metrics page as a scraper reads it."""

import asyncio
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from arithmetic_engine import COST, ArithmeticEngine, answer
from refusals import drained, refusal
from seqserve_server.capacity import Capacity
from seqserve_server.metrics import HISTOGRAMS
from serving import ENDLESS, PENCIL_IDS, Served, ask, ask_stream, ids, serving
from test_bad_input import BAD

MODEL = {"model_name": "pencil"}
METHOD = {"grpc_service": "seqserve.v1.Seq2SeqService"}


class Page:
    """Samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}

    def value(self, name: str, **labels: str) -> float:
        (value,) = self.values(name, **labels)
        return value

    def values(self, name: str, **labels: str) -> Iterator[float]:
        for family in self.families.values():
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    yield sample.value

    def total(self, name: str, **labels: str) -> float:
        return sum(self.values(name, **labels))


async def scrape(served: Served) -> Page:
    def read() -> str:
        with urlopen(f"http://127.0.0.1:{served.server.metrics_port}/metrics") as response:
            assert response.status == 200
            return str(response.read().decode())

    return Page(await asyncio.to_thread(read))


async def settled(served: Served, ended: int) -> Page:
    """The page once the engine thread has observed the end of so many requests; callers are told before it does."""
    await served.until(lambda: served.inside == 0 and served.engine.occupied == [])
    while (await scrape(served)).total("seqserve_requests_total") < ended:
        pass
    return await scrape(served)


async def test_every_series_is_there_at_zero_before_any_traffic() -> None:
    async with serving() as served:
        page = await scrape(served)
    for name in HISTOGRAMS:
        assert page.families[name].type == "histogram"
        assert page.value(f"{name}_count", **MODEL) == 0
        assert page.value(f"{name}_sum", **MODEL) == 0
    for reason in ("eos", "length", "deadline", "cancelled", "failed"):
        assert page.value("seqserve_requests_total", **MODEL, finish_reason=reason) == 0
    for name in ("seqserve_input_tokens_total", "seqserve_output_tokens_total", "seqserve_requests_waiting",
                 "seqserve_requests_running"):
        assert page.value(name, **MODEL) == 0
    assert page.value("seqserve_model_info", **MODEL, model_version="0123456789ab", family="native") == 1


async def test_buckets_start_at_a_quarter_of_a_millisecond_and_are_cumulative() -> None:
    async with serving() as served:
        await served.stub.Generate(ask("c d"))
        page = await settled(served, 1)
    for name in HISTOGRAMS:
        if name.endswith("_seconds"):
            buckets = [(sample.labels["le"], sample.value) for sample in page.families[name].samples
                       if sample.name.endswith("_bucket")]
            assert buckets[0][0] == "0.00025"
            assert buckets[-1] == ("+Inf", page.value(f"{name}_count", **MODEL))
            counts = [count for _, count in buckets]
            assert counts == sorted(counts)


async def test_known_traffic_is_counted_exactly() -> None:
    async with serving() as served:
        await served.stub.Generate(ask("c d"))  # 16 tokens, alone
        await served.stub.Generate(ask(ids(*ENDLESS), ids(*ENDLESS), max_new_tokens=5))  # twice 5 tokens
        await drained(served.stub.GenerateStream(ask_stream("c d", max_new_tokens=4)))
        page = await settled(served, 4)
    steps = 16 + 5 + 4
    assert page.value("seqserve_input_tokens_total", **MODEL) == 3 + 2 + 2 + 3
    assert page.value("seqserve_output_tokens_total", **MODEL) == 16 + 10 + 4
    assert page.value("seqserve_requests_total", finish_reason="eos") == 1
    assert page.value("seqserve_requests_total", finish_reason="length") == 3
    assert page.value("seqserve_decode_step_seconds_count") == steps
    assert page.value("seqserve_batch_rows_count") == steps
    assert page.value("seqserve_batch_rows_sum") == 16 + 10 + 4
    assert page.value("seqserve_batch_rows_bucket", le="1") == 16 + 4
    assert page.value("seqserve_encode_seconds_count") == 3
    for name in ("request_queue", "time_to_first_token", "request_duration", "decode", "time_per_output_token"):
        assert page.value(f"seqserve_{name}_seconds_count") == 4
    assert page.value("seqserve_request_input_tokens_count") == page.value("seqserve_request_output_tokens_count") == 4
    assert page.value("seqserve_request_input_tokens_sum") == 3 + 2 + 2 + 3
    assert page.value("seqserve_request_input_tokens_bucket", le="2") == 2
    assert page.value("seqserve_request_output_tokens_sum") == 16 + 10 + 4
    assert page.value("seqserve_request_output_tokens_bucket", le="5") == 3
    assert page.value("seqserve_inter_token_seconds_count") == 15 + 2 * 4 + 3
    queue, first, whole = (page.value(f"seqserve_{name}_seconds_sum")
                           for name in ("request_queue", "time_to_first_token", "request_duration"))
    assert 0 < queue < first < whole
    between = page.value("seqserve_inter_token_seconds_sum")
    assert whole - first == pytest.approx(between)


async def test_gauges_follow_what_waits_and_runs_and_come_back_to_zero() -> None:
    engine = ArithmeticEngine()
    async with serving(engine, max_rows=2) as served:
        engine.hold()
        call = served.stub.Generate(ask(*["c d"] * 5))
        await served.until(lambda: served.inside == 5)
        engine.allow(2)
        await served.until(lambda: len(engine.steps) >= 2 + 2)
        page = await scrape(served)
        assert (page.value("seqserve_requests_running"), page.value("seqserve_requests_waiting")) == (2, 3)
        engine.allow()
        await call
        page = await settled(served, 5)
    assert (page.value("seqserve_requests_running"), page.value("seqserve_requests_waiting")) == (0, 0)
    used = COST.bytes_of(Capacity(8, 32, 32, (8, 0, 0)))
    assert page.value("seqserve_cache_bytes") == used
    assert page.value("seqserve_cache_usage_ratio") == used / 2**20


async def test_what_ends_otherwise_is_counted_by_how_it_ended() -> None:
    engine = ArithmeticEngine()
    engine.poison, engine.nan = 27, 28
    async with serving(engine) as served:
        await refusal(served.stub.Generate(ask(ids(27))))
        await refusal(served.stub.Generate(ask(ids(28))))
        engine.hold()
        cancelled = served.stub.Generate(ask(ids(*ENDLESS)))
        await served.until_stepping()
        cancelled.cancel()
        await served.until_abandoned(1)
        engine.allow()
        page = await settled(served, 3)
    assert page.value("seqserve_requests_total", finish_reason="failed") == 2
    assert page.value("seqserve_requests_total", finish_reason="cancelled") == 1
    assert page.value("seqserve_output_tokens_total") == 2 + 1  # before the NaN, and in the held step
    assert page.value("seqserve_input_tokens_total") == 2 + 2


async def test_grpc_calls_are_counted_by_method_and_code() -> None:
    async with serving() as served:
        await served.stub.Generate(ask("c d"))
        for request, *_ in BAD.values():
            await refusal(served.stub.Generate(request))
        await drained(served.stub.GenerateStream(ask_stream("c d")))
        await refusal(served.stub.Generate(ask("c d", model="other")))
        nothing: Any = served.channel.unary_unary("/seqserve.v1.Seq2SeqService/Nothing")
        with pytest.raises(grpc.aio.AioRpcError):
            await nothing(b"")
        page = await scrape(served)
    bad = len(BAD)
    handled = "grpc_server_handled_total"
    assert page.value(handled, **METHOD, grpc_method="Generate", grpc_code="OK", grpc_type="unary") == 1
    assert page.value(handled, **METHOD, grpc_method="Generate", grpc_code="InvalidArgument") == bad
    assert page.value(handled, **METHOD, grpc_method="Generate", grpc_code="NotFound") == 1
    assert page.value(handled, **METHOD, grpc_method="GenerateStream", grpc_code="OK", grpc_type="server_stream") == 1
    assert page.value("grpc_server_started_total", **METHOD, grpc_method="Generate") == bad + 2
    assert page.value("grpc_server_handling_seconds_count", **METHOD, grpc_method="Generate") == bad + 2
    assert page.total(handled, grpc_method="Nothing") == 0


async def test_each_token_of_the_pencil_answer_is_one_observation() -> None:
    async with serving() as served:
        for _ in range(3):
            await served.stub.Generate(ask("c d"))
        page = await settled(served, 3)
    tokens, _, _ = answer([5, 6, 1], 64)
    assert tokens == PENCIL_IDS
    assert page.value("seqserve_output_tokens_total") == 3 * (len(PENCIL_IDS) + 1)
