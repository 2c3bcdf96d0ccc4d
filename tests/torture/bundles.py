"""Row 28: bundles with bytes that are not what they were; read in processes of their own, since a fault may end one.

Half of them are as an accident leaves them, and the manifest finds that. In the other half the manifest was made anew,
as somebody would who wants harm: then the files' own readers have to find it, or nothing is wrong.
"""

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from seqserve.bundle import MODEL_FILE, WEIGHTS_FILE, BundleError, read_model
from seqserve.golden import GOLDEN_FILE, read_golden
from seqserve.manifest import MANIFEST_FILE, check_manifest, write_manifest
from seqserve_server.graph_operators import refuse_coupling
from seqserve_server.served_model import EngineLimits, ServedModel
from seqserve_server.tokenizer import Tokenizer
from torture.garbage import mutated
from torture.progress import Progress
from torture.swaps import any_bundle

RUNTIMES = 0.02  # are opened by the runtime, with another graph or other weights
HANG_SECONDS = 60.0
PROCESSES = 2


async def bundles(count: int, bundle: Path | None = None, told: str = "") -> str:
    """So many bundles, none of which may end a process that reads texts, or be refused with anything but one line."""
    ends: Counter[str] = Counter()
    progress = Progress("bundles", count)
    # In memory where that can be: a file system waits longer for its disk than the readers take.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as directory:
        bundle = bundle or any_bundle(Path(directory))
        readers = [_Reader(Path(directory) / str(number), bundle, told) for number in range(PROCESSES)]
        with contextlib.ExitStack() as stack:
            for reader in readers:
                stack.callback(reader.close)
            for seed in range(0, count, PROCESSES):
                for number, reader in enumerate(readers):
                    reader.ask(seed + number)
                for reader in readers:
                    ends[reader.answer()] += 1
                progress.add(PROCESSES)
    wrong = {end: number for end, number in ends.items() if end not in ("opens", "refused", RUNTIME_ENDED)}
    assert not wrong, wrong
    return f"{ends.total()}: {dict(ends)}"


RUNTIME_ENDED = "the runtime ended its process"


class _Reader:
    """A process that reads bundles, and another when that one ends."""

    def __init__(self, directory: Path, bundle: Path, told: str) -> None:
        self._given = (directory, bundle, told)
        self._last = 0
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_read_all, args=(*self._given, there), daemon=True)
        self._process.start()
        there.close()

    def ask(self, seed: int) -> None:
        self._last = seed
        self._pipe.send(seed)

    def answer(self) -> str:
        """How the last one ended."""
        seed, runtime = self._last, False
        try:
            while self._pipe.poll(HANG_SECONDS):
                said = self._pipe.recv()
                if said != OPENING:
                    return str(said)
                runtime = True
            self._process.kill()
            return f"hangs at seed {seed}"
        except EOFError:
            self._process.join()
            code = self._process.exitcode or 0
            self._start()
            if runtime and code < 0:
                return RUNTIME_ENDED
            return f"ends with {signal.Signals(-code).name if code < 0 else code} at seed {seed}"

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


OPENING = "opening"


def _read_all(directory: Path, bundle: Path, told: str, pipe: Connection) -> None:
    """Body of such a process: seeds come in, ends go out, and ``OPENING`` before the runtime sees a bad file."""
    light, whole = directory / "light", directory / "whole"
    shutil.copytree(bundle, whole)
    shutil.copytree(bundle, light)
    (light / WEIGHTS_FILE).write_bytes(b"weights")  # to read texts nobody needs them
    (light / MANIFEST_FILE).unlink()
    write_manifest(light)
    good = {base: {name: (base / name).read_bytes() for name in _names(base)} for base in (light, whole)}
    with contextlib.suppress(EOFError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # the runtime tells of every fault
        while True:
            seed = pipe.recv()
            rng = random.Random(seed)
            runs = rng.random() < RUNTIMES
            base = whole if runs else light
            with _changed(base, good[base], rng, runs=runs) as name:
                if runs:
                    pipe.send(OPENING)
                pipe.send(_end(base, name, seed, told, runs=runs))


def _names(base: Path) -> list[str]:
    return sorted(str(path.relative_to(base)) for path in base.rglob("*") if path.is_file())


@contextlib.contextmanager
def _changed(base: Path, good: dict[str, bytes], rng: random.Random, *, runs: bool) -> Iterator[str]:
    """One file of it is another, inside the block; its name."""
    binary = [name for name in good if name.endswith(".onnx") or name == WEIGHTS_FILE]
    name = rng.choice(binary if runs else [*good, MODEL_FILE, MODEL_FILE, *(each for each in good if "/" in each)])
    (base / name).write_bytes(mutated(rng, good[name]))
    if name != MANIFEST_FILE and (runs or rng.random() < 0.5):
        (base / MANIFEST_FILE).unlink()
        write_manifest(base)
    try:
        yield name
    finally:
        for each in {name, MANIFEST_FILE}:
            (base / each).write_bytes(good[each])


def _end(directory: Path, name: str, seed: int, told: str, *, runs: bool) -> str:
    """What comes of a bundle one of whose files changed."""
    begun = time.monotonic()
    try:
        if runs:
            ServedModel.open(directory, EngineLimits(threads=1, cache_bytes=1 << 24))
        else:
            check_manifest(directory)
            description = read_model(directory)
            read_golden(directory, description)
            if name.endswith(".onnx"):
                refuse_coupling(directory / name)
            elif name != GOLDEN_FILE and (tokenizer := Tokenizer.open(directory, description)) is not None:
                tokenizer.encode("a b c")
        if told == "raise":
            raise KeyError("a field nobody thought of")
    except BundleError as error:
        return "refused" if "\n" not in str(error) else f"is refused with several lines at seed {seed}"
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        return f"{type(error).__name__} at seed {seed}"
    return "opens" if time.monotonic() - begun < HANG_SECONDS else f"hangs at seed {seed}"
