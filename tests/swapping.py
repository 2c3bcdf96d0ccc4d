"""Toy bundles with versions that can be told apart, a real server over them, and swaps under load.

A version's tag is put behind every source by its description, and twice into every sum by its engine. Whoever gets the
description of one version and the engine of the next gets the answer of neither.
"""

import asyncio
import contextlib
import itertools
import json
import weakref
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from arithmetic_engine import END, ArithmeticEngine
from pencil import BEST_FIRST, LOGITS, VOCABULARY, answer
from refusals import drained
from seqserve.bundle import FORMAT, BundleError, read_model
from seqserve_server.bundle_directories import look_at
from seqserve_server.config import ServerConfig
from seqserve_server.engine import Candidates, StepInput
from seqserve_server.served_model import ServedModel
from seqserve_server.server import RunningServer, running_server
from serving import ask, ask_stream, describe, ids, make_config, make_model, make_stub
from torture.prober import Samples, probing

SOURCE, LONGEST = (5, 6), 12
TAGS = (3, 7, 12, 20, 4, 9, 15, 23)


def tag_of(version: int) -> int:
    """Of any two versions in a row they differ."""
    return TAGS[version % len(TAGS)]


class TaggedEngine(ArithmeticEngine):
    """Adds twice its tag to every sum."""

    def __init__(self, tag: int, budget: int) -> None:
        super().__init__(budget)
        self.tag = tag

    def step(self, step: StepInput) -> Candidates:
        found = super().step(step)
        best, count = (found.token_ids[:, 0] + 2 * self.tag) % VOCABULARY, found.token_ids.shape[1]
        rows = [BEST_FIRST[each][:count] for each in best]
        for row, ranked in enumerate(rows):
            found.token_ids[row] = [token for _, token in ranked]
            found.log_probs[row] = [log_prob for log_prob, _ in ranked]
        return Candidates(found.log_probs, found.token_ids, LOGITS[best] if step.logits else None)


def expected(version: int) -> list[int]:
    """The answer of a version to ``SOURCE``."""
    tag = tag_of(version)
    return answer((*SOURCE, tag, END, tag, tag), LONGEST)[0]


@dataclass
class Toys:
    """A place for bundles without graphs, and what was loaded of them.

    Attributes:
        loaded: Version of each that was opened, in order, with a weak reference to its engine.
        tried: Paths that had their trial.
        bad: Names of directories that do not pass it.
    """

    directory: Path
    loaded: list[tuple[str, "weakref.ref[ArithmeticEngine]"]] = field(default_factory=list)
    tried: list[Path] = field(default_factory=list)
    bad: set[str] = field(default_factory=set)

    def write(self, place: str, version: int, name: str = "toy") -> Path:
        """A bundle below the directory."""
        path = self.directory / place
        path.mkdir(parents=True, exist_ok=True)
        model = describe(name=name, source_suffix=(tag_of(version), END))
        (path / "model.json").write_text(model.to_json())
        (path / "manifest.json").write_text(json.dumps({"format": FORMAT, "files": {"model.json": version}}))
        return path

    def turn(self, link: str, place: str) -> Path:
        """Let a link lead to a bundle, at one moment."""
        path, fresh = self.directory / link, self.directory / f".{link}"
        fresh.symlink_to(place)
        fresh.replace(path)
        return path

    def load(self, config: ServerConfig) -> ServedModel:
        """What opening such a bundle gives."""
        path = config.bundles[0].resolve()
        description = read_model(path)
        engine = TaggedEngine(description.source_suffix[0], config.cache_bytes)  # type: ignore[arg-type]
        model = make_model(config, engine)
        version = look_at(path).version
        self.loaded.append((version, weakref.ref(engine)))
        return ServedModel(description, version, model.tokenizer, engine, model.limits, path)

    async def try_out(self, path: Path, version: str) -> str:
        """Passes, but for those that are bad."""
        self.tried.append(path)
        await asyncio.sleep(0)
        if path.name in self.bad:
            raise BundleError("it gives other answers")
        return "tried"

    @property
    def alive(self) -> int:
        """Engines that are in memory."""
        return sum(engine() is not None for _, engine in self.loaded)


@contextlib.asynccontextmanager
async def serving_toys(
    toys: Toys, *paths: Path, **config: object
) -> AsyncIterator[tuple[RunningServer, grpc.aio.Channel]]:
    """A server over toy bundles, and a channel to it."""
    async with (
        running_server(make_config(bundles=paths, **config), toys.load, toys.try_out) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield server, channel


async def reloaded(server: RunningServer, count: int) -> None:
    """Ask for a reload, and wait until so many more changed bundles have been dealt with."""
    wanted = sum(outcomes(server).values()) + count
    server.reload.set()
    while sum(outcomes(server).values()) < wanted:
        await asyncio.sleep(0.005)


def outcomes(server: RunningServer) -> dict[str, int]:
    """Values of ``seqserve_reloads_total`` by result."""
    return {
        sample.labels["result"]: int(sample.value)
        for metric in server.registry.collect() if metric.name == "seqserve_reloads"
        for sample in metric.samples if sample.name == "seqserve_reloads_total"
    }


@dataclass(slots=True)
class Outcome:
    """What callers saw while versions changed.

    Attributes:
        answered: Calls that got an answer.
        failed: Calls that got an error.
        mixed: Answers that are of none of the versions served while the call ran.
        overlapped: Calls during which a swap was told of.
        samples: Of health meanwhile.
    """

    answered: int = 0
    failed: list[str] = field(default_factory=list)
    mixed: list[list[int]] = field(default_factory=list)
    overlapped: int = 0
    samples: Samples = field(default_factory=Samples)


async def swap_under_load(
    toys: Toys, swaps: int, callers: int = 4, told: Callable[[], None] = lambda: None
) -> Outcome:
    """Swap versions of one model while callers ask, unary and streamed; ``told`` of each."""
    outcome, served, done = Outcome(), [0], asyncio.Event()
    toys.write("v0", 0)
    async with (
        serving_toys(toys, toys.turn("current", "v0"), max_rows=8) as (server, channel),
        probing(f"127.0.0.1:{server.port}") as outcome.samples,
    ):
        stub = make_stub(channel)

        async def call(streamed: bool) -> list[int]:
            if streamed:
                parts = await drained(stub.GenerateStream(ask_stream(ids(*SOURCE), max_new_tokens=LONGEST)))
                return [token for part in parts for token in part.token_ids]
            response = await stub.Generate(ask(ids(*SOURCE), max_new_tokens=LONGEST))
            return list(response.results[0].hypotheses[0].token_ids)

        async def caller(number: int) -> None:
            for turn in itertools.count(number):
                if done.is_set():
                    return
                first = served[0]
                try:
                    found = await call(streamed=turn % 2 == 0)
                except grpc.aio.AioRpcError as error:
                    outcome.failed.append(str(error.code()))
                    continue
                # One more than is known: the swap comes before those who asked for it hear of it.
                between = range(first, served[0] + 2)
                outcome.answered += 1
                outcome.overlapped += len(between) > 2
                if found not in [expected(version) for version in between]:
                    outcome.mixed.append(found)

        calling = [asyncio.create_task(caller(number)) for number in range(callers)]
        try:
            for version in range(1, swaps + 1):
                await _swapped(toys, server, version)
                served[0] = version
                told()
                asked = outcome.answered
                while outcome.answered + len(outcome.failed) < asked + 2:
                    await asyncio.sleep(0)
        finally:
            done.set()
            await asyncio.gather(*calling)
        while toys.alive > 1 and not outcome.mixed and not outcome.failed:
            await asyncio.sleep(0.002)
    return outcome


async def _swapped(toys: Toys, server: RunningServer, version: int) -> None:
    toys.write(f"v{version}", version)
    toys.turn("current", f"v{version}")
    before = server.models.all()[0].version
    server.reload.set()
    while server.models.all()[0].version == before:
        await asyncio.sleep(0.001)
