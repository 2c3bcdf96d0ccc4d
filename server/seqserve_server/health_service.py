"""``grpc.health.v1``, with watchers that do not disturb each other."""

import asyncio

from grpc_health.v1 import health, health_pb2

from seqserve_server.calls import Context


class HealthService(health.aio.HealthServicer):
    """gRPC's own service, but for ``Watch``.

    There, all watchers of a service wait for one condition, and the first that leaves takes it along: the others are
    never told again, not even that the server drains, and go on sending calls to it (grpcio-health-checking 1.81.1).
    """

    def __init__(self) -> None:
        super().__init__()
        self._server_status: dict[str, int] = {"": health_pb2.HealthCheckResponse.SERVING}  # which Check reads
        self._changes: dict[str, set[asyncio.Event]] = {}

    @property
    def ready(self) -> bool:
        """Whether it says that the server as a whole is serving."""
        return self._server_status[""] == health_pb2.HealthCheckResponse.SERVING

    async def _set(self, service: str, status: int) -> None:
        """What ``set`` and ``enter_graceful_shutdown`` come down to."""
        self._server_status[service] = status
        for change in self._changes.get(service, ()):
            change.set()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        """The status of a service now, and whenever it changes, for as long as the caller stays."""
        change, told = asyncio.Event(), None
        watching = self._changes.setdefault(request.service, set())
        watching.add(change)
        try:
            while True:
                change.clear()
                status = self._server_status.get(request.service, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
                if status != told:
                    await context.write(health_pb2.HealthCheckResponse(status=status))
                    told = status
                await change.wait()
        finally:
            watching.discard(change)
            if not watching and self._changes.get(request.service) is watching:
                del self._changes[request.service]
