"""The composition root: builds every part, joins them, and takes them down in order."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry, start_http_server

from seqserve.v1 import seq2seq_pb2, seq2seq_pb2_grpc
from seqserve_server import kernels
from seqserve_server.admission import Gate
from seqserve_server.call_metrics import CallMetrics
from seqserve_server.config import ServerConfig
from seqserve_server.decoding.search import SearchSettings
from seqserve_server.device_engine import DeviceEngine
from seqserve_server.dispatch import Dispatcher
from seqserve_server.engine import Pair
from seqserve_server.engine_thread import engine_thread
from seqserve_server.errors import StartupError
from seqserve_server.interceptor import CallInterceptor
from seqserve_server.loop import Loop
from seqserve_server.metrics import ModelLabels, ModelMetrics
from seqserve_server.plan import need_of
from seqserve_server.request import Event, Failed, Request, ScoreRequest
from seqserve_server.search_options import most_beams
from seqserve_server.served_model import EngineLimits, ServedModel
from seqserve_server.server_metrics import ServerMetrics, WatchedHealth, make_registry
from seqserve_server.service import Seq2SeqService
from seqserve_server.tracing import open_tracing

logger = logging.getLogger(__name__)

SERVICE_NAME = seq2seq_pb2.DESCRIPTOR.services_by_name["Seq2SeqService"].full_name
HEALTH_NAMES = ("", SERVICE_NAME)  # readiness; "liveness" stays SERVING for as long as the process can answer
LIVENESS = "liveness"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass(slots=True)
class RunningServer:
    """A server that is up. ``failed`` is set when its engine thread ended by itself."""

    host: str
    port: int
    metrics_port: int
    dispatcher: Dispatcher
    model: ServedModel
    failed: asyncio.Event

    @property
    def ready_line(self) -> str:
        """What ``serve`` prints once it can answer."""
        name = self.model.description.name
        return f"ready grpc={self.host}:{self.port} metrics={self.host}:{self.metrics_port} models={name}"


def open_model(config: ServerConfig) -> ServedModel:
    """Check the configuration against this machine and open the bundle."""
    refuse_two_runtimes()
    if len(config.bundles) > 1:
        raise StartupError(f"one bundle can be served, {len(config.bundles)} were given")
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


def warm_up(model: ServedModel) -> None:
    """Run a short request and a pair through the engine: memory is touched and kernels are chosen before ready.

    On CUDA, steps of every size are captured first. By the thread that calls: it has to be the one that steps later.
    """
    prompt = model.description.framing.example().prompt
    most = min(2, model.description.max_new_tokens)
    request = Request(0, model.description.example_source, prompt, SearchSettings(model.description.eos_id, most))
    need = need_of([request], model.limits.widths)
    if not model.limits.fits(need):  # it would wait for ever
        least = model.limits.cost.bytes_of(need.rounded())
        raise StartupError(f"--cache-bytes: {model.limits.cache_bytes} are too few: one short request needs {least}")
    if isinstance(model.engine, DeviceEngine):
        logger.info("%d sizes of steps are ready", len(model.engine.prepare()))
    events: list[Event] = []
    loop = Loop(model.engine, model.scheduler(), events.extend)
    loop.submit([request])
    if model.engine.can_score:
        loop.submit([ScoreRequest(1, Pair(request.source, (*prompt, model.description.eos_id), len(prompt)))])
    while loop.step():
        pass
    if any(isinstance(event, Failed) for event in events):
        raise StartupError("the model cannot decode: its warm-up request failed, and the log says why")


@contextlib.asynccontextmanager
async def running_server(
    config: ServerConfig, load: Callable[[ServerConfig], ServedModel] = open_model
) -> AsyncIterator[RunningServer]:
    """Start everything; leaving the block drains and stops it.

    The port answers from the start, so that probes see NOT_SERVING while the model loads, instead of nothing.
    """
    registry = make_registry()
    dispatcher = Dispatcher(Gate(config.max_waiting + config.max_rows))
    service = Seq2SeqService(
        dispatcher, max_inputs=config.max_inputs, max_text_bytes=config.max_text_bytes, max_waiting=config.max_waiting
    )
    servicer = WatchedHealth()
    registry.register(ServerMetrics(
        lambda: servicer.ready, lambda: dispatcher.open_requests,
        max_waiting=config.max_waiting, max_rows=config.max_rows,
    ))
    tracing = open_tracing(config.otlp_endpoint)
    calls = CallInterceptor(CallMetrics(registry), tracing, access_log=config.access_log)
    server, port = await _start_grpc(config, service, servicer, calls)
    failed = asyncio.Event()
    try:
        async with _metrics_server(config, registry) as metrics_port:
            model = await asyncio.to_thread(load, config)
            loop = _make_loop(model, dispatcher, registry, config)
            with engine_thread(loop, failed, lambda: warm_up(model)) as warm:
                await asyncio.wrap_future(warm)
                dispatcher.attach(loop)
                service.serve(model)
                await _set_health(servicer, SERVING)
                try:
                    yield RunningServer(config.host, port, metrics_port, dispatcher, model, failed)
                finally:
                    # New calls are refused and connections told to go away at once: a client that stays on a draining
                    # connection would only collect refusals. Running calls have the grace to finish.
                    await _set_health(servicer, NOT_SERVING)
                    await server.stop(0 if failed.is_set() else config.drain_seconds)
    finally:
        await server.stop(0)
        if tracing is not None:
            await asyncio.to_thread(tracing.close)


def _make_loop(
    model: ServedModel, dispatcher: Dispatcher, registry: CollectorRegistry, config: ServerConfig
) -> Loop:
    description, engine = model.description, model.engine
    labels = ModelLabels(description.name, model.version, description.family, description.precision)
    metrics = ModelMetrics(labels, engine, config.cache_bytes)
    registry.register(metrics)
    return Loop(engine, model.scheduler(), dispatcher.publish, metrics.observe)


async def _start_grpc(
    config: ServerConfig, service: Seq2SeqService, servicer: health.aio.HealthServicer, calls: CallInterceptor
) -> tuple[grpc.aio.Server, int]:
    server = grpc.aio.server(interceptors=[calls], options=[
        ("grpc.so_reuseport", 0),  # else a second server on the port starts silently and takes half the calls
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", config.max_streams),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ])
    await _set_health(servicer, NOT_SERVING)
    await servicer.set(LIVENESS, SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    seq2seq_pb2_grpc.add_Seq2SeqServiceServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    if config.reflection:
        reflection.enable_server_reflection((SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    try:
        port = server.add_insecure_port(f"{config.host}:{config.port}")
    except RuntimeError:
        raise StartupError(f"--port: cannot listen on {config.host}:{config.port}: in use or not allowed") from None
    await server.start()
    return server, port


async def _set_health(servicer: health.aio.HealthServicer, status: Any) -> None:
    for name in HEALTH_NAMES:
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
        await asyncio.to_thread(http.shutdown)  # it waits for its own poll, up to half a second
        http.server_close()
        thread.join()


async def serve(config: ServerConfig, announce: Callable[[str], None]) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code."""
    stop = asyncio.Event()
    event_loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        event_loop.add_signal_handler(number, stop.set)
    async with running_server(config) as server:
        announce(server.ready_line)
        waits = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(server.failed.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if server.failed.is_set():
            logger.error("the engine has died; exiting so that the supervisor starts a new process")
            return 1
        logger.info("draining %d requests", server.dispatcher.open_requests)
    return 0
