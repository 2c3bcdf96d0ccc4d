"""Ports: who reaches them, what one connection may cost, and the port for probes."""

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from authority import Authority
from malformed import GOAWAY, PREFACE, SETTINGS, frame
from registered import call_of_any_kind
from seqserve_server import listening
from seqserve_server.errors import ConfigError, StartupError
from seqserve_server.listening import (
    OWN_DESCRIPTORS,
    address_of,
    affordable_connections,
    channel_options,
    is_loopback,
)
from serving import PENCIL_TEXT, Served, ask, make_config, make_health, make_stub, serving

SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(("host", "own"), [
    ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True), ("localhost", True),
    ("0.0.0.0", False), ("::", False), ("[::]", False), ("10.0.0.1", False), ("192.168.1.1", False),
    ("no-such-host.invalid", False), ("", False),
])
def test_only_what_this_machine_alone_reaches_is_loopback(host: str, own: bool) -> None:
    assert is_loopback(host) is own


def test_a_name_is_loopback_only_if_all_its_addresses_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def two(*_: object) -> list[Any]:
        return [(0, 0, 0, "", ("127.0.0.1", 0)), (0, 0, 0, "", ("10.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    assert not is_loopback("both")


@pytest.mark.parametrize(("host", "address"), [
    ("127.0.0.1", "127.0.0.1:7"), ("localhost", "localhost:7"), ("::1", "[::1]:7"), ("[::1]", "[::1]:7"),
])
def test_an_ipv6_address_gets_its_brackets(host: str, address: str) -> None:
    assert address_of(host, 7) == address


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
async def test_an_address_that_others_reach_needs_tls_or_a_word(host: str) -> None:
    with pytest.raises(ConfigError, match="--tls-cert and --tls-key, or --insecure"):
        async with serving(host=host):
            pass


async def test_the_word_is_enough_and_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tokens").write_text("a-token-of-24-characters\n")
    async with serving(host="0.0.0.0", insecure=True) as served:
        assert (await served.stub.Generate(ask("c d"))).results
    assert "requests and answers cross the network as they are\n" in caplog.text
    assert "it asks for neither tokens nor certificates" in caplog.text
    caplog.clear()
    async with serving(host="0.0.0.0", insecure=True, auth_tokens_file=tmp_path / "tokens"):
        assert "and so do the tokens" in caplog.text


async def test_with_tls_every_address_may_be_served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = Authority(tmp_path).issue()
    async with serving(host="0.0.0.0", tls_cert=files.certificate, tls_key=files.key, tls_client_ca=files.certificate):
        assert "--insecure" not in caplog.text
        assert "asks for neither" not in caplog.text


@contextlib.asynccontextmanager
async def raw(served: Served) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that speaks HTTP/2 by hand."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def greeted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Whether the server takes the connection: it sends its settings."""
    try:
        writer.write(PREFACE + frame(SETTINGS, 0, 0))
        return (await reader.readexactly(9))[3] == SETTINGS
    except (OSError, asyncio.IncompleteReadError):
        return False


async def test_metadata_beyond_the_limit_is_refused_and_the_server_goes_on() -> None:
    async with serving(max_metadata_bytes=8192) as served:
        for size, code in ((4_000, "OK"), (8_300, "RESOURCE_EXHAUSTED"), (100_000, "RESOURCE_EXHAUSTED")):
            call = served.stub.Generate(ask("c d"), metadata=(("x-long", "a" * size),))
            assert (await call.code()).name == code
        many = tuple((f"x-{number}", "a" * 60) for number in range(200))
        assert (await served.stub.Generate(ask("c d"), metadata=many).code()).name == "RESOURCE_EXHAUSTED"
        assert (await served.stub.Generate(ask("c d"))).results[0].hypotheses[0].text == PENCIL_TEXT


async def test_an_answer_beyond_the_limit_is_not_sent_and_leaves_nothing_behind() -> None:
    async with serving(max_answer_bytes=1024) as served:
        assert (await served.stub.Generate(ask("c d"))).results
        assert (await served.stub.Generate(ask(*["c d"] * 20)).code()).name == "RESOURCE_EXHAUSTED"
        assert served.inside == 0
        assert (await served.stub.Generate(ask("c d"))).results


async def test_connections_beyond_the_limit_are_closed_and_find_room_when_others_go() -> None:
    async with serving(max_connections=3) as served:
        assert (await served.stub.Generate(ask("c d"))).results  # the first
        async with raw(served) as second, raw(served) as third:
            assert await greeted(*second)
            assert await greeted(*third)
            async with raw(served) as fourth:
                assert not await greeted(*fourth)
            assert (await served.stub.Generate(ask("c d"))).results
        for _ in range(20):  # room is found again, each time
            while True:
                async with raw(served) as again:
                    if await greeted(*again):
                        break


async def test_a_connection_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "HANDSHAKE_MS", 200)
    async with serving() as served, raw(served) as (reader, _):
        while await reader.read(100):  # until it is closed; the suite's own limit ends a server that never does
            pass


async def test_an_old_connection_is_told_to_go_and_no_call_is_lost() -> None:
    async with serving(max_connection_age_seconds=1) as served, raw(served) as (reader, writer):
        assert await greeted(reader, writer)
        told, calls = asyncio.ensure_future(_until_goaway(reader)), 0
        while not told.done() or calls < 20:
            assert (await served.stub.Generate(ask("c d"))).results
            calls += 1
        await told


async def _until_goaway(reader: asyncio.StreamReader) -> None:
    seen = b""
    while frame(GOAWAY, 0, 0, length=8)[3:9] not in seen:
        part = await reader.read(1000)
        assert part, "closed without a GOAWAY"
        seen += part


async def test_a_port_for_probes_serves_health_and_nothing_else(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue()
    (tmp_path / "tokens").write_text("a-token-of-24-characters\n")
    async with serving(
        tls_cert=files.certificate, tls_key=files.key, auth_tokens_file=tmp_path / "tokens", auth_health=True,
        health_port=0,
    ) as served:
        port = served.server.health_port
        assert port is not None
        assert served.server.ready_line.split()[3] == f"health=127.0.0.1:{port}"
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            for service in ("", "seqserve.v1.Seq2SeqService", "liveness"):
                request = health_pb2.HealthCheckRequest(service=service)
                assert (await make_health(channel).Check(request)).status == SERVING
            for call in (
                make_stub(channel).Generate(ask("c d")),
                call_of_any_kind(channel, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", b""),
            ):
                assert await call.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_port_for_probes_that_is_taken_is_named() -> None:
    async with serving() as served:
        with pytest.raises(StartupError, match=f"--health-port: cannot listen on 127.0.0.1:{served.server.port}"):
            async with serving(health_port=served.server.port):
                pass


@pytest.mark.parametrize(("soft", "hard", "wanted", "affordable", "raised"), [
    (1 << 16, 1 << 16, 4096, 4096, None),
    (1024, 1 << 20, 4096, 4096, 4096 + OWN_DESCRIPTORS),
    (256, 1024, 4096, 1024 - OWN_DESCRIPTORS, 1024),
    (64, 64, 4096, 1, 64),
    (1024, resource.RLIM_INFINITY, 4096, 4096, 4096 + OWN_DESCRIPTORS),
    (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 4096, 4096, None),
])
def test_no_more_connections_are_taken_than_there_are_descriptors(
    soft: int, hard: int, wanted: int, affordable: int, raised: int | None,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:
    limits = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair[0]))
    assert affordable_connections(wanted) == affordable
    assert limits == ([] if raised is None else [raised])
    assert ("--max-connections" in caplog.text) is (affordable < wanted)


def test_an_age_of_zero_is_no_age() -> None:
    names = {name for name, _ in channel_options(make_config(max_connection_age_seconds=0))}
    assert not {"grpc.max_connection_age_ms", "grpc.max_connection_age_grace_ms"} & names
    options = dict(channel_options(make_config()))
    assert (options["grpc.max_connection_age_ms"], options["grpc.max_connection_age_grace_ms"]) == (300_000, 600_000)
