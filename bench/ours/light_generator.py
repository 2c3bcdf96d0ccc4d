"""Worker: a load generator of next to no cost. Run as ``python -m ours.light_generator``.

Speaks as ``ours.generator``, which see, but knows no ramp, no streams and no output tokens, and does not read answers.
"""

import contextlib
import itertools
import json
import selectors
import sys
import time
from collections.abc import Iterator
from typing import Any

from ours.generator import Shuffled
from ours.wire import Connection
from seqserve_client import messages
from seqserve_client.load import Load
from seqserve_client.load_inputs import Source

METHOD = "/seqserve.v1.Seq2SeqService/Generate"
CONNECTIONS = 4


class Calls:
    """All connections to one server, and what became of the calls on them."""

    def __init__(self, target: str, bodies: Iterator[bytes]) -> None:
        self._target, self._bodies = target, bodies
        self._selector = selectors.DefaultSelector()
        self._turn = 0
        self._began: dict[tuple[Connection, int], tuple[float, float]] = {}
        self._connections = [self._connected() for _ in range(CONNECTIONS)]
        self.samples: list[list[Any]] = []
        self.start = time.perf_counter()

    @property
    def open(self) -> int:
        """Calls that have not ended."""
        return len(self._began)

    def close(self) -> None:
        """All connections."""
        for key in list(self._selector.get_map().values()):
            key.data.close()
        self._selector.close()

    def now(self) -> float:
        """Seconds after the start."""
        return time.perf_counter() - self.start

    def send(self, intended: float) -> None:
        """One more call, on the connection whose turn it is."""
        self._turn = (self._turn + 1) % CONNECTIONS
        connection = self._connections[self._turn]
        if connection.closing:
            connection = self._connections[self._turn] = self._connected()
        sent = self.now()
        self._began[connection, connection.call(next(self._bodies))] = intended, sent

    def wait(self, seconds: float) -> int:
        """Take what comes within so many seconds, and return how many calls ended by it."""
        before = len(self.samples)
        for key, _ in self._selector.select(max(0.0, seconds)):
            connection: Connection = key.data
            try:
                ended = connection.read()
            except ConnectionError:
                ended = [(stream, "UNAVAILABLE") for stream in connection.open]
                connection.closing = True
                self._selector.unregister(connection.socket)
                connection.close()
            now = self.now()
            for stream, code in ended:
                intended, sent = self._began.pop((connection, stream))
                self.samples.append([intended, sent, now, 0, None if code == "OK" else code])
        return len(self.samples) - before

    def _connected(self) -> Connection:
        connection = Connection(self._target, METHOD)
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        return connection


def open_loop(calls: Calls, load: Load) -> None:
    """Send at the load's times, whatever comes back."""
    for offset in load.arrivals():
        while (left := offset - calls.now()) > 0:
            calls.wait(left)
        calls.send(offset)
    while calls.open:
        calls.wait(1.0)


def closed_loop(calls: Calls, concurrency: int, duration: float) -> None:
    """As many calls at any time, until the time is over."""
    for _ in range(concurrency):
        calls.send(calls.now())
    while calls.open:
        for _ in range(calls.wait(1.0)):
            if (now := calls.now()) < duration:
                calls.send(now)


def drive(command: dict[str, Any]) -> list[list[Any]]:
    """Send what is asked for."""
    load = Load(**command["load"])
    bodies = Shuffled(load.seed, [_body(source, command["options"]) for source in command["sources"]])
    in_order = (bodies.at(number) for number in itertools.count())
    with contextlib.closing(Calls(command["target"], in_order)) as calls:
        _offer(calls, load)
        return calls.samples


def _body(source: Source, options: Any) -> bytes:
    texts, token_ids = ([source], None) if isinstance(source, str) else (None, [source])
    return messages.generate_request(texts, None, token_ids, None, options).SerializeToString()


def _offer(calls: Calls, load: Load) -> None:
    for _ in range(load.warmup):
        calls.send(0.0)
        while calls.open:
            calls.wait(1.0)
    calls.samples.clear()
    calls.start = time.perf_counter()
    if load.rate is not None:
        open_loop(calls, load)
    else:
        assert load.concurrency is not None
        assert load.duration is not None
        closed_loop(calls, load.concurrency, load.duration)


def main() -> int:
    """Answer commands until stdin ends."""
    for line in sys.stdin:
        begun, spent = time.perf_counter(), time.process_time()
        samples = drive(json.loads(line))
        print(json.dumps({
            "samples": samples, "processor_seconds": time.process_time() - spent,
            "seconds": time.perf_counter() - begun,
        }), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
