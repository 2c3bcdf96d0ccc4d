"""The models that are served, by name: which one a request means, and who still uses one that was replaced."""

import asyncio
import contextlib
import weakref
from collections.abc import Iterator

from seqserve_server.call_record import CURRENT
from seqserve_server.dispatch import Closed, Dispatcher
from seqserve_server.errors import InvalidRequest, Loading, StartupError, UnknownModel
from seqserve_server.loop import Loop
from seqserve_server.served_model import ServedModel


class Serving:
    """One version of a model, and the way to its rows. Belongs to the event loop's thread."""

    def __init__(self, model: ServedModel, dispatcher: Dispatcher, loop: Loop) -> None:
        self.model, self.dispatcher, self.loop = model, dispatcher, loop
        dispatcher.attach(loop)
        self._calls = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """While a call is inside, this version is not taken down: its last request may not have been made yet."""
        self._calls += 1
        self._unused.clear()
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self._unused.set()

    @property
    def calls(self) -> int:
        """Calls that use this version."""
        return self._calls

    async def drained(self) -> None:
        """Wait until no call uses it. Of a version that no new call can get, this is for good."""
        await self._unused.wait()


class ServedModels:
    """What ``serve`` serves. Belongs to the event loop's thread, so that a swap has no moment in between.

    Args:
        default: The model of requests that name none; "" for the only one there is.
    """

    def __init__(self, default: str = "") -> None:
        self._default = default
        self._servings: dict[str, Serving] = {}
        self._open = False
        self._closed: type[Closed] | None = None
        self._all: weakref.WeakSet[Serving] = weakref.WeakSet()  # versions that were replaced and still drain, too

    @property
    def calls(self) -> int:
        """Calls that use a version of any model."""
        return sum(serving.calls for serving in self._all)

    def close(self, why: type[Closed]) -> None:
        """End all requests of all versions now, and whoever comes later at the door."""
        self._closed = why
        for serving in list(self._all):
            serving.dispatcher.close(why)

    def put(self, serving: Serving) -> Serving | None:
        """From here on new calls get this version of its model; returns the one before."""
        name = serving.model.description.name
        before = self._servings.get(name)
        self._servings[name] = serving
        self._all.add(serving)
        if self._closed is not None:
            serving.dispatcher.close(self._closed)
        return before

    def open(self) -> None:
        """From here on calls are answered; before, they are told that models are loading.

        Raises:
            StartupError: the default is none of the models.
        """
        if self._default and self._default not in self._servings:
            raise StartupError(f"--default-model: {self._default!r} is not one of {', '.join(self._servings)}")
        self._open = True

    def is_ready(self, name: str) -> bool:
        """Whether requests that name this model are answered."""
        return self._open and name in self._servings

    @property
    def names(self) -> list[str]:
        """In the order in which they were first served."""
        return list(self._servings)

    @property
    def servings(self) -> list[Serving]:
        """The current version of each, whether calls are answered already or not."""
        return list(self._servings.values())

    def all(self) -> list[ServedModel]:
        """The models; that of requests without a name, where several are served and there is one, before the others.

        Raises:
            Loading: they are not all loaded and warm yet.
        """
        if not self._open:
            raise Loading
        names = sorted(self._servings, key=lambda name: name != self._default)  # stable: the others stay in their order
        return [self._servings[name].model for name in names]

    def check_room(self, tenant: str) -> None:
        """Refuse a call of which nobody has read what it brings, nor for which model, if there is room for nothing.

        All models have one gate; when to come again is what the busiest of them knows.

        Raises:
            QueueFull: there is none.
        """
        if self._servings and self._closed is None:
            busiest = max(self._servings.values(), key=lambda serving: serving.calls)
            busiest.dispatcher.check_room(1, 0, tenant)

    @contextlib.contextmanager
    def use(self, name: str) -> Iterator[Serving]:
        """The version that a call works with from its first look at the model to its last.

        Raises:
            EngineStopped, Draining: no request is answered any more.
            Loading: models are still loading.
            UnknownModel: none is called that.
            InvalidRequest: no name, and several models without a default.
        """
        serving = self._find(name)
        if (call := CURRENT.get()) is not None:
            call.model = serving.model.description.name
        with serving.held():
            yield serving

    def _find(self, name: str) -> Serving:
        if self._closed is not None:
            raise self._closed
        if not self._open:
            raise Loading
        wanted = name or self._default
        if not wanted:
            if len(self._servings) > 1:
                raise InvalidRequest("model", f"several models are served, name one of: {', '.join(self._servings)}")
            (wanted,) = self._servings
        if wanted not in self._servings:
            raise UnknownModel(wanted[:64], self.names)
        return self._servings[wanted]
