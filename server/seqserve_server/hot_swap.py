"""Versions of models come and go while the server runs: tried in a child, loaded beside the old, swapped, drained."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from prometheus_client.registry import CollectorRegistry

from seqserve.bundle import BundleError, read_model
from seqserve_server import allocator, garbage
from seqserve_server.bundle_directories import Found, find_bundles, look_at
from seqserve_server.config import ServerConfig
from seqserve_server.cost_model import CostModel
from seqserve_server.custody import Custody
from seqserve_server.dispatch import Dispatcher
from seqserve_server.engine_thread import Runner
from seqserve_server.errors import ServerError, StartupError
from seqserve_server.gate import Gate
from seqserve_server.loop import Loop, StepFacts
from seqserve_server.metrics import ModelLabels, ModelMetrics, reload_counter
from seqserve_server.priority import in_lowered_thread
from seqserve_server.quarantine import Quarantine
from seqserve_server.request import Event
from seqserve_server.served_model import ServedModel
from seqserve_server.served_models import ServedModels, Serving
from seqserve_server.waiting import Fairness, read_weights
from seqserve_server.warm_up import warm_up

logger = logging.getLogger(__name__)
Load = Callable[[ServerConfig], ServedModel]
Try = Callable[[Path, str], Awaitable[str]]
ADDED, SWAPPED, REFUSED = "added", "swapped", "refused"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all versions of all models share."""

    config: ServerConfig
    models: ServedModels
    runner: Runner
    gate: Gate
    registry: CollectorRegistry
    quarantine: Quarantine


class HotSwap:
    """Loads what ``serve`` was given, and again whenever it is told to. Belongs to the event loop's thread.

    Args:
        load: Opens the one bundle of a configuration; in a thread of its own.
        try_out: Says in one line that a bundle decodes what it should, or raises ``BundleError``.
    """

    def __init__(self, around: Surroundings, load: Load, try_out: Try) -> None:
        self._around, self._load, self._try_out = around, load, try_out
        self._metrics: dict[str, ModelMetrics] = {}
        self._retiring: dict[str, asyncio.Task[None]] = {}
        self._refused: dict[Path, str] = {}  # traces of what was refused, so that watching tells of it once
        self._missed: set[str] = set()
        self._unreadable = ""
        self._news = 0  # versions taken or refused
        self._reloads = reload_counter(around.registry, (ADDED, SWAPPED, REFUSED))

    async def load_all(self) -> None:
        """At the start: every bundle, one after the other.

        Raises:
            BundleError, StartupError: of the first that cannot be served.
        """
        models, config = self._around.models, self._around.config
        search = await asyncio.to_thread(find_bundles, config.bundles)
        _tell_ignored(search.ignored)
        paths: dict[str, Path] = {}
        for path in search.bundles:
            try:
                model = await self._opened(replace(config, bundles=(path,)))
                name = model.description.name
                if name in paths:
                    raise StartupError(f"model {name!r} is in {paths[name]} and in {path}: one of a name can be served")
                await _of_thread(self._around.runner.work(warm_up(model)))
            except BundleError as error:
                raise BundleError(f"{path}: {error}" if len(search.bundles) > 1 else str(error)) from None
            paths[name] = path
            await self._put(model)
        models.open()

    async def run(self, asked: asyncio.Event) -> None:
        """Look again whenever asked; where the configuration says so, also every so many seconds.

        What changed by itself is taken when two looks in a row see the same: a bundle that is being written is left
        alone until it is whole.
        """
        seconds, before = self._around.config.watch_seconds, None
        while True:
            try:
                await asyncio.wait_for(asked.wait(), seconds or None)
            except TimeoutError:
                before = await self._glance(before)
                continue
            asked.clear()
            await self.reload()

    async def _glance(self, before: list[Found] | None) -> list[Found] | None:
        found = await self._look(again=False)
        if found is not None and found == before:
            await self._take(found, again=False)
        return found

    async def reload(self) -> None:
        """Serve what the paths hold now. Whatever cannot be served leaves what is served as it is."""
        before = self._news
        if (found := await self._look(again=True)) is not None:
            await self._take(found, again=True)
            if self._news == before:  # whoever asked sees that it came, and that their copy is not where they thought
                logger.info("looked again: nothing new in %d bundles", len(found))

    async def close(self) -> None:
        """No more of it: versions that still drain are left to the end of the engine thread."""
        for task in self._retiring.values():
            task.cancel()
        await asyncio.gather(*self._retiring.values(), return_exceptions=True)

    async def _look(self, *, again: bool) -> list[Found] | None:
        """The bundles there are, or None where that cannot be told."""
        try:
            search = await asyncio.to_thread(find_bundles, self._around.config.bundles)
        except (BundleError, ServerError) as error:
            if again or self._unreadable != str(error):
                self._refuse(None, error)
            self._unreadable = str(error)
            return None
        self._unreadable = ""
        if again:
            _tell_ignored(search.ignored)
        return await asyncio.to_thread(lambda: [look_at(path) for path in search.bundles])

    async def _take(self, found: list[Found], *, again: bool) -> None:
        """``again``: also what was refused before and has not changed."""
        served = {serving.model.version: serving.model.description.name for serving in self._around.models.servings}
        names, complete = await self._names(found, served, again=again)
        counts = Counter(names.values())
        for each in found:
            if each.path not in names or each.version in served:
                continue
            name = names[each.path]
            if counts[name] > 1:
                others = ", ".join(str(path) for path in names if names[path] == name)
                self._refuse(each, StartupError(f"model {name!r} is in {others}: one of a name can be served"))
            else:
                await self._bring(each, name)
        if complete:  # else one of those that could not be read may be the one that seems to be missing
            self._tell_missing(set(names.values()))

    async def _names(
        self, found: list[Found], served: dict[str, str], *, again: bool
    ) -> tuple[dict[Path, str], bool]:
        """Model names of bundles that are served or may be, and whether these are all that are there."""
        names: dict[Path, str] = {}
        there = [each for each in found if each.version]
        for each in there:
            if each.version in served:
                names[each.path] = served[each.version]
            elif again or self._refused.get(each.path) != each.traces:
                try:
                    names[each.path] = (await asyncio.to_thread(read_model, each.path)).name
                except BundleError as error:
                    self._refuse(each, error)
        return names, len(names) == len(there)

    async def _bring(self, found: Found, name: str) -> None:
        """One new version, from its files to its first request."""
        try:
            model = await self._prepared(found, name)
        except Exception as error:  # noqa: BLE001 - of a file that is not trusted anything may come; the old one serves
            self._refuse(found, error)
            return
        self._refused.pop(found.path, None)
        before = await self._put(model)
        self._reloads.labels(ADDED if before is None else SWAPPED).inc()
        self._news += 1
        logger.info(
            "model %s: version %s from %s %s", name, model.version, found.path,
            "is served" if before is None else f"takes the place of {before.model.version}",
        )
        if before is not None:
            self._retiring[name] = asyncio.create_task(self._retire(before), name="retire")

    async def _prepared(self, found: Found, name: str) -> ServedModel:
        if (retiring := self._retiring.get(name)) is not None:
            await asyncio.wait([retiring])  # two versions of a model are in memory at most
        real = found.path.resolve()  # once: a link that is turned meanwhile must not mix two bundles
        told = await self._try_out(real, found.version)
        logger.info("model %s: version %s passed its trial: %s", name, found.version, told)
        model = await self._loaded(replace(self._around.config, bundles=(real,)))
        if model.version != found.version:
            raise BundleError("its files change while they are read")
        await _of_thread(self._around.runner.work(warm_up(model)))
        return model

    async def _loaded(self, config: ServerConfig) -> ServedModel:
        """Away from the engine's thread; by it where it captures CUDA graphs, beside which nothing may be allocated."""
        precision = (await asyncio.to_thread(read_model, config.bundles[0])).precision
        if precision != "fp16":
            return await self._opened(config)
        loaded: list[ServedModel] = []
        await _of_thread(self._around.runner.call(lambda: loaded.append(self._load(config))))
        return loaded.pop()

    async def _opened(self, config: ServerConfig) -> ServedModel:
        """In a thread whose priority the runtime's pool inherits."""
        return await in_lowered_thread(lambda: self._load(config), config.engine_niceness)

    async def _put(self, model: ServedModel) -> Serving | None:
        """Step it, and let new calls have it; returns the version before."""
        around, description = self._around, model.description
        labels = ModelLabels(description.name, model.version, description.family, description.precision)
        metrics = self._metrics.get(description.name)
        if metrics is None:
            metrics = self._metrics[description.name] = ModelMetrics(labels, around.config.cache_bytes)
            around.registry.register(metrics)
        costs, note = CostModel(), metrics.attach(labels, model.engine)
        quarantine = around.quarantine
        dispatcher = Dispatcher(around.gate.beside(costs), quarantine.door(description.name, model.version))

        def observe(facts: StepFacts, events: list[Event]) -> None:
            note(facts, events)
            costs.observe(facts, events)

        fairness = Fairness(around.config.max_overtaken, read_weights(around.config.tenant_weights))
        loop = Loop(
            model.engine, model.scheduler(fairness, costs), dispatcher.publish, observe, example=model.example,
            custody=Custody(quarantine.watch),
        )
        await _of_thread(around.runner.add(loop))
        return around.models.put(Serving(model, dispatcher, loop))

    async def _retire(self, serving: Serving) -> None:
        """Free a version when the last call that began with it is over."""
        await serving.drained()
        with contextlib.suppress(ServerError):  # the engine thread has ended, and closed the loop itself
            await _of_thread(self._around.runner.remove(serving.loop))
        name = serving.model.description.name
        logger.info("model %s: version %s is no longer in memory", name, serving.model.version)
        self._metrics[name].detach(serving.model.engine)
        serving.dispatcher.detach()
        del serving  # the last to hold it
        garbage.settle_again()
        await asyncio.to_thread(allocator.give_back)
        self._retiring.pop(name, None)

    def _refuse(self, found: Found | None, error: Exception) -> None:
        if found is not None:
            self._refused[found.path] = found.traces
        self._reloads.labels(REFUSED).inc()
        self._news += 1
        where = "the bundles" if found is None else found.path
        logger.error("%s: not taken, what is served stays as it is: %s: %s", where, type(error).__name__, str(error))

    def _tell_missing(self, names: set[str]) -> None:
        missing = set(self._around.models.names) - names
        for name in sorted(missing - self._missed):
            logger.warning("model %s: its bundle is not there any more; it is served until the server ends", name)
        self._missed = missing


async def _of_thread(future: "Future[None]") -> None:
    await asyncio.wrap_future(future)


def _tell_ignored(ignored: tuple[str, ...]) -> None:
    for each in ignored:
        logger.warning("left out: %s", each)
