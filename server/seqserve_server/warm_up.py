"""The first requests of a model, nobody's: memory is touched and kernels are chosen before others come."""

import logging
from collections.abc import Iterator

from seqserve_server.decoding.search import SearchSettings
from seqserve_server.device_engine import DeviceEngine
from seqserve_server.errors import StartupError
from seqserve_server.loop import Loop
from seqserve_server.plan import need_of
from seqserve_server.request import Event, Failed, Request, ScoreRequest
from seqserve_server.served_model import ServedModel

logger = logging.getLogger(__name__)


def warm_up(model: ServedModel) -> Iterator[None]:
    """Run a short request and a pair through the engine.

    On CUDA, steps of every size are captured first. By the thread that advances: it has to be the one that steps later.
    What runs beside it has a turn between two parts.

    Raises:
        StartupError: the model cannot decode, or its limits hold no request.
    """
    example, most = model.example, min(2, model.description.max_new_tokens)
    settings = SearchSettings(model.description.eos_id, most)
    request = Request(0, tuple(example.source), tuple(example.target[: example.prompt]), settings)
    need = need_of([request], model.limits.widths)
    if not model.limits.fits(need):  # it would wait for ever
        least = model.limits.cost.bytes_of(need.rounded())
        raise StartupError(f"--cache-bytes: {model.limits.cache_bytes} are too few: one short request needs {least}")
    if isinstance(model.engine, DeviceEngine):
        logger.info("%d sizes of steps are ready", len(model.engine.prepare()))
        yield
    events: list[Event] = []
    loop = Loop(model.engine, model.scheduler(), events.extend)
    loop.submit([request])
    if model.engine.can_score:
        loop.submit([ScoreRequest(1, example)])
    while loop.step():
        yield
    if any(isinstance(event, Failed) for event in events):
        raise StartupError("the model cannot decode: its warm-up request failed, and the log says why")
