"""Where a bundle runs: its precision decides, and what was asked for must agree. fp32 and int8: CPU; fp16: CUDA."""

from functools import partial
from pathlib import Path

import onnxruntime as ort

from seqserve.bundle import BundleError, ModelDescription
from seqserve_server.cuda_memory import CudaError, CudaMemory, load_runtime
from seqserve_server.device_engine import DeviceEngine
from seqserve_server.device_memory import HostMemory
from seqserve_server.sessions import has_cuda, open_on_cpu, open_on_cuda

AUTO, CPU, CUDA = "auto", "cpu", "cuda"
EXPORT = "`seqserve export SOURCE OUT --precision {}`"
FOR_CPU = f"for the CPU make one with {EXPORT.format('fp32')}"
INSTALL = "pip install 'seqserve[server-gpu]'"


def choose_device(precision: str, wanted: str, directory: Path) -> str:
    """"cpu" or "cuda". What is wanted may be "auto".

    Raises:
        BundleError: the device does not run bundles of this precision, or the installed runtime has no such device.
    """
    device = CUDA if precision == "fp16" else CPU
    if device == CUDA and wanted == CPU:
        raise BundleError(f"{directory}: an fp16 bundle runs on CUDA; {FOR_CPU}")
    if device == CPU and wanted == CUDA:
        raise BundleError(
            f"{directory}: an {precision} bundle runs on the CPU; for CUDA make one with {EXPORT.format('fp16')}"
        )
    if device == CUDA and not has_cuda():
        raise BundleError(
            f"{directory}: an fp16 bundle runs on CUDA, and the installed onnxruntime is the one for the CPU: "
            f"uninstall it, then {INSTALL}; {FOR_CPU}"
        )
    return device


def open_cuda(directory: Path, model: ModelDescription, *, cache_bytes: int, max_rows: int) -> DeviceEngine:
    """The engine of a bundle on the first CUDA device.

    Raises:
        BundleError: there is no device, or a graph is not one for it.
    """
    ort.preload_dlls()  # the libraries of CUDA that lie in site-packages, where no loader looks
    try:
        memory = CudaMemory(load_runtime())
    except CudaError as error:
        raise BundleError(f"{directory}: CUDA cannot be used: {error}; {INSTALL}; {FOR_CPU}") from None
    opener = partial(open_on_cuda, stream=memory.stream)
    return DeviceEngine(directory, model, memory, opener, cache_bytes=cache_bytes, max_rows=max_rows)


def open_twin(
    directory: Path, model: ModelDescription, *, cache_bytes: int, max_rows: int, threads: int
) -> DeviceEngine:
    """The same engine over this process's memory, its graphs on the CPU: for checks, not for serving."""

    def opener(path: Path, *, capture: bool) -> ort.InferenceSession:
        del capture  # there is nothing to capture with
        return open_on_cpu(path, threads)

    return DeviceEngine(directory, model, HostMemory(), opener, cache_bytes=cache_bytes, max_rows=max_rows)
