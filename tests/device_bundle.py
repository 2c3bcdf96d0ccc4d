"""Bundles in the form that CUDA runs, which the twin of a device runs here; and decoding straight on their engine."""

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir
import onnxruntime as ort
from numpy.typing import NDArray

from built_bundle import Built
from built_once import built_once
from seqserve.bundle import DECODER_FILE, ENCODER_FILE, WEIGHTS_FILE, ModelDescription
from seqserve_export.graphs.device import for_device
from seqserve_export.graphs.halve import halve
from seqserve_export.graphs.places import without_places
from seqserve_export.graphs.weights_file import WeightsFile
from seqserve_export.pipeline import write_graphs
from seqserve_server.capacity import Capacity
from seqserve_server.device_engine import DeviceEngine
from seqserve_server.device_memory import HostMemory
from seqserve_server.devices import open_twin
from seqserve_server.engine import Candidates, Changes, Layout, PlaceRelease, RowRelease, Source, StepInput
from seqserve_server.placement import Place
from seqserve_server.sessions import open_on_cpu


def plain_graphs(built: Built) -> Path:
    """Directory of a built model's graphs as an fp16 export begins with them: without operators of our own."""
    def write(made: Path) -> None:
        write_graphs(built.checkpoint.model, made, kernels=False)

    return built_once(built.directory / "plain", write)


def write_device_bundle(built: Built, directory: Path, *, half: bool) -> ModelDescription:
    """The bundle of a built model in that form; float32 unless ``half``, so that tokens can be compared one by one."""
    directory.mkdir(parents=True)
    weights = WeightsFile(directory / WEIGHTS_FILE)
    for name in (ENCODER_FILE, DECODER_FILE):
        model = onnx_ir.load(plain_graphs(built) / name)
        without_places(model)
        if half:
            halve(model)
        weights.save(for_device(model), directory / name)
    description = built.description
    states = tuple(dataclasses.replace(state, dtype="float16") for state in description.states)
    made = dataclasses.replace(
        description, precision="fp16", alignment=None, states=states if half else description.states
    )
    (directory / "model.json").write_text(made.to_json())
    return made


@dataclass
class Device:
    """A built model, and its bundle for a device, in float32."""

    built: Built
    bundle: Path
    description: ModelDescription

    def engine(self, memory: HostMemory | None = None, max_rows: int = 16, cache_bytes: int = 1 << 26) -> DeviceEngine:
        if memory is None:
            return open_twin(self.bundle, self.description, cache_bytes=cache_bytes, max_rows=max_rows, threads=1)

        def opener(path: Path, *, capture: bool) -> ort.InferenceSession:
            return open_on_cpu(path, 1)

        return DeviceEngine(self.bundle, self.description, memory, opener, cache_bytes=cache_bytes, max_rows=max_rows)


def sources(size: int, count: int, seed: int = 0) -> list[tuple[int, ...]]:
    rng = random.Random(seed)
    lengths = [1, 1, *(rng.choice((2, 3, 7, 16, 17, 40)) for _ in range(count - 2))]
    return [(*(rng.randrange(3, size) for _ in range(length - 1)), 1) for length in lengths]


class Decoding:
    """Greedy decoding straight on an engine: rows 0 .. n-1, row i over a place that need not be place i."""

    def __init__(self, engine: DeviceEngine, rows: Sequence[Sequence[int]], places: Sequence[int]) -> None:
        self.engine, self.sources, self.places = engine, rows, places
        self.tokens, self.position = [2] * len(rows), 0
        self.layout = Layout([0] * len(rows), list(places), [0] * len(rows), [len(rows)])
        engine.reserve(self.need())
        engine.encode([Source(row, (Place(0, places[row]),), source) for row, source in enumerate(rows)])

    def need(self) -> Capacity:
        rows = len(self.tokens)
        return Capacity(rows, self.position + 1, max(map(len, self.sources)), (rows,))

    def step(self, candidates: int = 2, *, logits: bool = False) -> Candidates:
        self.engine.reserve(self.need())
        positions = [self.position] * len(self.tokens)
        found = self.engine.step(StepInput(self.tokens, positions, candidates, self.layout, logits=logits))
        self.tokens = found.token_ids[:, 0].tolist()
        self.position += 1
        return found

    def steps(self, count: int) -> NDArray[np.float32]:
        return np.stack([self.step().log_probs.copy() for _ in range(count)])

    def release(self) -> None:
        self.engine.change(Changes(
            [RowRelease(row, self.position) for row in range(len(self.sources))],
            [
                PlaceRelease(Place(0, place), len(source))
                for place, source in zip(self.places, self.sources, strict=True)
            ],
        ))


def held(engine: DeviceEngine) -> dict[str, NDArray[np.float32]]:
    """All states, on the host."""
    found = {}
    for name, array in (("self", engine.buffers.current("self")), ("cross", engine.buffers.of_width("cross", 0))):
        found[name] = np.zeros(array.shape, dtype=array.dtype)
        HostMemory().download(array, found[name])
    return found
