"""The engine over memory of a device: steps of a few fixed sizes, captured, with one transfer in and one out."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from seqserve.bundle import DECODER_FILE, ENCODER_FILE, ModelDescription
from seqserve_server.capacity import LENGTH_FLOOR, SINGLE, Capacity, StateCost
from seqserve_server.device_encoder import DeviceEncoder
from seqserve_server.device_memory import DeviceArray, DeviceMemory, TransferBlock
from seqserve_server.device_sources import DeviceSources
from seqserve_server.encoder_batch import EncoderBatch, pack
from seqserve_server.engine import Candidates, Changes, Layout, Pair, Reuse, RowCopy, Scored, Source, StepInput
from seqserve_server.graph_contract import DEVICE_CONTROLS, NO_KEYS, check_device_contract
from seqserve_server.placement import Place
from seqserve_server.row_buckets import GraphNumbers, RowBuckets, StepShape
from seqserve_server.sessions import bind_input, bind_output, dtype_of, run_options
from seqserve_server.state_buffers import StateBuffers
from seqserve_server.step_part import part_of

START_LENGTH = 128  # positions that buffers have from the start where they fit: few requests make them grow
CONTROL_TYPES = (np.int64, np.int32, np.int32, np.int32, np.int32)


class Opener(Protocol):
    """Opens a graph of a bundle on the device whose memory the engine was given."""

    def __call__(self, path: Path, *, capture: bool) -> ort.InferenceSession:
        """``capture``: whether its runs may be captured."""


@dataclass(frozen=True, slots=True)
class BoundStep:
    """A binding of the step graph for one shape, how it is run, and where its results are."""

    binding: ort.IOBinding
    options: ort.RunOptions
    results: TransferBlock
    keep: tuple[object, ...]  # memory that the binding knows by address alone


class DeviceEngine:
    """Implements :class:`seqserve_server.engine.Engine` for graphs made for CUDA.

    Real rows are 0 .. n-1, as for every engine. Behind them, up to the next size that is captured, come rows of
    padding: the pad token at position 0, over a source of one token. Each of them writes position 0 of a row that
    nobody has, and whoever gets that row writes there before reading.

    With memory of the host and graphs on the CPU it does the very same, and nothing is captured.
    """

    def __init__(
        self, directory: Path, model: ModelDescription, memory: DeviceMemory, open_graph: Opener, *, cache_bytes: int,
        max_rows: int,
    ) -> None:
        self.model, self.widths, self.beams = model, SINGLE, True
        self._memory = memory
        encoder = open_graph(directory / ENCODER_FILE, capture=False)
        self._decoder = open_graph(directory / DECODER_FILE, capture=True)
        check_device_contract(encoder, self._decoder, model)
        self._encoder = DeviceEncoder(encoder, memory, model.states)
        self.buffers: StateBuffers[DeviceArray] = StateBuffers(model.states, cache_bytes, SINGLE, memory)
        self.buckets = RowBuckets(max_rows, model.target_vocab_size)
        self._budget = cache_bytes
        none = next(entry for entry in self._decoder.get_inputs() if entry.name == NO_KEYS)
        self._none = memory.allocate([max_rows, 0, none.shape[2]], dtype_of(none))
        self._controls = TransferBlock(memory, {
            name: ([max_rows], kind) for name, kind in zip(DEVICE_CONTROLS, CONTROL_TYPES, strict=True)
        })
        self._sources = DeviceSources(*(self._controls.host[name].view(np.int32) for name in DEVICE_CONTROLS[2:]))
        self._bound: dict[tuple[int, int, int, bool], BoundStep] = {}
        self.graphs = GraphNumbers()
        self._generation = -1

    @property
    def state_bytes(self) -> int:
        """Bytes of the state buffers."""
        return self.buffers.bytes_used

    @property
    def reuse(self) -> Reuse:
        """Nothing is kept of sources here."""
        return Reuse()

    @property
    def can_score(self) -> bool:
        """There is no scorer in half precision."""
        return False

    def score(self, pairs: Sequence[Pair]) -> list[Scored]:
        """Never: see ``can_score``."""
        raise RuntimeError(f"{len(pairs)} pairs to score: a bundle for CUDA has no scorer")

    def change(self, changes: Changes) -> None:
        """Zero what is released, carry what moves."""
        self.buffers.change(changes)
        self._sources.change(changes)

    def reserve(self, need: Capacity) -> None:
        """Make the state buffers hold ``need``. As many rows as places: a step has equally many of both."""
        both = max(need.rows, *need.places)
        self.buffers.reserve(Capacity(both, need.target, need.source, (both,)))

    def copy(self, copies: Sequence[RowCopy]) -> None:
        """Let rows go on from what other rows have written."""
        self.buffers.copy(copies)

    def prepare(self) -> list[StepShape]:
        """Run a step of padding of every size, over buffers as large as they are to be at first; tells the sizes.

        To be called by the thread that steps, and before anything runs: the runtime keeps captured graphs by thread,
        and padding writes into rows that nobody has yet.
        """
        self.reserve(start_capacity(self.model, self.buffers.cost, self._budget, self.buckets.max_rows))
        shapes = [
            StepShape(rows, count) for rows in self.buckets.all_rows() if rows <= self.buffers.capacity.rows
            for count in self.buckets.all_candidates()
        ]
        for shape in shapes:
            self._sources.lay_out(None, shape.rows)
            self._run(self._bind(shape.rows, shape.candidates, logits=False), [], [], shape.rows)
        return shapes

    def encode(self, sources: Sequence[Source]) -> None:
        """Run the encoder once over those that differ, and put the results into the sources' places."""
        different = list(dict.fromkeys(tuple(source.token_ids) for source in sources))
        batch = pack(different)
        results = self._encoder.run(batch, [state.name for state in self._encoder.states])
        numbers = {ids: number for number, ids in enumerate(different)}
        for source in sources:
            number = numbers[tuple(source.token_ids)]
            span = slice(batch.starts[number], batch.starts[number + 1])
            for state in self._encoder.states:
                index: tuple[slice | int, ...] = (slice(None), number)
                if state.length_axis is not None:
                    index = (*(slice(None),) * (1 + state.length_axis), span)
                self.buffers.write_source(state.name, source, results[state.name][index])
            self._sources.note(source.places, len(source.token_ids))

    def run_encoder(self, batch: EncoderBatch, outputs: Sequence[str]) -> dict[str, NDArray[np.generic]]:
        """Run the encoder graph; results named in ``outputs``, on the host."""
        found: dict[str, NDArray[np.generic]] = {}
        for name, array in self._encoder.run(batch, outputs).items():
            found[name] = np.zeros(array.shape, dtype=array.dtype)
            self._memory.download(array, found[name])
        self._memory.synchronize()
        return found

    def synchronize(self) -> None:
        """Wait until what was asked for is done; a step waits by itself."""
        self._memory.synchronize()

    def step(self, step: StepInput) -> Candidates:
        """One decoder step over rows 0 .. n-1."""
        rows, wanted = len(step.tokens), min(step.candidates, self.model.target_vocab_size)
        size = self.buckets.rows(max(rows, *step.layout.counts))
        longest, capacity = max(step.positions) + 1, self.buffers.capacity
        if longest > capacity.target or size > min(capacity.rows, *capacity.places):
            raise IndexError(f"a step over {rows} rows, as {size}, at position {longest} does not fit {capacity}")
        self._sources.lay_out(step.layout, size)
        count = self.buckets.candidates(wanted)
        bound = self._bind(size, wanted if count is None else count, logits=step.logits, eager=count is None)
        self._run(bound, step.tokens, step.positions, size)
        self.buffers.advance()
        host: dict[str, Any] = bound.results.host
        return Candidates(
            host["log_probs"][:rows, :wanted], host["token_ids"][:rows, :wanted],
            host["logits"][:rows] if step.logits else None,
        )

    def step_part(self, step: StepInput, rows: Sequence[int]) -> Candidates:
        """Of a step that raised, advance some rows only: over copies, so that nothing but a success leaves a trace."""
        part = part_of(step, rows)
        size = self.buckets.rows(len(rows))
        buffers = self.buffers.excerpt(part.rows, part.places, Capacity(size, 0, 0, (size,)))
        with self._over(buffers, part.places[0]):
            candidates = self.step(part.step)
        self.buffers.take_back(buffers, part.rows)
        self._memory.synchronize()  # before the copies are freed
        return candidates

    def probe(self, example: Pair) -> None:
        """Encode and advance by a token, over buffers of its own."""
        size = self.buckets.rows(1)
        buffers = self.buffers.excerpt((), [()], Capacity(size, 1, len(example.source), (size,)))
        with self._over(buffers, ()):
            self.encode([Source(0, (Place(0, 0),), example.source)])
            self.step(StepInput(example.target[:1], [0], 1, Layout([0], [0], [0], [1])))
        self._memory.synchronize()  # before they are freed

    @contextlib.contextmanager
    def _over(self, buffers: StateBuffers[DeviceArray], places: Sequence[int]) -> Iterator[None]:
        """What is done inside is done over other buffers, whose first places hold the sources of these."""
        held = (self.buffers, self._bound, self.graphs, self._generation)
        self.buffers, self._bound, self.graphs = buffers, {}, GraphNumbers(0)  # memory that goes again: no captures
        try:
            with self._sources.apart(places):
                yield
        finally:
            self.buffers, self._bound, self.graphs, self._generation = held

    def _run(self, bound: BoundStep, tokens: Sequence[int], positions: Sequence[int], size: int) -> None:
        for name, given, padding in (("tokens", tokens, self.model.pad_id), ("positions", positions, 0)):
            self._controls.host[name][: len(given)] = given
            self._controls.host[name][len(given) : size] = padding
        self._controls.upload()
        self._decoder.run_with_iobinding(bound.binding, bound.options)
        bound.results.download()

    def _bind(self, rows: int, candidates: int, *, logits: bool, eager: bool = False) -> BoundStep:
        """The binding for a shape, made once for each generation of the buffers."""
        if self._generation != self.buffers.generation:
            self._bound.clear()
            self.graphs.forget()
            self._generation = self.buffers.generation
        key = (rows, candidates, self.buffers.phase, logits)
        bound = self._bound.get(key)
        if bound is None:
            # All logits are for proofs and draws, whose counts vary: not worth a graph each.
            shape = None if logits or eager else StepShape(rows, candidates, self.buffers.phase)
            bound = self._make_binding(rows, candidates, self.graphs.number(shape), logits=logits)
            if not eager:
                self._bound[key] = bound
        return bound

    def _make_binding(self, rows: int, candidates: int, graph: int, *, logits: bool) -> BoundStep:
        binding = self._decoder.io_binding()
        fields: dict[str, tuple[list[int], type]] = {
            "log_probs": ([rows, candidates], np.float32), "token_ids": ([rows, candidates], np.int64),
        }
        if logits:
            fields["logits"] = ([rows, self.model.target_vocab_size], np.float32)
        results = TransferBlock(self._memory, fields)
        inputs = {name: array[:rows] for name, array in self._controls.device.items()} | {NO_KEYS: self._none[:rows]}
        outputs = dict(results.device)
        for state in self.model.states:
            row = state.scope == "row"
            read = self.buffers.current(state.name) if row else self.buffers.of_width(state.name, 0)
            written = self.buffers.following(state.name) if row else read
            for index in range(state.count):
                name = f"{state.name}.{index}"
                inputs[name], outputs[f"{name}.next"] = read[index, :rows], written[index, :rows]
        for name, array in inputs.items():
            bind_input(binding, self._memory.kind, name, array)
        for name, array in outputs.items():
            bind_output(binding, self._memory.kind, name, array)
        scalars = {
            "target_extent": np.array(self.buffers.capacity.target, dtype=np.int32),
            "source_extent": np.array(self.buffers.capacity.source, dtype=np.int32),
            "candidates": np.array([candidates], dtype=np.int64),
        }
        for name, scalar in scalars.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(scalar))
        return BoundStep(binding, run_options(graph), results, tuple(scalars.values()))


def start_capacity(model: ModelDescription, cost: StateCost, budget: int, max_rows: int) -> Capacity:
    """What buffers hold from the start: all rows at ``START_LENGTH``, or what the budget has room for, or nothing."""
    rows, length = max_rows, START_LENGTH
    while rows:
        need = Capacity(rows, min(length, model.max_target_length), min(length, model.max_source_length), (rows,))
        if cost.bytes_of(need.rounded()) <= budget:
            return need
        if length > LENGTH_FLOOR:
            length //= 2
        else:
            rows //= 2
    return Capacity.none(SINGLE)
