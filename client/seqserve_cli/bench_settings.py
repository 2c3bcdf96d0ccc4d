"""From the options of ``seqserve bench`` to a load: what goes together, and the files that it names."""

import argparse
import importlib
import os
import platform
from pathlib import Path
from typing import cast

from seqserve_cli import exits
from seqserve_cli.answers import decoding_options
from seqserve_cli.bench_arguments import DEFAULT_RATE, DEFAULT_REQUESTS, DEFAULT_SOURCE_LENGTH
from seqserve_client import GenerationOptions, ModelInfo, ServerInfo
from seqserve_client.load import Load
from seqserve_client.load_inputs import Inputs, RandomInputs, TextInputs
from seqserve_client.load_mix import STREAM, UNARY
from seqserve_client.load_trace import TraceEntry, TraceError, read_trace


def check(options: argparse.Namespace) -> None:
    """Refuse options that contradict each other, and files that could not be written after all the work.

    Raises:
        CommandError: with the flags by name.
        ModuleNotFoundError: a package is missing for what was asked for.
    """
    for wrong, message in _contradictions(options):
        if wrong:
            raise exits.CommandError(message, exits.USAGE)
    for flag, path in (("--save-result", options.save_result), ("--report", options.report)):
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise exits.CommandError(f"{flag}: {path} is not a file in a directory that exists", exits.USAGE)
    if options.report is not None:
        importlib.import_module("matplotlib")
    if options.metrics is not None:
        importlib.import_module("prometheus_client")


def _contradictions(options: argparse.Namespace) -> list[tuple[bool, str]]:
    """What must not be, and what to say of it."""
    several = options.sweep is not None or options.capacity
    traced = options.trace is not None
    closed = options.concurrency is not None and options.rate is None and not several and not traced
    endless = options.rate == float("inf")
    limits = [name for name, _ in options.goodput]
    streams = options.stream or any(kind.stream for kind in options.mix or ())
    unseen = sorted(set(limits) - {"e2el"})
    return [
        (traced and options.rate is not None, "--trace has times of its own: not with --rate"),
        (traced and several, "--trace has times of its own: not with --sweep or --capacity"),
        (traced and options.burstiness is not None, "--trace has times of its own: not with --burstiness"),
        (traced and bool(options.ramp), "--trace has times of its own: not with --ramp"),
        (not traced and options.trace_speed is not None, "--trace-speed needs --trace"),
        (options.sweep is not None and options.rate is not None, "--sweep has the rates: not with --rate"),
        (options.sweep is not None and options.capacity, "--sweep or --capacity, not both"),
        (options.capacity and endless, "--capacity begins at --rate, which cannot be inf"),
        (options.capacity and not limits, "--capacity needs --goodput: the limits that users have"),
        (not several and options.settle is not None, "--settle needs --sweep or --capacity"),
        (closed and options.burstiness is not None, "--burstiness needs --rate: a closed loop has no schedule"),
        (endless and options.requests is None, "--rate inf needs --requests"),
        (endless and bool(options.ramp), "--rate inf has no --ramp"),
        (
            options.concurrency is not None and options.concurrency < options.processes,
            f"--concurrency {options.concurrency} is below --processes {options.processes}: none may be without",
        ),
        (len(set(limits)) < len(limits), "--goodput has a metric twice"),
        (bool(unseen) and not streams, f"--goodput {unseen[0] if unseen else ''} needs --stream, or a --mix with it"),
    ]


def load_of(options: argparse.Namespace) -> Load:
    """The load; of a sweep the one of its first rate."""
    trace = _trace(options)
    rate = options.rate
    if options.sweep is not None:
        rate = options.sweep[0]
    elif rate is None and trace is None and (options.concurrency is None or options.capacity):
        rate = DEFAULT_RATE
    requests = options.requests
    if requests is None and options.duration is None and trace is None:
        requests = DEFAULT_REQUESTS
    return Load(
        rate=rate,
        concurrency=options.concurrency,
        requests=requests,
        duration=options.duration,
        warmup=options.warmup,
        seed=options.seed,
        burstiness=1.0 if options.burstiness is None else options.burstiness,
        ramp=options.ramp,
        kinds=options.mix or ((STREAM,) if options.stream else (UNARY,)),
        trace=trace,
    )


def _trace(options: argparse.Namespace) -> tuple[TraceEntry, ...] | None:
    if options.trace is None:
        return None
    try:
        return read_trace(options.trace, options.trace_speed or 1.0)
    except TraceError as error:
        raise exits.CommandError(str(error)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise exits.CommandError(f"cannot read {options.trace}: {error}") from error


def texts_of(path: Path) -> tuple[str, ...]:
    """The lines of a file that hold text."""
    try:
        texts = tuple(line for line in path.read_text(encoding="utf-8").split("\n") if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise exits.CommandError(f"cannot read {path}: {error}") from error
    if not texts:
        raise exits.CommandError(f"{path} holds no text")
    return texts


def model_of(options: argparse.Namespace, info: ServerInfo) -> ModelInfo:
    """The model that is measured."""
    for model in info.models:
        if options.model_name in (None, model.name):
            return model
    raise exits.CommandError(f"the server has no model {options.model_name!r}")


def inputs_of(options: argparse.Namespace, texts: tuple[str, ...] | None, model: ModelInfo) -> Inputs:
    """What to send where a trace does not say it."""
    if texts is not None:
        return TextInputs(options.seed, texts)
    return RandomInputs.for_model(options.seed, options.random_ids or DEFAULT_SOURCE_LENGTH, model)


def decoding_of(options: argparse.Namespace) -> GenerationOptions:
    """Options of every request. Not ``--seed``, which is of the load: with a seed, servers draw tokens."""
    given = decoding_options(argparse.Namespace(**{**vars(options), "seed": None}))
    return cast(GenerationOptions, {name: value for name, value in given.items() if value is not None})


def machine() -> str:
    """The machine that this runs on, in a line: the server may be on another."""
    name = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass  # not Linux
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{name}, {os.cpu_count()} cores, {system}"
