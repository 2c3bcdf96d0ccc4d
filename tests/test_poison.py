"""Requests that end a real process, and what the next one makes of them."""

import asyncio
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

import infer_requests
from pencil_server import DIE, HANG, KILL, Process, pencil_server
from refusals import drained, refusal
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve_client import AsyncClient, Quarantined
from serving import PENCIL_TEXT, ask, ask_stream, ids, make_stub

REFUSED = (grpc.StatusCode.FAILED_PRECONDITION, "QUARANTINED")
WORD = "u"  # the pencil's word for KILL


def scored(token: int) -> pb.ScoreRequest:
    target = pb.Target(token_ids=pb.TokenIds(ids=[14]))
    return pb.ScoreRequest(pairs=[pb.ScorePair(source=ids(token), target=target)])


CALLS: dict[str, Any] = {
    "unary": lambda stub, token: stub.Generate(ask(ids(5), ids(token))),
    "stream": lambda stub, token: drained(stub.GenerateStream(ask_stream(ids(token)))),
    "score": lambda stub, token: stub.Score(scored(token)),
}


async def lost(server: Process, call: str, token: int) -> int:
    """Have a request end the process; returns its exit code."""
    async with grpc.aio.insecure_channel(server.target) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await CALLS[call](make_stub(channel), token)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    return await asyncio.to_thread(server.process.wait, 60)


async def figures(server: Process) -> dict[str, float]:
    def read() -> str:
        with urlopen(f"http://{server.metrics}/metrics") as response:
            return str(response.read().decode())

    page = await asyncio.to_thread(read)
    return {
        sample.name: sample.value for family in text_string_to_metric_families(page) for sample in family.samples
        if sample.name.endswith(("suspect_requests", "quarantined_requests"))
        or sample.labels.get("reason") == "QUARANTINED"
    }


@pytest.mark.parametrize(("call", "token"), [
    ("unary", KILL), ("stream", KILL), ("score", KILL), ("unary", DIE), ("stream", HANG),
])
async def test_a_request_ends_two_processes_and_no_third(tmp_path: Path, call: str, token: int) -> None:
    settings: dict[str, Any] = {"crash_journal": tmp_path / "journal", "hang_seconds": 1}
    for _ in range(2):
        with pencil_server(**settings) as server:
            assert await lost(server, call, token) in (1, -9)
    with pencil_server(**settings) as server:
        async with grpc.aio.insecure_channel(server.target) as channel:
            stub = make_stub(channel)
            found = await refusal(CALLS[call](stub, token))
            assert (found.code, found.reason) == REFUSED
            assert found.details["ErrorInfo"].metadata["place"] == ("1" if call == "unary" else "0")
            assert "RetryInfo" not in found.details
            assert (await stub.Generate(ask("c d"))).results[0].hypotheses[0].text == PENCIL_TEXT
        told = await figures(server)
        assert told["seqserve_quarantined_requests"] == 1
        assert told["seqserve_requests_rejected_total"] == (2 if call == "unary" else 1)


async def test_both_protocols_and_the_client_say_so(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"crash_journal": tmp_path / "journal"}
    for _ in range(2):
        with pencil_server(**settings) as server:
            async with grpc.aio.insecure_channel(server.target) as channel:
                with pytest.raises(grpc.aio.AioRpcError):
                    await infer_requests.make_stub(channel).ModelInfer(infer_requests.infer(WORD))
            assert await asyncio.to_thread(server.process.wait, 60) == -9
    with pencil_server(**settings) as server:
        async with AsyncClient(server.target, timeout=30) as client:
            with pytest.raises(Quarantined, match="input 0 of this call"):
                await client.generate([WORD])
        async with grpc.aio.insecure_channel(server.target) as channel:
            stub = infer_requests.make_stub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stub.ModelInfer(infer_requests.infer(WORD))
            assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            answers = await infer_requests.answers_to(stub, infer_requests.infer(WORD))
            assert [each.error_message[:20] for each in answers] == ["FAILED_PRECONDITION:"]


async def test_whoever_ran_beside_it_is_answered_and_cleared(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"crash_journal": tmp_path / "journal", "step_seconds": 0.02}
    texts = ["a b", "c d", "e f", "g h"]
    with pencil_server(**settings) as server:
        async with AsyncClient(server.target, max_attempts=1) as client:
            calls = [asyncio.ensure_future(client.generate([text], min_new_tokens=40)) for text in texts]
            await asyncio.sleep(0.3)
            await lost(server, "unary", KILL)
            await asyncio.gather(*calls, return_exceptions=True)
    with pencil_server(**settings) as server:
        before = await figures(server)
        assert before["seqserve_suspect_requests"] >= 2, "nobody ran beside it"
        async with AsyncClient(server.target, max_attempts=1) as client:
            answers = [client.generate([text], min_new_tokens=40) for text in texts]
            assert all(await asyncio.gather(*answers))
        assert (await figures(server))["seqserve_suspect_requests"] == 2  # of the call that killed it, both inputs


async def test_a_server_that_is_told_to_stop_suspects_nobody(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"crash_journal": tmp_path / "journal", "step_seconds": 0.05, "drain_seconds": 0}
    with pencil_server(**settings) as server:
        async with AsyncClient(server.target, max_attempts=1) as client:
            call = asyncio.ensure_future(client.generate(["c d"], min_new_tokens=60))
            await asyncio.sleep(0.3)
            server.process.terminate()
            await asyncio.gather(call, return_exceptions=True)
        assert await asyncio.to_thread(server.process.wait, 60) == 0
    with pencil_server(**settings) as server:
        assert (await figures(server))["seqserve_suspect_requests"] == 0


async def test_without_a_journal_a_request_may_end_any_number_of_processes() -> None:
    for _ in range(3):
        with pencil_server() as server:
            assert await lost(server, "unary", KILL) == -9


def test_a_second_server_on_one_journal_does_not_start(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with (
        pencil_server(crash_journal=journal), pytest.raises(AssertionError, match="did not start"),
        pencil_server(crash_journal=journal),
    ):
        pass
