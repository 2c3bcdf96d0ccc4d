"""The composition root: builds every part, joins them, and takes them down in order."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry, start_http_server

from seqserve.v1 import seq2seq_pb2_grpc
from seqserve_server import kernels, open_inference
from seqserve_server.call_metrics import CallMetrics
from seqserve_server.config import ServerConfig
from seqserve_server.ending import Ending
from seqserve_server.engine_thread import Runner, engine_thread
from seqserve_server.errors import StartupError
from seqserve_server.gate import Gate, GateLimits
from seqserve_server.gate_metrics import GateMetrics
from seqserve_server.health_service import HealthService
from seqserve_server.hot_swap import HotSwap, Load, Surroundings, Try
from seqserve_server.interceptor import CallInterceptor
from seqserve_server.listening import Secrets, address_of, health_port, make_server, open_port, read_secrets
from seqserve_server.quarantine import Quarantine, open_quarantine
from seqserve_server.refusals import DoorInterceptor
from seqserve_server.search_options import most_beams
from seqserve_server.served_model import EngineLimits, ServedModel
from seqserve_server.served_models import ServedModels
from seqserve_server.server_metrics import QuarantineMetrics, RenewalMetrics, ServerMetrics, make_registry
from seqserve_server.service import SERVICE_NAME, Seq2SeqService
from seqserve_server.tracing import open_tracing
from seqserve_server.trial_process import try_in_child
from seqserve_server.waiting import read_weights

if TYPE_CHECKING:
    from seqserve_server.open_inference.service import OpenInferenceService

logger = logging.getLogger(__name__)

# Readiness; "liveness" stays SERVING until the engine is lost.
HEALTH_NAMES = ("", SERVICE_NAME, open_inference.SERVICE_NAME)
LIVENESS = "liveness"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
LAST_RESORT_SECONDS = 2.0


@dataclass(slots=True)
class RunningServer:
    """A server that is up. Whoever sets ``reload`` has it look at its bundles again."""

    host: str
    port: int
    metrics_port: int
    models: ServedModels
    gate: Gate
    registry: CollectorRegistry
    ending: Ending
    reload: asyncio.Event
    health_port: int | None = None

    @property
    def failed(self) -> asyncio.Event:
        """Set once the engine is lost."""
        return self.ending.failed

    @property
    def open_requests(self) -> int:
        """Requests of all models whose terminal event has not come yet."""
        return self.gate.inside.requests

    @property
    def ready_line(self) -> str:
        """What ``serve`` prints once it can answer."""
        names = ",".join(self.models.names)
        probes = f" health={address_of(self.host, self.health_port)}" if self.health_port is not None else ""
        ports = f"grpc={address_of(self.host, self.port)} metrics={address_of(self.host, self.metrics_port)}"
        return f"ready {ports}{probes} models={names}"


def open_model(config: ServerConfig) -> ServedModel:
    """Check the configuration against this machine and open the first bundle."""
    refuse_two_runtimes()
    limits = EngineLimits(
        config.threads, config.max_rows, config.cache_bytes, config.encode_tokens,
        encoder_cache_bytes=config.encoder_cache_bytes, scorer=not config.no_scorer,
    )
    model = ServedModel.open(config.bundles[0], limits, device=config.device)
    if model.description.precision == "int8" and kernels.compiled_library() is None:
        logger.warning("no compiled operators in this installation: steps in 8 bits take twice as long")
    wanted, most = model.description.search.beam_size, most_beams(limits.max_rows)
    if wanted > most:
        logger.warning("--max-rows %d: requests get %d beams by default, not the model's %d", most, most, wanted)
    return model


def refuse_two_runtimes() -> None:
    """Both runtime packages install the same module; whichever came last would win, silently."""
    found = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        with contextlib.suppress(PackageNotFoundError):
            found.append(distribution(name).metadata["Name"])
    if len(found) > 1:
        raise StartupError("onnxruntime and onnxruntime-gpu are both installed; uninstall both, then install one")


@contextlib.asynccontextmanager
async def running_server(
    config: ServerConfig, load: Load = open_model, try_out: Try = try_in_child, reload: asyncio.Event | None = None,
    last_resort: Callable[[], None] = lambda: None,
) -> AsyncIterator[RunningServer]:
    """Start everything; leaving the block drains and stops it.

    The port answers from the start, so that probes see NOT_SERVING while the models load, instead of nothing.

    Args:
        load: Opens the one bundle of a configuration.
        try_out: Tries a bundle before it takes the place of another.
        reload: Where somebody has it already who may set it before the server is up.
        last_resort: Called by another thread when the engine is lost; see ``Ending``.
    """
    with open_quarantine(config.crash_journal) as quarantine:
        async with _running(config, load, try_out, reload or asyncio.Event(), last_resort, quarantine) as server:
            yield server


@contextlib.asynccontextmanager
async def _running(
    config: ServerConfig, load: Load, try_out: Try, reload: asyncio.Event, last_resort: Callable[[], None],
    quarantine: Quarantine,
) -> AsyncIterator[RunningServer]:
    registry, models, runner = make_registry(), ServedModels(config.default_model), Runner()
    limits = GateLimits(config.max_waiting, config.max_rows, config.max_waiting_tokens, config.max_waiting_bytes)
    gate = Gate(limits, weights=read_weights(config.tenant_weights))
    registry.register(GateMetrics(
        gate, lambda: [(each.model.description.name, each.dispatcher.estimated_wait) for each in models.servings]
    ))
    service = Seq2SeqService(
        models, max_inputs=config.max_inputs, max_text_bytes=config.max_text_bytes, max_waiting=config.max_waiting,
        write_timeout_seconds=config.write_timeout_seconds,
    )
    servicer = HealthService()
    registry.register(ServerMetrics(lambda: servicer.ready, lambda: gate.inside.requests, limits))
    registry.register(QuarantineMetrics(lambda: (quarantine.suspected, quarantine.refused)))
    secrets = read_secrets(config)
    registry.register(RenewalMetrics(secrets.certificate, secrets.tokens))
    tracing = open_tracing(config.otlp_endpoint)
    second = _second_service(config, models, servicer)
    metrics = CallMetrics(registry, [each.descriptor for each in second])
    calls = CallInterceptor(metrics, tracing, access_log=config.access_log)
    admitted = [service.admitted, *(each.admitted for each in second)]
    door = DoorInterceptor(models, {path: code for paths in admitted for path, code in paths.items()})
    server, port = await _start_grpc(config, secrets, service, second, servicer, (calls, door))
    ending = Ending(
        server, models, not_ready=lambda: _set_health(servicer, NOT_SERVING),
        not_alive=lambda: _set_health(servicer, NOT_SERVING, (*HEALTH_NAMES, LIVENESS)), last_resort=last_resort,
    )
    try:
        async with _metrics_server(config, registry) as metrics_port, health_port(config, servicer) as probe_port:
            swap = HotSwap(Surroundings(config, models, runner, gate, registry, quarantine), load, try_out)
            with _engine(config, runner, ending, quarantine):
                await swap.load_all()
                await _set_health(servicer, SERVING)
                try:
                    async with _reloading(swap, reload):
                        yield RunningServer(
                            config.host, port, metrics_port, models, gate, registry, ending, reload, probe_port
                        )
                finally:
                    await ending.stop(config.drain_seconds)
    finally:
        await server.stop(0)
        if tracing is not None:
            await asyncio.to_thread(tracing.close)


@contextlib.contextmanager
def _engine(config: ServerConfig, runner: Runner, ending: Ending, quarantine: Quarantine) -> Iterator[None]:
    """Its thread. If that ends when it is told to, no request was the reason."""
    try:
        with engine_thread(runner, ending.lost, config.hang_seconds, config.engine_niceness):
            yield
    finally:
        quarantine.close(clean=runner.ended and not ending.failed.is_set())


@contextlib.asynccontextmanager
async def _reloading(swap: HotSwap, asked: asyncio.Event) -> AsyncIterator[None]:
    """Versions may change inside the block, and no longer."""
    task = asyncio.create_task(swap.run(asked))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await swap.close()


def _second_service(
    config: ServerConfig, models: ServedModels, servicer: HealthService
) -> "list[OpenInferenceService]":
    """The Open Inference Protocol, where it is wanted."""
    if not config.open_inference:
        return []
    # Here, not above: in a process that has another library of this protocol it cannot be imported.
    from seqserve_server.open_inference.service import OpenInferenceService
    return [OpenInferenceService(
        models, lambda: servicer.ready, max_inputs=config.max_inputs, max_text_bytes=config.max_text_bytes,
        write_timeout_seconds=config.write_timeout_seconds,
    )]


async def _start_grpc(
    config: ServerConfig, secrets: Secrets, service: Seq2SeqService, second: "list[OpenInferenceService]",
    servicer: health.aio.HealthServicer, interceptors: tuple[CallInterceptor, DoorInterceptor],
) -> tuple[grpc.aio.Server, int]:
    server = make_server(config, secrets, *interceptors)
    await _set_health(servicer, NOT_SERVING)
    await servicer.set(LIVENESS, SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    seq2seq_pb2_grpc.add_Seq2SeqServiceServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    for each in second:
        each.add_to(server)
    if config.reflection:
        names = [SERVICE_NAME, *(each.descriptor.full_name for each in second)]
        reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    port = open_port(server, config, secrets)
    await server.start()
    return server, port


async def _set_health(servicer: health.aio.HealthServicer, status: Any, names: Sequence[str] = HEALTH_NAMES) -> None:
    for name in names:
        await servicer.set(name, status)


@contextlib.asynccontextmanager
async def _metrics_server(config: ServerConfig, registry: CollectorRegistry) -> AsyncIterator[int]:
    try:
        http, thread = start_http_server(config.metrics_port, addr=config.host, registry=registry)
    except OSError as error:
        raise StartupError(
            f"--metrics-port: cannot listen on {config.host}:{config.metrics_port}: {error.strerror}"
        ) from None
    try:
        yield http.server_port
    finally:
        # Its thread looks twice a second whether it is to end, or when something comes in: this does. Where a system
        # does not know it of listening sockets, the half second is waited for.
        with contextlib.suppress(OSError):
            http.socket.shutdown(socket.SHUT_RDWR)
        await asyncio.to_thread(http.shutdown)
        http.server_close()
        thread.join()


async def serve(config: ServerConfig, announce: Callable[[str], None], load: Load = open_model) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code."""
    stop = asyncio.Event()
    event_loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        event_loop.add_signal_handler(number, stop.set)
    reload = asyncio.Event()
    event_loop.add_signal_handler(signal.SIGHUP, reload.set)  # before all else: unhandled, it ends the process
    async with running_server(config, load, reload=reload, last_resort=_exit_soon) as server:
        announce(server.ready_line)
        waits = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(server.failed.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if server.failed.is_set():
            logger.error("the engine is lost; exiting so that the supervisor starts a new process")
            await server.ending.stop(0)
            _exit_now()  # without taking anything down: what hangs cannot be ended, and what is broken may hang
        logger.info("draining %d requests", server.open_requests)
    return 1 if server.failed.is_set() else 0


def _exit_now() -> None:
    logging.shutdown()
    os._exit(1)


def _exit_soon() -> None:
    """Should the event loop not come to it."""
    timer = threading.Timer(LAST_RESORT_SECONDS, os._exit, (1,))
    timer.daemon = True
    timer.start()
