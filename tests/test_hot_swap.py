"""New versions under load, bad ones, half written ones: what callers get, what stays in memory, and what is said."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from refusals import drained
from seqserve.bundle import BundleError
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve_server import hot_swap, served_models
from seqserve_server.config import ServerConfig
from seqserve_server.served_model import ServedModel
from seqserve_server.served_models import Serving
from seqserve_server.server import RunningServer
from serving import ask, ask_stream, ids, make_stub
from swapping import (
    LONGEST,
    SOURCE,
    TaggedEngine,
    Toys,
    expected,
    outcomes,
    reloaded,
    serving_toys,
    swap_under_load,
)

SWAPS = 50


@pytest.fixture
def toys(tmp_path: Path) -> Toys:
    return Toys(tmp_path)


@asynccontextmanager
async def serving_link(toys: Toys, **config: Any) -> AsyncIterator[tuple[RunningServer, Any]]:
    """A server over a link to version 0, and its stub."""
    toys.write("v0", 0)
    async with serving_toys(toys, toys.turn("current", "v0"), **config) as (server, channel):
        yield server, make_stub(channel)


async def tokens(stub: Any) -> list[int]:
    response = await stub.Generate(ask(ids(*SOURCE), max_new_tokens=LONGEST))
    return list(response.results[0].hypotheses[0].token_ids)


async def version(stub: Any) -> str:
    info = await stub.GetModelInfo(pb.GetModelInfoRequest())
    return str(info.models[0].version)


async def test_swaps_under_load_fail_no_call_mix_no_answer_and_leave_one_engine(toys: Toys) -> None:
    gc.disable()  # what is replaced goes by itself: a cycle would keep its memory until somebody collects
    try:
        outcome = await swap_under_load(toys, SWAPS)
    finally:
        gc.enable()
    assert (outcome.failed, outcome.mixed) == ([], [])
    assert outcome.answered > SWAPS
    assert outcome.overlapped > 0
    assert len(toys.loaded) == SWAPS + 1


async def test_a_swap_in_two_moments_is_seen(toys: Toys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the description of the new version is served before its engine."""
    put = hot_swap.HotSwap._put

    async def torn(self: hot_swap.HotSwap, model: ServedModel) -> Serving | None:
        for serving in self._around.models.servings:
            serving.model = model
        for _ in range(20):
            await asyncio.sleep(0.001)
        return await put(self, model)

    monkeypatch.setattr(hot_swap.HotSwap, "_put", torn)
    assert (await swap_under_load(toys, 20)).mixed != []


async def test_an_old_version_that_is_freed_too_early_is_seen(toys: Toys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: nobody waits for the calls that began with it."""
    async def drained_at_once(self: Serving) -> None:
        del self

    monkeypatch.setattr(served_models.Serving, "drained", drained_at_once)
    assert (await swap_under_load(toys, 20)).failed != []


async def test_who_is_inside_ends_on_the_old_version_which_then_leaves(toys: Toys) -> None:
    async with serving_link(toys) as (server, stub):
        (old,) = server.models.servings
        engine = old.model.engine
        assert isinstance(engine, TaggedEngine)
        del old
        engine.hold()
        try:
            inside = asyncio.ensure_future(stub.Generate(ask(ids(*SOURCE), max_new_tokens=LONGEST)))
            stream = stub.GenerateStream(ask_stream(ids(*SOURCE), max_new_tokens=LONGEST))
            streaming = asyncio.ensure_future(drained(stream))
            await asyncio.to_thread(engine.stepping.wait, 30)
            while server.open_requests < 2:
                await asyncio.sleep(0.002)
            toys.write("v1", 1)
            toys.turn("current", "v1")
            # The engine thread is held in a step of the old version; what needs it waits, and callers of the new too.
            server.reload.set()
            while not toys.tried:
                await asyncio.sleep(0.002)
        finally:
            engine.allow()
        del engine
        found = (await inside).results[0].hypotheses[0].token_ids
        assert list(found) == expected(0)
        assert [token for part in await streaming for token in part.token_ids] == expected(0)
        while toys.alive > 1:
            await asyncio.sleep(0.002)
        assert await tokens(stub) == expected(1)


async def test_a_version_that_does_not_pass_leaves_the_old_one_and_is_told_of_once(
    toys: Toys, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving_link(toys) as (server, stub):
        before = await version(stub)
        toys.write("v1", 1)
        toys.bad.add("v1")
        toys.turn("current", "v1")
        await reloaded(server, 1)
        assert outcomes(server) == {"added": 0, "swapped": 0, "refused": 1}
        assert (await version(stub), await tokens(stub)) == (before, expected(0))
        assert "what is served stays as it is: BundleError: it gives other answers" in caplog.text
        await reloaded(server, 1)  # who asks again is told again
        toys.bad.clear()
        await reloaded(server, 1)
        assert outcomes(server) == {"added": 0, "swapped": 1, "refused": 2}
        assert (await version(stub) != before, await tokens(stub)) == (True, expected(1))


@pytest.mark.parametrize("wrong", ["load", "changed", "warm_up"])
async def test_whatever_goes_wrong_on_the_way_leaves_the_old_one(
    toys: Toys, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    # Reports of a test keep what is logged, with frames of the engine that is to go.
    monkeypatch.setattr(logging.getLogger("seqserve_server.isolation"), "disabled", True)
    load = toys.load

    def broken(config: ServerConfig) -> ServedModel:
        model = load(config)
        if config.bundles[0].resolve().name == "v0":
            return model
        if wrong == "load":
            raise MemoryError("no more")
        if wrong == "changed":
            return ServedModel(model.description, "other", model.tokenizer, model.engine, model.limits)
        model.engine.poison = 1  # type: ignore[attr-defined]
        return model

    monkeypatch.setattr(toys, "load", broken)
    async with serving_link(toys) as (server, stub):
        toys.write("v1", 1)
        toys.turn("current", "v1")
        await reloaded(server, 1)
        assert outcomes(server)["refused"] == 1
        assert await tokens(stub) == expected(0)
        gc.collect()  # the error that was raised held frames, and they it
        assert toys.alive == 1
        assert not server.failed.is_set()


async def test_models_join_but_none_leaves_by_itself(toys: Toys, caplog: pytest.LogCaptureFixture) -> None:
    toys.write("models/de", 0, name="de")
    async with serving_toys(toys, toys.directory / "models") as (server, channel):
        stub = make_stub(channel)
        toys.write("models/fr", 1, name="fr")
        await reloaded(server, 1)
        assert outcomes(server)["added"] == 1
        assert server.models.names == ["de", "fr"]
        (toys.directory / "models/fr/manifest.json").unlink()
        toys.write("models/nl", 2, name="nl")
        await reloaded(server, 1)
        assert "model fr: its bundle is not there any more" in caplog.text
        assert len((await stub.Generate(ask("c d", model="fr"))).results) == 1


async def test_a_second_bundle_of_a_name_is_refused_with_both_paths(
    toys: Toys, caplog: pytest.LogCaptureFixture
) -> None:
    toys.write("models/de", 0, name="de")
    async with serving_toys(toys, toys.directory / "models") as (server, _):
        other = toys.write("models/copy", 1, name="de")
        await reloaded(server, 1)
        assert f"model 'de' is in {toys.directory / 'models/copy'}, {toys.directory / 'models/de'}" in caplog.text
        assert outcomes(server) == {"added": 0, "swapped": 0, "refused": 1}
        assert other not in toys.tried


async def test_who_asks_and_nothing_is_new_is_told_so(toys: Toys, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving_link(toys) as (server, _):
        server.reload.set()
        while "looked again: nothing new in 1 bundles" not in caplog.text:
            await asyncio.sleep(0.005)


async def test_watching_takes_what_has_come_to_rest_and_tells_of_a_bad_one_once(
    toys: Toys, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    glance = hot_swap.HotSwap._glance

    async def counted(self: hot_swap.HotSwap, before: Any) -> Any:
        found = await glance(self, before)
        looks.append(1)
        return found

    async def looked(count: int) -> None:
        wanted = len(looks) + count
        while len(looks) < wanted:
            await asyncio.sleep(0.002)

    monkeypatch.setattr(hot_swap.HotSwap, "_glance", counted)
    async with serving_link(toys, watch_seconds=0.01) as (server, stub):
        await looked(3)
        toys.bad.add("v1")
        toys.write("v1", 1)
        toys.turn("current", "v1")
        while not outcomes(server)["refused"]:
            await asyncio.sleep(0.002)
        await looked(5)
        assert outcomes(server)["refused"] == 1
        assert len(toys.tried) == 1
        toys.bad.clear()
        (toys.directory / "v1/model.json").touch()  # a file of it changed: the same manifest is tried again
        while not outcomes(server)["swapped"]:
            await asyncio.sleep(0.002)
        assert await tokens(stub) == expected(1)
        (toys.directory / "current").unlink()
        await looked(3)
        assert await tokens(stub) == expected(1)
    assert caplog.text.count("is not there any more") == 1


async def test_counters_of_a_model_go_on_over_its_versions(toys: Toys) -> None:
    async with serving_link(toys) as (server, stub):
        for number in range(1, 4):
            await tokens(stub)
            while _ended(server) < number:
                await asyncio.sleep(0.002)
            toys.write(f"v{number}", number)
            toys.turn("current", f"v{number}")
            await reloaded(server, 1)
        assert _ended(server) == 3
        pages = [metric for metric in server.registry.collect() if metric.name == "seqserve_model_info"]
        assert [sample.labels["model_version"] for metric in pages for sample in metric.samples] == [
            await version(stub)
        ]


def _ended(server: RunningServer) -> float:
    found = [
        server.registry.get_sample_value("seqserve_requests_total", {"model_name": "toy", "finish_reason": reason})
        for reason in ("eos", "length")
    ]
    return sum(value or 0.0 for value in found)


async def test_a_bundle_that_fails_at_the_start_names_its_path_when_there_are_several(toys: Toys) -> None:
    toys.write("models/de", 0, name="de")
    toys.write("models/fr", 0, name="fr")
    (toys.directory / "models/fr/model.json").write_text("{")
    with pytest.raises(BundleError, match=r"models/fr: model\.json: not JSON"):
        async with serving_toys(toys, toys.directory / "models"):
            raise AssertionError("it must not start")


async def test_leaving_while_a_version_is_tried_waits_for_nothing(toys: Toys) -> None:
    begun = asyncio.Event()

    async def endless(path: Path, version: str) -> str:
        begun.set()
        await asyncio.Event().wait()
        return ""

    toys.try_out = endless  # type: ignore[method-assign]
    async with serving_link(toys) as (server, stub):
        toys.write("v1", 1)
        toys.turn("current", "v1")
        server.reload.set()
        await begun.wait()
        assert await tokens(stub) == expected(0)
