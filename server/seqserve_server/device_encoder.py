"""The encoder graph over memory of a device: whatever size a batch has, eagerly, on the same stream as the steps."""

import math
from collections.abc import Sequence

import numpy as np
import onnxruntime as ort

from seqserve.bundle import StateTensor
from seqserve_server.device_memory import DeviceArray, DeviceMemory, HostArray, TransferBlock, strides_of
from seqserve_server.encoder_batch import EncoderBatch
from seqserve_server.graph_contract import ENCODER_INPUTS, STEPS
from seqserve_server.row_buckets import EAGER
from seqserve_server.sessions import bind_input, bind_output, dtype_of, run_options


class DeviceEncoder:
    """Runs batches; what comes of them lies in memory that the next call reuses.

    Attributes:
        states: Those that the graph computes.
    """

    def __init__(self, session: ort.InferenceSession, memory: DeviceMemory, states: Sequence[StateTensor]) -> None:
        self._session, self._memory = session, memory
        self._results = {entry.name: entry for entry in session.get_outputs()}
        self._steps = STEPS in {entry.name for entry in session.get_inputs()}
        self.states = [state for state in states if state.name in self._results]
        self._scratch: dict[str, DeviceArray] = {}
        self._inputs = TransferBlock(memory, {})

    def run(self, batch: EncoderBatch, outputs: Sequence[str]) -> dict[str, DeviceArray]:
        """Results by name: of a state [count, *shape] of all packed tokens; of all sources where it has no length."""
        given: dict[str, HostArray] = {name: getattr(batch, name) for name in ENCODER_INPUTS}
        if self._steps:
            given[STEPS] = np.arange(batch.pad_index.shape[1], dtype=np.int64)
        self._memory.synchronize()  # the inputs of the call before may still be on their way
        self._inputs.lay_out({name: (array.shape, array.dtype) for name, array in given.items()})
        binding = self._session.io_binding()
        for name, array in given.items():
            self._inputs.host[name][...] = array
            bind_input(binding, self._memory.kind, name, self._inputs.device[name])
        self._inputs.upload()
        results = {name: self._result(name, batch) for name in outputs}
        for name, found in results.items():
            bind_output(binding, self._memory.kind, name, found)
        self._session.run_with_iobinding(binding, run_options(EAGER))
        return results

    def _result(self, name: str, batch: EncoderBatch) -> DeviceArray:
        """A part of scratch memory, shaped for one result."""
        tokens, entry = len(batch.tokens), self._results[name]
        state = next((state for state in self.states if state.name == name), None)
        if state is None:
            shape = tuple(size if isinstance(size, int) else tokens for size in entry.shape)
        elif state.length_axis is None:
            shape = (state.count, len(batch.lengths), *(int(size) for size in state.shape))
        else:
            shape = (state.count, *(size if isinstance(size, int) else tokens for size in state.shape))
        kind = dtype_of(entry)
        scratch = self._scratch.get(name)
        if scratch is None or scratch.shape[0] < math.prod(shape):
            scratch = self._scratch[name] = self._memory.allocate([math.prod(shape)], kind)
        return DeviceArray(scratch.pointer, shape, strides_of(shape, kind.itemsize), kind, scratch.owner)
