"""Opening graphs: on the CPU, and on CUDA, where nothing of them may be left to the CPU."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from seqserve.bundle import BundleError
from seqserve_server import kernels
from seqserve_server.device_memory import DeviceArray

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
# Addition and norm in one. On the CPU it takes three times as long as the two apart. On CUDA it adds squares up in half
# precision, with an epsilon that half precision does not have for sums that are kept small (docs/decisions/0008).
FUSED_NORM = "SkipLayerNormFusion"


def open_on_cpu(path: Path, threads: int) -> ort.InferenceSession:
    """A graph on the CPU; ``threads`` 0 means one per core.

    Raises:
        BundleError: one line that names the file.
    """
    return _open(path, _cpu_options(ort.SessionOptions, threads, kernels.compiled_library()), [CPU])


def open_on_cuda(path: Path, stream: int, *, capture: bool) -> ort.InferenceSession:
    """A graph on the first CUDA device, all of it.

    Args:
        stream: The address of the CUDA stream on which everything is done, transfers included.
        capture: Whether runs are captured as CUDA graphs. The runtime then refuses control flow and copies between
            host and device inside the graph, too.

    Raises:
        BundleError: one line that names the file; an operator that CUDA has no kernel for, for one.
    """
    options = _options(ort.SessionOptions)
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    provider = (CUDA, {
        "device_id": "0",
        "user_compute_stream": str(stream),
        "enable_cuda_graph": "1" if capture else "0",
        # Memory is asked for as it is needed: doubling would take what the caches are to have.
        "arena_extend_strategy": "kSameAsRequested",
    })
    # The CPU is not named: beside the refusal to fall back to it, that is a contradiction to the runtime.
    session = _open(path, options, [provider])
    if session.get_providers()[0] != CUDA:  # the runtime falls back by itself where its libraries are not found
        raise BundleError(f"{path.name}: the runtime cannot use CUDA here; its log says which library is missing")
    return session


def has_cuda() -> bool:
    """Whether the installed runtime was built for CUDA. Says nothing about a device."""
    return CUDA in ort.get_available_providers()


def run_options(graph: int) -> ort.RunOptions:
    """Of a run that is captured, or replayed, under a number; -1 for neither.

    The end of a run is not waited for: what comes next is asked for on the same stream.
    """
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph))
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


def bind_input(binding: ort.IOBinding, device: str, name: str, array: DeviceArray) -> None:
    """Let a graph read an array by its address. The binding does not keep the memory."""
    binding.bind_input(name, device, 0, array.dtype, list(array.shape), _address(array))


def bind_output(binding: ort.IOBinding, device: str, name: str, array: DeviceArray) -> None:
    """Let a graph write an array by its address."""
    binding.bind_output(name, device, 0, array.dtype, list(array.shape), _address(array))


def dtype_of(entry: ort.NodeArg) -> np.dtype[Any]:
    """Of an input or output."""
    name = {"tensor(float)": "float32", "tensor(float16)": "float16"}.get(entry.type)
    if name is None:
        raise BundleError(f"{entry.name} is a {entry.type}: neither float32 nor float16")
    return np.dtype(name)


def _address(array: DeviceArray) -> int:
    if not array.contiguous:
        raise ValueError("a graph reads and writes what lies without gaps")
    return array.pointer


@cache
def _cpu_options(kind: type[ort.SessionOptions], threads: int, compiled: Path | None) -> ort.SessionOptions:
    """For all sessions of so many threads, with a library of operators. Options of their own, in which the library is
    registered anew, left 2.5 KiB in memory with every session that had gone. ``kind`` is the runtime's, or what a test
    has put in its place."""
    options = _options(kind)
    options.intra_op_num_threads = threads
    # Both sessions have a pool, and only one runs at a time: the other's workers must not spin on its cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if compiled is not None:
        options.register_custom_ops_library(str(compiled))
    return options


def _options(kind: type[ort.SessionOptions]) -> ort.SessionOptions:
    options = kind()
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.enable_mem_pattern = False  # a plan is kept per distinct shape otherwise, and shapes vary without end
    options.log_severity_level = 3
    return options


def _open(
    path: Path, options: ort.SessionOptions, providers: list[str | tuple[str, dict[str, str]]]
) -> ort.InferenceSession:
    try:
        # Without its own second try on the CPU, which would tell of that one's failure in place of the first one's.
        return ort.InferenceSession(
            str(path), options, providers=providers, disabled_optimizers=[FUSED_NORM], enable_fallback=0
        )
    except Exception as error:  # noqa: BLE001 - the runtime's own errors have no common base
        raise BundleError(f"{path.name}: the runtime refuses it: {str(error).splitlines()[0][:300]}") from None
