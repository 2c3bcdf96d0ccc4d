"""Refusals, deadlines, priorities and tenants over real gRPC; and health, which answers whatever the load."""

import asyncio
import time
from collections import Counter
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from arithmetic_engine import ArithmeticEngine
from refusals import drained, refusal
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve_server import service
from seqserve_server.cost_model import CostModel, Costs
from serving import ENDLESS, PENCIL_TEXT, Served, ask, ask_stream, ids, serving
from test_metrics_scrape import scrape, settled

SLOW = Costs(step=(10.0, 0.0), gap=(10.0, 0.0), encode=(0.0, 0.0), score=(10.0, 10.0), tokens=(20.0, 0.0))


def knows(served: Served, costs: Costs) -> CostModel:
    """The server's cost model, which is told what things cost."""
    model = served.server.models.servings[0].dispatcher._gate._model
    model.costs = costs
    return model


def pair(**options: Any) -> pb.ScoreRequest:
    """A pair to score."""
    target = pb.Target(token_ids=pb.TokenIds(ids=[5]))
    return pb.ScoreRequest(pairs=[pb.ScorePair(source=ids(5), target=target)], options=pb.ScoreOptions(**options))


@pytest.mark.parametrize(("limits", "name", "wanted"), [
    ({"max_waiting": 1, "max_rows": 1}, "requests", 2),
    ({"max_waiting_tokens": 100}, "tokens", 2 * (3 + 1 + 64)),
    ({"max_waiting_bytes": 20}, "bytes", None),
])
async def test_each_limit_refuses_at_once_and_says_which_it_was(
    limits: dict[str, Any], name: str, wanted: int | None
) -> None:
    engine = ArithmeticEngine()
    async with serving(engine, **limits) as served:
        engine.hold()
        inside = asyncio.ensure_future(served.stub.Generate(ask("c d")))
        await served.until(lambda: served.inside == 1)
        refused = await refusal(served.stub.Generate(ask("c d", "c d", max_new_tokens=64)))
        engine.allow()
        await inside
    facts = refused.details["ErrorInfo"].metadata
    assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert facts["limit"] == name
    assert wanted is None or int(facts["wanted"]) == wanted
    assert int(facts["free"]) < int(facts["wanted"])
    delay = refused.details["RetryInfo"].retry_delay.ToMilliseconds()
    assert refused.trailing["grpc-retry-pushback-ms"] == str(delay) == "100"


async def test_a_call_that_cannot_be_let_in_is_refused_before_its_texts_are_looked_at() -> None:
    engine = ArithmeticEngine()
    async with serving(engine, max_waiting=1, max_rows=1) as served:
        bad = await refusal(served.stub.Generate(ask("c d", "", "")))
    assert bad.reason == "QUEUE_FULL"


async def test_advice_when_to_return_comes_from_what_was_learned() -> None:
    engine = ArithmeticEngine()
    async with serving(engine, max_waiting=1, max_rows=1) as served:
        knows(served, Costs((0.01, 0.0), (0.01, 0.0), (0.0, 0.0), (0.0, 0.0), (100.0, 0.0)))
        engine.hold()
        inside = asyncio.ensure_future(served.stub.Generate(ask("c d", "c d")))
        await served.until(lambda: served.inside == 2)
        told = [(await refusal(served.stub.Generate(ask("c d")))).trailing["grpc-retry-pushback-ms"] for _ in range(6)]
        engine.allow()
        await inside
    assert told == ["1000", "2000", "3000", "4000", "5000", "5000"]


async def test_a_deadline_that_cannot_be_met_is_refused_at_the_door() -> None:
    engine = ArithmeticEngine()
    async with serving(engine, max_rows=1) as served:
        engine.hold()
        inside = asyncio.ensure_future(served.stub.Generate(ask("c d")))
        await served.until(lambda: served.inside == 1)
        knows(served, SLOW)
        refused = await refusal(served.stub.Generate(ask("c d"), timeout=60))
        streamed = await refusal(drained(served.stub.GenerateStream(ask_stream("c d"), timeout=60)))
        scored = await refusal(served.stub.Score(pair(), timeout=60))
        assert served.inside == 1
        engine.allow()
        await inside
    for each in (refused, streamed, scored):
        assert (each.code, each.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_UNREACHABLE")
        assert "grpc-retry-pushback-ms" not in each.trailing
    facts = refused.details["ErrorInfo"].metadata
    assert int(facts["leastMs"]) == 210_000  # one answer of twenty steps, and a step of its own
    assert 50_000 < int(facts["remainingMs"]) <= 61_000


async def test_who_expires_in_the_queue_is_told_how_long_it_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    # The client's own deadline would end the call on its side at the same moment, and nothing would be seen.
    engine = ArithmeticEngine()
    async with serving(engine, max_rows=1) as served:
        engine.hold()
        inside = asyncio.ensure_future(served.stub.Generate(ask("c d")))
        await served.until(lambda: served.inside == 1)
        monkeypatch.setattr(service, "deadline_of", lambda context: time.monotonic() + 0.05)
        waiting = asyncio.ensure_future(refusal(served.stub.Generate(ask("c d"))))
        running = asyncio.ensure_future(refusal(served.stub.Score(pair())))
        await served.until(lambda: served.inside == 3)
        await asyncio.sleep(0.1)
        engine.allow()
        for refused in (await waiting, await running):
            assert (refused.code, refused.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_IN_QUEUE")
            assert int(refused.details["ErrorInfo"].metadata["queueMs"]) >= 50
        await inside


async def test_who_runs_when_its_time_is_over_has_another_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ArithmeticEngine()
    monkeypatch.setattr(service, "deadline_of", lambda context: time.monotonic() + 0.05)
    async with serving(engine) as served:
        engine.hold()
        call = asyncio.ensure_future(refusal(served.stub.Generate(ask(ids(*ENDLESS)))))
        await served.until(lambda: served.inside == 1)
        await served.until_stepping()
        await asyncio.sleep(0.1)
        engine.allow()
        refused = await call
    assert (refused.code, refused.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")


async def started_in_order(engine: ArithmeticEngine, served: Served, calls: list[tuple[int, str, int]]) -> list[int]:
    """Let calls of priority, tenant and a token wait together; the tokens in the order in which they were encoded."""
    engine.hold()
    first = asyncio.ensure_future(served.stub.Generate(ask("z", max_new_tokens=1)))
    await served.until_stepping()
    waiting = []
    for place, (priority, tenant, token) in enumerate(calls):
        waiting.append(asyncio.ensure_future(served.stub.Generate(
            ask(ids(token), max_new_tokens=1, priority=priority), metadata=[("x-tenant", tenant)] if tenant else [],
        )))
        await served.until(lambda place=place: served.inside == place + 2)  # type: ignore[misc]
    engine.allow()
    await asyncio.gather(first, *waiting)
    return [source[0] for batch in engine.encoded for source in batch if 3 <= source[0] < 20]


async def test_priorities_and_tenants_come_through_the_wire() -> None:
    engine = ArithmeticEngine()
    async with serving(engine, max_rows=1) as served:
        calls = [(0, "a", 3), (0, "a", 4), (0, "b", 5), (10, "", 6), (-10, "", 7), (0, "", 8)]
        assert await started_in_order(engine, served, calls) == [6, 3, 5, 8, 4, 7]


async def test_weights_of_tenants_and_the_bound_on_overtaking_come_from_the_configuration() -> None:
    engine = ArithmeticEngine()
    async with serving(engine, max_rows=1, tenant_weights="gold=4") as served:
        calls = [(0, "free", 3), (0, "free", 4), *((0, "gold", 5 + number) for number in range(4))]
        assert await started_in_order(engine, served, calls) == [3, 5, 6, 7, 8, 4]
    engine = ArithmeticEngine()
    async with serving(engine, max_rows=1, max_overtaken=1) as served:
        assert await started_in_order(engine, served, [(-1, "", 3), (0, "", 4), (0, "", 5)]) == [4, 3, 5]


@pytest.mark.parametrize(("metadata", "said"), [
    ([("x-tenant", "a b")], "at most 64 ASCII letters"), ([("x-tenant", "x" * 65)], "at most 64"),
    ([("x-tenant", "a/b")], "any of . _ - make a tenant"), ([("x-tenant", "a"), ("x-tenant", "b")], "more than once"),
])
async def test_a_tenant_that_is_no_name_is_refused(metadata: list[tuple[str, str]], said: str) -> None:
    async with serving() as served:
        for call in (
            served.stub.Generate(ask("c d"), metadata=metadata), served.stub.Score(pair(), metadata=metadata),
            drained(served.stub.GenerateStream(ask_stream("c d"), metadata=metadata)),
        ):
            refused = await refusal(call)
            assert (refused.code, refused.field) == (grpc.StatusCode.INVALID_ARGUMENT, "metadata.x-tenant")
            assert said in refused.message


async def test_a_priority_out_of_range_is_refused() -> None:
    async with serving() as served:
        for call in (served.stub.Generate(ask("c d", priority=11)), served.stub.Score(pair(priority=-11))):
            refused = await refusal(call)
            assert refused.field == "options.priority"
            assert "is outside -10..10" in refused.message
        assert (await served.stub.Score(pair(priority=10))).results


async def test_health_answers_while_a_flood_is_refused() -> None:
    engine = ArithmeticEngine()
    async with serving(engine, max_waiting=4, max_rows=1) as served:
        engine.hold()
        inside = [asyncio.ensure_future(served.stub.Generate(ask("c d"))) for _ in range(5)]
        await served.until(lambda: served.inside == 5)
        codes: Counter[grpc.StatusCode] = Counter()
        statuses: Counter[int] = Counter()

        async def flood() -> None:
            for _ in range(150):
                codes[(await refusal(served.stub.Generate(ask(*["c d"] * 20)))).code] += 1

        floods = [asyncio.ensure_future(flood()) for _ in range(8)]
        while not all(each.done() for each in floods):
            for name in ("", "seqserve.v1.Seq2SeqService", "liveness"):
                answered = await served.health.Check(health_pb2.HealthCheckRequest(service=name), timeout=20)
                statuses[answered.status] += 1
        await asyncio.gather(*floods)
        engine.allow()
        responses = await asyncio.gather(*inside)
    assert codes == {grpc.StatusCode.RESOURCE_EXHAUSTED: 1200}
    assert set(statuses) == {health_pb2.HealthCheckResponse.SERVING}
    assert sum(statuses.values()) > 20
    assert {response.results[0].hypotheses[0].text for response in responses} == {PENCIL_TEXT}


async def test_the_estimated_wait_and_what_is_open_are_on_the_metrics_page() -> None:
    engine = ArithmeticEngine()
    async with serving(engine, max_rows=1) as served:
        names = ("seqserve_estimated_wait_seconds", "seqserve_open_tokens", "seqserve_open_bytes")
        page = await scrape(served)
        assert [page.value(name) for name in names] == [0, 0, 0]
        engine.hold()
        request = ask("c d", "c d", max_new_tokens=9)
        inside = asyncio.ensure_future(served.stub.Generate(request))
        await served.until(lambda: served.inside == 2)
        knows(served, Costs((1.0, 0.0), (1.0, 0.0), (0.0, 0.0), (0.0, 0.0), (4.0, 0.0)))
        page = await scrape(served)
        assert [page.value(name) for name in names] == [8, 2 * (4 + 9), 2 * -(-request.ByteSize() // 2)]
        engine.allow()
        await inside
        page = await settled(served, 2)
        assert [page.value(name) for name in names] == [0, 0, 0]
