"""A bundle, checked and opened: description, tokenizer, engine."""

from dataclasses import dataclass
from pathlib import Path

from seqserve.bundle import DECODER_FILE, ENCODER_FILE, SCORER_FILE, BundleError, ModelDescription, read_model
from seqserve.manifest import check_manifest
from seqserve_server.capacity import SchedulerLimits
from seqserve_server.cost_model import CostModel
from seqserve_server.device_engine import DeviceEngine
from seqserve_server.devices import AUTO, CPU, CUDA, choose_device, open_cuda, open_twin
from seqserve_server.engine import Engine, Pair
from seqserve_server.graph_operators import refuse_coupling
from seqserve_server.ort_engine import OrtEngine
from seqserve_server.scheduler import Scheduler
from seqserve_server.tokenizer import Tokenizer
from seqserve_server.waiting import Fairness

DEFAULT_CACHE_BYTES = 2 * 2**30
DEFAULT_MAX_ROWS = 64
DEFAULT_ENCODE_TOKENS = 512


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Sizes of one model's engine; ``threads`` 0 means one per core; ``scorer`` False leaves the scorer closed.

    ``encoder_cache_bytes`` is what may be kept of what the encoder made of earlier sources; 0 keeps nothing.
    """

    threads: int = 0
    max_rows: int = DEFAULT_MAX_ROWS
    cache_bytes: int = DEFAULT_CACHE_BYTES
    encode_tokens: int = DEFAULT_ENCODE_TOKENS
    scorer: bool = True
    encoder_cache_bytes: int = 0


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ServedModel:
    """What serving a bundle takes; equal to itself alone. ``version`` is the start of the manifest's SHA-256.

    ``directory`` is where it was opened, symbolic links followed.
    """

    description: ModelDescription
    version: str
    tokenizer: Tokenizer | None
    engine: Engine
    limits: SchedulerLimits
    directory: Path = Path()

    @classmethod
    def open(
        cls, directory: Path, limits: EngineLimits, *, verify: bool = True, device: str = AUTO
    ) -> "ServedModel":
        """Check manifest and precision, read everything, open the sessions.

        Args:
            verify: False for a bundle that is looked at and not served: an export measures it and has not written the
                manifest yet, or the caller checked that. Any precision is opened then, on the CPU.
            device: "auto", "cpu" or "cuda"; of a bundle that is served.

        Raises:
            BundleError: one line that names the file and what is wrong; that files changed meanwhile, too.
        """
        directory = directory.resolve()  # once: a link that is turned to another bundle meanwhile must not mix two
        version = check_manifest(directory) if verify else "unverified"
        description = read_model(directory)
        chosen = choose_device(description.precision, device, directory) if verify else CPU
        for name in (ENCODER_FILE, DECODER_FILE, *([SCORER_FILE] if description.alignment is not None else [])):
            refuse_coupling(directory / name)
        tokenizer = Tokenizer.open(directory, description)
        engine = _open_engine(directory, description, limits, chosen)
        cost = engine.buffers.cost
        # The runtime reads the files by itself: only where they still are what they were is it known what it read.
        if verify and check_manifest(directory) != version:
            raise BundleError(f"{directory}: its files change while they are read")
        return cls(
            description, version, tokenizer, engine,
            SchedulerLimits(
                limits.max_rows, limits.encode_tokens, limits.cache_bytes, cost, engine.widths, beams=engine.beams
            ),
            directory,
        )

    @property
    def example(self) -> Pair:
        """A short source and target, for trying the model out; a token to score is the end."""
        prompt = self.description.framing.example().prompt
        return Pair(self.description.example_source, (*prompt, self.description.eos_id), len(prompt))

    def scheduler(self, fairness: Fairness | None = None, costs: CostModel | None = None) -> Scheduler:
        """A scheduler for this model's rows and places. There must be one only.

        Args:
            fairness: By default that of one tenant: in order of priority and arrival.
            costs: By which requests that will not be in time are not started; by default all are.
        """
        if costs is None:
            return Scheduler(self.limits, fairness)
        rows = self.limits.max_rows  # not self: schedulers wait for the garbage collector, and the engine must not
        return Scheduler(self.limits, fairness, lambda request: costs.needed_seconds(request, rows))


def _open_engine(
    directory: Path, description: ModelDescription, limits: EngineLimits, device: str
) -> OrtEngine | DeviceEngine:
    if device == CUDA:
        return open_cuda(directory, description, cache_bytes=limits.cache_bytes, max_rows=limits.max_rows)
    if description.precision == "fp16":
        return open_twin(
            directory, description, cache_bytes=limits.cache_bytes, max_rows=limits.max_rows, threads=limits.threads
        )
    return OrtEngine(
        directory, description, threads=limits.threads, cache_bytes=limits.cache_bytes, max_rows=limits.max_rows,
        scorer=limits.scorer, encoder_cache_bytes=limits.encoder_cache_bytes,
    )
