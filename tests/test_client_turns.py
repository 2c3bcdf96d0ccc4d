"""Priority and tenant from a caller's Python or command line to the wire, and in-process, where they change nothing."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from fake_server import FakeServer
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve_cli.main import main
from seqserve_client import AsyncClient, Client, InvalidInput
from seqserve_client.options import ScoreOptions

TURN: dict[str, Any] = {"priority": 3, "tenant": "gold-1.a_B"}


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


@pytest.fixture
def tenants(server: FakeServer) -> list[str | None]:
    """The tenant of each call that carries inputs, in order."""
    seen: list[str | None] = []

    def note(request: Any, context: Any) -> None:
        if not isinstance(request, pb.GetModelInfoRequest):
            seen.append(dict(context.invocation_metadata()).get("x-tenant"))

    server.servicer.before = note
    return seen


def test_both_go_with_every_kind_of_call(server: FakeServer, tenants: list[str | None]) -> None:
    with Client(server.target) as client:
        client.generate(["a"], **TURN)
        assert list(client.stream("a", **TURN))
        client.score(["a"], ["b"], **TURN)
        client.translate_document("One. Two.", **TURN)
        client.generate(["a"], tenant=None, priority=None)

    async def ask() -> None:
        async with AsyncClient(server.target) as client:
            await client.generate(["a"], **TURN)
            assert [chunk async for chunk in client.stream("a", **TURN)]
            await client.score(["a"], ["b"], **TURN)

    asyncio.run(ask())
    assert tenants == [*["gold-1.a_B"] * 4, None, *["gold-1.a_B"] * 3]
    asked = [call for call in server.servicer.calls if not isinstance(call, pb.GetModelInfoRequest)]
    assert [call.options.priority for call in asked] == [3, 3, 3, 3, 0, 3, 3, 3]
    assert not asked[4].options.HasField("priority")


def test_every_option_of_scoring_has_a_place_in_the_message() -> None:
    named = set(ScoreOptions.__annotations__) - {"tenant"}
    assert named == set(pb.ScoreOptions.DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize("tenant", ["a b", "x" * 65, "ä", "a/b", "a\n", 5])
def test_a_tenant_that_is_no_name_is_told_before_anything_is_sent(server: FakeServer, tenant: Any) -> None:
    with Client(server.target) as client:
        for call in (
            lambda: client.generate(["a"], tenant=tenant), lambda: client.stream("a", tenant=tenant),
            lambda: client.score(["a"], ["b"], tenant=tenant),
        ):
            with pytest.raises(InvalidInput, match=r"options\.tenant: .* is not a name") as caught:
                call()
            assert caught.value.field == "options.tenant"
    assert server.servicer.calls == []


def test_the_command_line_has_both(server: FakeServer, tenants: list[str | None]) -> None:
    words = ["generate", "--target", server.target, "--priority", "-2", "--tenant", "gold", "a"]
    assert main(words) == 0
    assert (tenants, server.servicer.calls[-1].options.priority) == (["gold"], -2)
    assert main([*words[:3], "--stream", *words[3:]]) == 0
    assert (tenants, server.servicer.calls[-1].options.priority) == (["gold"] * 2, -2)
