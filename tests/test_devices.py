"""Precision and device go together; a mismatch, or a machine that cannot, is one line that says what to do."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from arithmetic_engine import ArithmeticEngine
from fake_cuda import Errors, FakeCuda
from seqserve.bundle import BundleError, read_model
from seqserve_server import devices
from seqserve_server.cuda_memory import CudaError
from seqserve_server.devices import choose_device, open_cuda
from seqserve_server.engine import Candidates, Source, StepInput
from seqserve_server.served_model import EngineLimits, ServedModel
from seqserve_server.sessions import open_on_cuda
from serving import ask, serving

BUNDLE = Path("bundle")
FOR_CPU = "for the CPU make one with `seqserve export SOURCE OUT --precision fp32`"
ALLOWED = [
    ("fp32", "auto", "cpu"), ("int8", "auto", "cpu"), ("fp32", "cpu", "cpu"), ("int8", "cpu", "cpu"),
    ("fp16", "auto", "cuda"), ("fp16", "cuda", "cuda"),
]
REFUSED = [
    ("fp16", "cpu", f"bundle: an fp16 bundle runs on CUDA; {FOR_CPU}"),
    *(
        (precision, "cuda", f"bundle: an {precision} bundle runs on the CPU; for CUDA make one with "
         "`seqserve export SOURCE OUT --precision fp16`") for precision in ("fp32", "int8")
    ),
]


@pytest.fixture
def with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the runtime for CUDA were installed."""
    monkeypatch.setattr(devices, "has_cuda", lambda: True)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)


@pytest.mark.parametrize(("precision", "wanted", "device"), ALLOWED)
@pytest.mark.usefixtures("with_cuda")
def test_the_precision_says_where_a_bundle_runs(precision: str, wanted: str, device: str) -> None:
    assert choose_device(precision, wanted, BUNDLE) == device


@pytest.mark.parametrize(("precision", "wanted", "text"), REFUSED)
@pytest.mark.usefixtures("with_cuda")
def test_a_mismatch_names_the_command_that_makes_the_right_bundle(precision: str, wanted: str, text: str) -> None:
    with pytest.raises(BundleError) as caught:
        choose_device(precision, wanted, BUNDLE)
    assert str(caught.value) == text


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_the_runtime_for_the_cpu_is_named_with_what_to_install(wanted: str) -> None:
    with pytest.raises(BundleError) as caught:
        choose_device("fp16", wanted, BUNDLE)
    assert str(caught.value) == (
        "bundle: an fp16 bundle runs on CUDA, and the installed onnxruntime is the one for the CPU: uninstall it, then "
        f"pip install 'seqserve[server-gpu]'; {FOR_CPU}"
    )


def missing() -> Any:
    raise CudaError("cuda-bindings cannot be imported (no module)")


@pytest.mark.parametrize(
    ("load", "text"),
    [
        (missing, "cuda-bindings cannot be imported (no module)"),
        (lambda: FakeCuda(devices=0), "no device"),
        (lambda: FakeCuda(error=Errors.cudaErrorInsufficientDriver),
         "cudaGetDeviceCount: text of cudaErrorInsufficientDriver"),
    ],
    ids=["no bindings", "no device", "an old driver"],
)
@pytest.mark.usefixtures("with_cuda")
def test_a_machine_without_cuda_is_told_what_is_missing(
    load: Any, text: str, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "load_runtime", load)
    with pytest.raises(BundleError) as caught:
        open_cuda(tiny_bundle, read_model(tiny_bundle), cache_bytes=1 << 20, max_rows=4)
    assert str(caught.value) == (
        f"{tiny_bundle}: CUDA cannot be used: {text}; pip install 'seqserve[server-gpu]'; {FOR_CPU}"
    )


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("capture", [False, True])
def test_no_graph_runs_on_the_cpu_that_was_to_run_on_cuda(tiny_bundle: Path, capture: bool) -> None:
    """Left to itself, the runtime falls back and tells nobody but its log. This one cannot but leave all to the CPU."""
    with pytest.raises(BundleError, match=r"^encoder\.onnx: the runtime refuses it: .* fallback to CPU EP has been"):
        open_on_cuda(tiny_bundle / "encoder.onnx", 0, capture=capture)


def test_a_bundle_for_the_cpu_is_not_opened_for_cuda(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match="an fp32 bundle runs on the CPU; for CUDA make one"):
        ServedModel.open(tiny_bundle, EngineLimits(threads=1), device="cuda")


class Watched(ArithmeticEngine):
    """Notes which threads it is used by."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[str] = set()

    def encode(self, sources: Sequence[Source]) -> None:
        self.threads.add(threading.current_thread().name)
        super().encode(sources)

    def step(self, step: StepInput) -> Candidates:
        self.threads.add(threading.current_thread().name)
        return super().step(step)


async def test_the_thread_that_warms_up_is_the_one_that_steps() -> None:
    """The runtime keeps captured graphs by thread."""
    engine = Watched()
    async with serving(engine=engine) as served:
        assert engine.threads == {"engine"}
        await served.stub.Generate(ask("c d"))
    assert engine.threads == {"engine"}
