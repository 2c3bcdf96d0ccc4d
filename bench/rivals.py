"""Every system that decodes the same model: where its form of the model lies, and how its worker is started."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from processes import System, running_server, running_system
from workload import DEMO, RANDOM, THREADS, Task

PRECISIONS = ("float32", "int8")


@dataclass(frozen=True)
class Model:
    """One model in everyone's form, as paths below the work directory; ``{precision}`` is replaced.

    None where a system has no form of it.
    """

    task: Task
    bundle: dict[str, str]
    hugging_face: str | None
    ctranslate2: str
    optimum: str | None
    title: str


MODELS = {
    "random": Model(
        RANDOM, {"float32": "bench/bundle", "int8": "bench/bundle-int8"}, "bench/hugging-face",
        "bench/ctranslate2-float32", "bench/optimum-{precision}",
        "61 M random Marian model, 20 source tokens, 24 forced new tokens",
    ),
    # Its learned positions are in no class of transformers that has its other layers.
    "grown": Model(
        DEMO, {"int8": "bench/grown/bundle-int8"}, None, "bench/grown/ctranslate2", None,
        "demo model grown to 61 M, sentences of test_2016, natural ends",
    ),
    "demo": Model(
        DEMO, {"float32": "demo-bundle", "int8": "demo-int8"}, "bench/demo-peers/transformers",
        "bench/demo-peers/ctranslate2", "bench/demo-peers/optimum-{precision}",
        "2.3 M demo model, sentences of test_2016, natural ends",
    ),
}


@dataclass(frozen=True)
class Field:
    """Who takes part, and with what."""

    model: Model
    precision: str
    beam_size: int
    work: Path
    peers_python: Path
    optimum_python: Path

    @property
    def bundle(self) -> Path:
        """Ours."""
        return self.work / self.model.bundle[self.precision]

    @property
    def flags(self) -> list[str]:
        """What all workers are told."""
        return ["--beam-size", str(self.beam_size), "--task", self.model.task.name]

    @property
    def peers(self) -> list[tuple[Path, str, Path, str]]:
        """Interpreter, worker, model and precision of each. PyTorch in both of its own: which is faster depends."""
        model, precision = self.model, self.precision
        forms = [
            (self.peers_python, "peers.huggingface", model.hugging_face, "float32"),
            (self.peers_python, "peers.huggingface", model.hugging_face, "bfloat16"),
            (self.optimum_python, "peers.optimum_worker", model.optimum, precision),
            (self.peers_python, "peers.ctranslate", model.ctranslate2, precision),
        ]
        return [
            (python, module, self.work / form.format(precision=precision), theirs)
            for python, module, form, theirs in forms if form is not None
        ]

    def check(self) -> None:
        """Everything is there.

        Raises:
            FileNotFoundError: with what makes it.
        """
        for path in (self.bundle, *(path for python, _, model, _ in self.peers for path in (python, model))):
            if not path.exists():
                raise FileNotFoundError(f"{path} is missing; `make bench-models` makes it")

    @contextlib.contextmanager
    def running(self) -> Iterator[list[System]]:
        """Every system, loaded and stopped. The last one is what the others are compared with."""
        with contextlib.ExitStack() as stack:
            systems = [
                stack.enter_context(running_system([
                    str(python), "-m", module, str(model), "--precision", precision, *self.flags,
                ])) for python, module, model, precision in self.peers
            ]
            local = [sys.executable, "-m", "ours.inprocess", str(self.bundle), *self.flags]
            systems.append(stack.enter_context(running_system(local)))
            server = stack.enter_context(running_server(self.bundle, "--threads", str(THREADS)))
            clients = [sys.executable, "-m", "ours.clients", server.target, *self.flags]
            systems.append(stack.enter_context(running_system(clients, [server.process])))
            yield systems
