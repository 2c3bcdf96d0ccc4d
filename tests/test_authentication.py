"""Tokens on a live server: every method of every service asks for one."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from arithmetic_engine import ArithmeticEngine
from infer_requests import infer, make_stub
from refusals import drained, refusal
from registered import call_of_any_kind, registered_methods
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve_server import listening, watched_files
from seqserve_server.authentication import HEALTH_METHODS
from seqserve_server.errors import StartupError
from seqserve_server.identity import caller_name
from seqserve_server.service import Seq2SeqService
from serving import PENCIL_TEXT, Served, ask, ask_stream, serving

TOKEN, OTHER = "first-token-0123456789", "other-token-0123456789"


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    file.write_text(f"alice:{TOKEN}\n")
    return file


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


async def code_of(served: Served, method: str, metadata: Any = ()) -> grpc.StatusCode:
    """What becomes of a call of any kind that sends one empty message."""
    call = call_of_any_kind(served.channel, method, b"", metadata=metadata)
    try:
        async for _ in call:
            call.cancel()  # one answer says enough, and Watch has no end
    except asyncio.CancelledError:
        return grpc.StatusCode.OK
    except grpc.aio.AioRpcError:
        pass
    code: grpc.StatusCode = await call.code()
    return code


async def open_to_strangers(served: Served, methods: list[str]) -> set[str]:
    """Methods that answer anything but UNAUTHENTICATED without a token, or with one that nobody gave out."""
    return {
        method for method in methods for metadata in ((), bearer("not-a-token-of-anybody"), bearer(""))
        if await code_of(served, method, metadata) is not grpc.StatusCode.UNAUTHENTICATED
    }


async def test_every_method_asks_for_a_token_but_health(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = registered_methods(monkeypatch)
    async with serving(auth_tokens_file=tokens) as served:
        assert set(methods) >= {
            "/seqserve.v1.Seq2SeqService/" + method.name
            for method in pb.DESCRIPTOR.services_by_name["Seq2SeqService"].methods
        } | {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"}
        health = {method for method in methods if method.startswith("/grpc.health.v1.Health/")}
        assert await open_to_strangers(served, list(methods)) == health
        assert health <= set(HEALTH_METHODS)
        for method in methods:
            assert await code_of(served, method, bearer(TOKEN)) is not grpc.StatusCode.UNAUTHENTICATED


async def test_a_method_that_somebody_exempts_is_found(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = registered_methods(monkeypatch)
    forgotten = "/seqserve.v1.Seq2SeqService/Tokenize"
    monkeypatch.setattr(listening, "HEALTH_METHODS", (*HEALTH_METHODS, forgotten))
    async with serving(auth_tokens_file=tokens) as served:
        assert forgotten in await open_to_strangers(served, list(methods))


async def test_health_asks_too_where_it_is_told_to(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = registered_methods(monkeypatch)
    async with serving(auth_tokens_file=tokens, auth_health=True) as served:
        assert await open_to_strangers(served, list(methods)) == set()
        response = await served.health.Check(health_pb2.HealthCheckRequest(), metadata=bearer(TOKEN))
        assert response.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_refusal_has_the_details_of_every_error_and_starts_nothing(tokens: Path) -> None:
    async with serving(auth_tokens_file=tokens) as served:
        for call in (served.stub.Generate(ask("c d")), served.stub.GenerateStream(ask_stream("c d")).read()):
            error = await refusal(call)
            assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
            assert "grpc-retry-pushback-ms" not in error.trailing
        error = await refusal(served.stub.Generate(ask("c d"), metadata=bearer(OTHER)))
        assert error.message == "the call's bearer token is not known"
        assert len(served.engine.encoded) == 1  # the warm-up
        response = await served.stub.Generate(ask("c d"), metadata=bearer(TOKEN))
        assert response.results[0].hypotheses[0].text == PENCIL_TEXT


async def test_an_unknown_method_is_unknown_with_a_token_and_without(tokens: Path) -> None:
    async with serving(auth_tokens_file=tokens) as served:
        for metadata in ((), bearer(TOKEN)):
            assert await code_of(served, "/made.up/Method", metadata) is grpc.StatusCode.UNIMPLEMENTED


async def test_without_a_file_of_tokens_none_is_asked_for() -> None:
    async with serving() as served:
        assert (await served.stub.Generate(ask("c d"))).results


async def test_tokens_are_rotated_without_a_restart(
    tokens: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watched_files, "RECHECK_SECONDS", 0.0)

    async def let_in(token: str) -> bool:
        return await code_of(served, "/seqserve.v1.Seq2SeqService/GetModelInfo", bearer(token)) is grpc.StatusCode.OK

    async with serving(auth_tokens_file=tokens) as served:
        assert [await let_in(TOKEN), await let_in(OTHER)] == [True, False]
        tokens.write_text(f"{TOKEN}\n{OTHER}\n")
        assert [await let_in(TOKEN), await let_in(OTHER)] == [True, True]
        tokens.write_text(f"{TOKEN} expires=2020-01-01T00:00:00Z\n{OTHER}\n")
        assert [await let_in(TOKEN), await let_in(OTHER)] == [False, True]
        tokens.write_text("# all revoked by mistake\n")
        assert [await let_in(TOKEN), await let_in(OTHER)] == [False, True]
        assert "the tokens stay as they were: --auth-tokens-file: " in caplog.text
        tokens.unlink()
        assert [await let_in(TOKEN), await let_in(OTHER)] == [False, True]
    assert not any(token in caplog.text for token in (TOKEN, OTHER))


async def test_handlers_know_whose_token_it_was(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens.write_text(f"alice:{TOKEN}\nbob:{OTHER}\n")
    seen = []
    inner = Seq2SeqService.GetModelInfo

    async def noting(self: Any, request: Any, context: Any) -> Any:
        seen.append(caller_name.get())
        return await inner(self, request, context)

    monkeypatch.setattr(Seq2SeqService, "GetModelInfo", noting)
    async with serving(auth_tokens_file=tokens) as served:
        for token in (TOKEN, OTHER, TOKEN):
            await served.stub.GetModelInfo(pb.GetModelInfoRequest(), metadata=bearer(token))
    assert seen == ["alice", "bob", "alice"]
    assert caller_name.get() == ""


async def test_a_token_of_a_tenant_is_of_no_other(tokens: Path) -> None:
    tokens.write_text(f"alice:{TOKEN} tenant=gold\nproxy:{OTHER}\n")
    engine = ArithmeticEngine()
    async with serving(engine, auth_tokens_file=tokens, max_rows=1) as served:
        stub, open_stub = served.stub, make_stub(served.channel)
        other = (*bearer(TOKEN), ("x-tenant", "silver"))
        for call in (
            stub.Generate(ask("c d"), metadata=other), drained(stub.GenerateStream(ask_stream("c d"), metadata=other)),
            open_stub.ModelInfer(infer("c d"), metadata=other),
        ):
            error = await refusal(call)
            assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "TENANT_DENIED")
            assert error.message == "metadata.x-tenant: the call's token belongs to another tenant"
        (message,) = [message async for message in open_stub.ModelStreamInfer(iter([infer("c d")]), metadata=other)]
        assert message.error_message.startswith("PERMISSION_DENIED: metadata.x-tenant")
        assert len(engine.encoded) == 1  # the warm-up
        engine.hold()
        calls = [
            stub.Generate(ask("c d"), metadata=metadata) for metadata in (
                bearer(TOKEN), (*bearer(TOKEN), ("x-tenant", "gold")), (*bearer(TOKEN), ("x-tenant", "")),
                bearer(OTHER), (*bearer(OTHER), ("x-tenant", "silver")),  # which is believed, as a proxy's is
            )
        ]
        await served.until(lambda: served.inside == len(calls))
        held = {name: load.requests for name, load in served.server.gate._ledger.tenants.items()}
        engine.allow()
        await asyncio.gather(*calls)
    assert held == {"gold": 3, "": 1, "silver": 1}


async def test_reflection_lists_services_to_those_with_a_token(tokens: Path) -> None:
    async with serving(auth_tokens_file=tokens) as served:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(served.channel)  # type: ignore[arg-type]
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        call = stub.ServerReflectionInfo(iter([request]), metadata=bearer(TOKEN))
        assert [service.name async for response in call for service in response.list_services_response.service]


@pytest.mark.parametrize(("content", "said"), [
    (None, "cannot read .*: No such file"), (b"", "0 tokens are outside"), (b"\xff\xfe", "is not UTF-8"),
    (b"short", "line 1 has less than 16"),
])
async def test_a_server_does_not_start_without_a_good_file(content: bytes | None, said: str, tokens: Path) -> None:
    tokens.unlink() if content is None else tokens.write_bytes(content)
    with pytest.raises(StartupError, match=said):
        async with serving(auth_tokens_file=tokens):
            pass
