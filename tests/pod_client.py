"""What stands outside a container but inside its network: the kubelet's probes, a scrape, a caller.

``pod_process`` starts it there; it takes one JSON order a line, and answers each with one.
"""

import json
import sys
import threading
import urllib.request
from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from seqserve_client import Client


class Caller:
    """One call that runs while other orders are carried out."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._result: dict[str, Any] = {}

    def begin(self, target: str, token_ids: list[int], options: dict[str, int]) -> dict[str, Any]:
        """Returns when the first tokens are there."""
        started = threading.Event()

        def call() -> None:
            received: list[int] = []
            try:
                with Client(target, timeout=60) as client:
                    for chunk in client.stream(token_ids=token_ids, **options):  # type: ignore[arg-type]
                        received += chunk.token_ids
                        started.set()
                self._result = {"token_ids": received}
            except Exception as error:  # noqa: BLE001 - told to the test
                self._result = {"error": repr(error)}
            finally:
                started.set()

        self._thread = threading.Thread(target=call)
        self._thread.start()
        started.wait()
        return {"running": self._thread.is_alive()}

    def end(self) -> dict[str, Any]:
        """What came of it."""
        assert self._thread is not None
        self._thread.join()
        return self._result


def probe(target: str, service: str, timeout: float) -> dict[str, Any]:
    """As the kubelet does: a new connection each time, anything but SERVING in time is a failure."""
    with grpc.insecure_channel(target) as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout)
        except grpc.RpcError as error:
            return {"status": error.code().name}
    return {"status": health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}


def scrape(url: str) -> dict[str, Any]:
    """The names of the series."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return {"names": sorted({line.split("{")[0].split(" ")[0] for line in lines if not line.startswith("#")})}


def main() -> None:
    """Until stdin ends."""
    caller = Caller()
    orders: dict[str, Callable[..., dict[str, Any]]] = {
        "probe": probe, "scrape": scrape, "begin": caller.begin, "end": caller.end,
    }
    for line in sys.stdin:
        name, arguments = json.loads(line)
        sys.stdout.write(json.dumps(orders[name](**arguments)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
