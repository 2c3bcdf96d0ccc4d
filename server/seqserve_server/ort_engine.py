"""The engine on ONNX Runtime: a session for each graph, state buffers bound as input and output at once."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from seqserve.bundle import DECODER_FILE, ENCODER_FILE, SCORER_FILE, ModelDescription
from seqserve_server.capacity import Capacity
from seqserve_server.encoder_batch import EncoderBatch, pack
from seqserve_server.encoder_cache import Encoded, EncoderCache, Ids
from seqserve_server.engine import Candidates, Changes, Layout, Pair, Reuse, RowCopy, Scored, Source, StepInput
from seqserve_server.graph_contract import ENCODER_INPUTS, STEP_INPUTS, check_contract, states_between
from seqserve_server.host_buffers import HostBuffers
from seqserve_server.placement import Place
from seqserve_server.scorer import passes_of, run_scorer
from seqserve_server.sessions import open_on_cpu
from seqserve_server.source_inputs import SourceInputs, of_width, widths_of
from seqserve_server.state_buffers import Array, StateBuffers
from seqserve_server.step_part import part_of

MOST_BOUND = 512  # bindings kept: some hundred bytes for each input


@dataclass(frozen=True, slots=True)
class Bound:
    """A binding of the step graph for a fixed number of rows and candidates, and where its results appear."""

    binding: ort.IOBinding
    log_probs: NDArray[np.float32]
    token_ids: NDArray[np.int64]
    logits: NDArray[np.float32] | None


class OrtEngine:
    """Implements :class:`seqserve_server.engine.Engine` on the CPU.

    Every step reads and writes the same memory: the host writes tokens and positions into fixed arrays, the session
    appends to the state buffers in place, and the best candidates appear in fixed arrays. Nothing else moves.
    """

    def __init__(
        self, directory: Path, model: ModelDescription, *, threads: int, cache_bytes: int, max_rows: int,
        scorer: bool = True, encoder_cache_bytes: int = 0,
    ) -> None:
        self.model = model
        self._encoder = open_on_cpu(directory / ENCODER_FILE, threads)
        self._decoder = open_on_cpu(directory / DECODER_FILE, threads)
        wanted = scorer and model.alignment is not None
        self._scorer = open_on_cpu(directory / SCORER_FILE, threads) if wanted else None
        self.widths = widths_of(entry.name for entry in self._decoder.get_inputs())
        self.beams = len(self.widths) > 1  # else row i reads place i
        self.buffers: StateBuffers[Array] = HostBuffers(model.states, cache_bytes, self.widths)
        check_contract(self._encoder, self._decoder, self._scorer, model, self.widths)
        self._encoded_states = [
            state for state in model.states if state.name in {output.name for output in self._encoder.get_outputs()}
        ]
        self._scored_states = states_between(self._encoder, self._scorer, model) if self._scorer is not None else []
        self._tokens = np.zeros(max_rows, dtype=np.int64)
        self._positions = np.zeros(max_rows, dtype=np.int32)
        self._target_extent = np.array(0, dtype=np.int32)
        self._source_extent = np.array(0, dtype=np.int32)
        self._sources = SourceInputs(self.widths, max_rows)
        self._logits = np.zeros((0, model.target_vocab_size), dtype=np.float32)
        self.encoder_cache = EncoderCache(encoder_cache_bytes)
        self._scratch: dict[str, Array] = {}
        self._bound: dict[tuple[int, ...], Bound] = {}
        self._bound_generation = -1

    @property
    def state_bytes(self) -> int:
        """Bytes of the state buffers."""
        return self.buffers.bytes_used

    @property
    def reuse(self) -> Reuse:
        """Of the encoder cache."""
        cache = self.encoder_cache
        return Reuse(cache.hits, cache.misses, cache.bytes_used)

    @property
    def can_score(self) -> bool:
        """Whether the scorer is there and open."""
        return self._scorer is not None

    def score(self, pairs: Sequence[Pair]) -> list[Scored]:
        """Run encoder and scorer over pairs, as many at once as memory bounds."""
        if self._scorer is None:
            raise RuntimeError("this model was opened without a scorer")
        found: list[Scored] = []
        for part in passes_of(pairs, self.model.target_vocab_size):
            sources = [tuple(pair.source) for pair in part]
            encoded = self._encoded(sources)
            found += run_scorer(self._scorer, part, {
                name: self._side_by_side(name, [encoded[source][name] for source in sources])
                for name in self._scored_states
            })
        return found

    def _side_by_side(self, name: str, values: Sequence[Array]) -> Array:
        """What the encoder gives for several sources at once, of what it gave for each."""
        axis = self.buffers.states[name].length_axis
        return np.stack(values, axis=1) if axis is None else np.concatenate(values, axis=1 + axis)

    def change(self, changes: Changes) -> None:
        """Zero what is released, carry what moves."""
        self.buffers.change(changes)
        self._sources.change(changes)

    def reserve(self, need: Capacity) -> None:
        """Make the state buffers hold ``need``."""
        self.buffers.reserve(need)

    def copy(self, copies: Sequence[RowCopy]) -> None:
        """Let rows go on from what other rows have written."""
        self.buffers.copy(copies)

    def encode(self, sources: Sequence[Source]) -> None:
        """Run the encoder once over those that are new, and put all results into the sources' places."""
        encoded = self._encoded([tuple(source.token_ids) for source in sources])
        for source in sources:
            for name, values in encoded[tuple(source.token_ids)].items():
                self.buffers.write_source(name, source, values)
            self._sources.note(source.places, len(source.token_ids))

    def _encoded(self, sources: Sequence[Ids]) -> dict[Ids, Encoded]:
        """Of each different source what decoding needs; views of memory that the next call reuses."""
        found: dict[Ids, Encoded] = {}
        new: list[Ids] = []
        for source in dict.fromkeys(sources):
            kept = self.encoder_cache.find(source)
            if kept is None:
                new.append(source)
            else:
                found[source] = kept
        if not new:
            return found
        batch = pack(new)
        results = self.run_encoder(batch, [state.name for state in self._encoded_states])
        for index, source in enumerate(new):
            span = slice(batch.starts[index], batch.starts[index + 1])
            found[source] = {
                state.name: results[state.name][:, index] if state.length_axis is None
                else results[state.name][(slice(None),) * (1 + state.length_axis) + (span,)]
                for state in self._encoded_states
            }
            self.encoder_cache.keep(source, found[source])
        return found

    def run_encoder(self, batch: EncoderBatch, outputs: Sequence[str]) -> dict[str, Array]:
        """Run the encoder graph; results named in ``outputs`` lie in memory that the next call reuses."""
        binding = self._encoder.io_binding()
        for name in ENCODER_INPUTS:
            binding.bind_ortvalue_input(name, _value(np.ascontiguousarray(getattr(batch, name))))
        results: dict[str, Array] = {}
        for name in outputs:
            if name in self.buffers.states:
                results[name] = self._output_array(name, batch)
                binding.bind_ortvalue_output(name, _value(results[name]))
            else:
                binding.bind_output(name, "cpu")
        self._encoder.run_with_iobinding(binding)
        for name, value in zip(outputs, binding.get_outputs(), strict=True):
            results.setdefault(name, value.numpy())
        return results

    def step(self, step: StepInput) -> Candidates:
        """One decoder step over rows 0 .. n-1."""
        bound = self._prepare(step)
        self._decoder.run_with_iobinding(bound.binding)
        self.buffers.advance()
        return Candidates(bound.log_probs, bound.token_ids, bound.logits)

    def step_part(self, step: StepInput, rows: Sequence[int]) -> Candidates:
        """Of a step that raised, advance some rows only: over copies, so that nothing but a success leaves a trace."""
        part = part_of(step, rows)
        buffers = self.buffers.excerpt(part.rows, part.places, Capacity.none(self.widths))
        lengths = {
            Place(width, number): self._sources.length(Place(width, place))
            for width, places in enumerate(part.places) for number, place in enumerate(places)
        }
        with self._over(buffers, lengths):
            candidates = self.step(part.step)
        self.buffers.take_back(buffers, part.rows)
        return candidates

    def probe(self, example: Pair) -> None:
        """Encode, advance by a token, score: over buffers of its own, and with nothing kept of earlier sources."""
        none = [0] * (len(self.widths) - 1)
        buffers = self.buffers.excerpt((), [()] * len(self.widths), Capacity(1, 1, len(example.source), (1, *none)))
        with self._over(buffers, {}):
            self.encode([Source(0, (Place(0, 0),), example.source)])
            self.step(StepInput(example.target[:1], [0], 1, Layout([0], [0], [0], [1, *none])))
            if self.can_score:
                self.score([example])

    @contextlib.contextmanager
    def _over(self, buffers: StateBuffers[Array], lengths: Mapping[Place, int]) -> Iterator[None]:
        """What is done inside is done over other buffers, whose places hold sources of these lengths."""
        held = (
            self.buffers, self._sources, self._bound, self._bound_generation, self._logits, self.encoder_cache
        )
        sources = SourceInputs(self.widths, len(self._tokens))
        for place, length in lengths.items():
            sources.note([place], length)
        self.buffers, self._sources, self._bound, self._logits = buffers, sources, {}, self._logits[:0]
        self.encoder_cache = EncoderCache(0)
        try:
            yield
        finally:
            (self.buffers, self._sources, self._bound, self._bound_generation, self._logits,
             self.encoder_cache) = held

    def _prepare(self, step: StepInput) -> Bound:
        rows, candidates = len(step.tokens), min(step.candidates, self.model.target_vocab_size)
        self._tokens[:rows] = step.tokens
        self._positions[:rows] = step.positions
        longest, capacity = max(step.positions) + 1, self.buffers.capacity
        if longest > capacity.target or rows > capacity.rows:
            raise IndexError(f"a step over {rows} rows at position {longest} does not fit {capacity}")
        self._sources.lay_out(step.layout)
        # At least 2: with 1 the attention operator takes the step for a first prompt.
        self._target_extent[...] = max(longest, 2)
        self._source_extent[...] = max(self._sources.longest(), 2)
        if self._bound_generation != self.buffers.generation or len(self._bound) > MOST_BOUND:
            self._bound.clear()
            self._bound_generation = self.buffers.generation
        key = (rows, candidates, step.logits, self.buffers.phase, *step.layout.counts)
        bound = self._bound.get(key)
        if bound is None:
            bound = self._bound[key] = self._bind(rows, candidates, step.layout.counts, logits=step.logits)
        return bound

    def _bind(self, rows: int, candidates: int, counts: Sequence[int], *, logits: bool) -> Bound:
        """Bind the step graph to prefixes of all arrays. State outputs are the very memory of their inputs."""
        binding = self._decoder.io_binding()
        controls: tuple[Array, ...] = (
            self._tokens[:rows], self._positions[:rows], self._target_extent, self._source_extent,
            np.array([candidates], dtype=np.int64),
        )
        inputs = {**dict(zip(STEP_INPUTS, controls, strict=True)), **self._sources.inputs(rows, counts)}
        log_probs = np.zeros((rows, candidates), dtype=np.float32)
        token_ids = np.zeros((rows, candidates), dtype=np.int64)
        binding.bind_ortvalue_output("log_probs", _value(log_probs))
        binding.bind_ortvalue_output("token_ids", _value(token_ids))
        for state in self.model.states:
            for index in range(state.count):
                name = f"{state.name}.{index}"
                if state.scope == "request":
                    for place, (width, count) in enumerate(zip(self.widths, counts, strict=True)):
                        inputs[of_width(name, width)] = self.buffers.of_width(state.name, place)[index, :count]
                    continue
                inputs[name] = self.buffers.current(state.name)[index, :rows]
                if state.update != "constant":
                    following = self.buffers.following(state.name)[index, :rows]
                    binding.bind_ortvalue_output(f"{name}.next", _value(following))
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, _value(array))
        return Bound(binding, log_probs, token_ids, self._bind_logits(binding, rows) if logits else None)

    def _bind_logits(self, binding: ort.IOBinding, rows: int) -> NDArray[np.float32]:
        """[rows, vocabulary], in memory that all bindings share, for it is large."""
        if len(self._logits) < rows:
            self._bound.clear()  # others are bound to the memory that goes
            # As many rows as the state buffers have, so that it grows as rarely as they do.
            shape = (self.buffers.capacity.rows, self.model.target_vocab_size)
            self._logits = np.zeros(shape, dtype=np.float32)
        binding.bind_ortvalue_output("logits", _value(self._logits[:rows]))
        return self._logits[:rows]

    def _output_array(self, name: str, batch: EncoderBatch) -> Array:
        """A view of reused scratch memory, shaped for one encoder result."""
        state = self.buffers.states[name]
        tokens = len(batch.tokens)
        if state.length_axis is None:
            shape: tuple[int, ...] = (state.count, len(batch.lengths), *(int(size) for size in state.shape))
        else:
            shape = (state.count, *(size if isinstance(size, int) else tokens for size in state.shape))
        size = int(np.prod(shape))
        scratch = self._scratch.get(name)
        if scratch is None or scratch.size < size:
            scratch = self._scratch[name] = np.empty(size, dtype=state.dtype)
        return scratch[:size].reshape(shape)


def _value(array: Array) -> ort.OrtValue:
    if not array.flags.c_contiguous:
        raise ValueError("only contiguous arrays are shared; others would be copied silently")
    return ort.OrtValue.ortvalue_from_numpy(array)
