"""``seqserve bench``."""

import argparse
import contextlib
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from seqserve_cli import bench_settings, exits, load_page, remote
from seqserve_cli.bench_arguments import DEFAULT_SETTLE
from seqserve_cli.bench_arguments import add_arguments as add_arguments
from seqserve_cli.bench_progress import Live
from seqserve_client import Client, ModelInfo, SeqserveError, Unavailable
from seqserve_client.capacity_search import capacity, is_borne, next_rate
from seqserve_client.load import Load, Work
from seqserve_client.load_processes import ClientDied, ClientProcesses, Clients, OwnProcess, Target
from seqserve_client.load_table import sweep_table, table
from seqserve_client.report import Part, Sample, clients, generator_warnings, kinds, merged, result
from seqserve_client.server_metrics import Watch, settled

DESCRIPTION = """\
Measure a server under load. By default an open loop: requests are sent at random (Poisson) times fixed in advance by
--rate and --seed, whatever the server does, and latency counts from the time a request should have been sent. With
--concurrency and no --rate, a closed loop: N requests in flight at all times. docs/load-testing.md says how to read it.

examples:
  seqserve bench --rate 20 --requests 500 --input english.txt
  seqserve bench --rate 50 --duration 30 --stream --goodput ttft:100 e2el:300
  seqserve bench --sweep 10,20,40 --duration 20 --report curve.html
  seqserve bench --capacity --goodput e2el:300 --duration 20 --input english.txt
  seqserve bench --trace monday.jsonl --metrics http://127.0.0.1:9090/metrics
  seqserve bench --rate 30 --mix unary=0.5,stream=0.5 --save-result run.json
  seqserve bench --concurrency 64 --random-ids 20 --max-new-tokens 24
  seqserve bench --rate inf --requests 1000 --concurrency 256"""


@dataclass(frozen=True, slots=True)
class Run:
    """One load that was sent: its figures, and all its samples, those of the ramp included."""

    figures: dict[str, Any]
    samples: list[Sample]


def run(options: argparse.Namespace) -> int:
    """Run the command; fails where no request was completed, and where a search for capacity found none."""
    bench_settings.check(options)
    load = bench_settings.load_of(options)
    texts = bench_settings.texts_of(options.input) if options.input else None
    security = remote.security(options)
    target = Target(options.target, options.timeout or None, **security)
    with remote.errors_as_one_line(options.target):
        with Client(target.address, timeout=target.timeout, max_attempts=1, **security) as client:
            model = bench_settings.model_of(options, client.info())
        inputs = bench_settings.inputs_of(options, texts, model)
        work = Work(inputs, bench_settings.decoding_of(options), options.model_name)
        several = ClientProcesses(target, work, options.processes) if options.processes > 1 else None
        try:
            with several or OwnProcess(target, work) as sending:
                runs, found = _runs(options, sending, load)
        except ClientDied as error:
            raise exits.CommandError(str(error)) from error
    _deliver(options, _record(options, load, model, runs, found), runs)
    found_any = found is not None if options.capacity else any(each.figures["completed"] for each in runs)
    return exits.OK if found_any else exits.FAILURE


def _runs(options: argparse.Namespace, sending: Clients, load: Load) -> tuple[list[Run], float | None]:
    """All runs, by rate, and the capacity where it was looked for."""
    tried: dict[float, Run] = {}
    for rate in _rates(options, load, tried):
        if tried:
            time.sleep(DEFAULT_SETTLE if options.settle is None else options.settle)
        label = f"rate {rate:g}:" if options.sweep or options.capacity else ""
        tried[rate or 0.0] = _run(options, sending, replace(load, rate=rate), label)
    found = capacity(_borne(tried)) if options.capacity else None
    return [tried[rate] for rate in sorted(tried)] if options.capacity else list(tried.values()), found


def _rates(options: argparse.Namespace, load: Load, tried: dict[float, Run]) -> Iterator[float | None]:
    """One rate after the other; the search looks at what came of those before."""
    if options.capacity:
        while (rate := next_rate(_borne(tried), load.rate or 1.0)) is not None:
            yield rate
    else:
        yield from options.sweep or [load.rate]


def _borne(tried: dict[float, Run]) -> dict[float, bool]:
    return {rate: is_borne(each.figures) for rate, each in tried.items()}


def _run(options: argparse.Namespace, sending: Clients, load: Load, label: str) -> Run:
    """Send one load and work out its figures."""
    try:
        sending.prepare(load)
    except Unavailable:
        raise  # which has an exit code of its own
    except SeqserveError as error:
        text = f"the warm-up failed, {error.code.name}: {error} (--warmup 0 goes without it)"
        raise exits.CommandError(text) from error
    watch = _watch(options)
    live = Live(sys.stderr, label) if sys.stderr.isatty() and not options.quiet else None
    try:
        with watch or contextlib.nullcontext():
            parts = sending.run(live.tell if live else None)
    finally:
        if live:
            live.clear()
    figures, samples = _figures(options, load, parts)
    if watch:
        try:
            figures["server"] = watch.result()
        except Unavailable as error:  # the run is done, and worth more than this
            figures["warnings"].append(str(error))
    return Run(figures, samples)


def _watch(options: argparse.Namespace) -> Watch | None:
    """The scrapes, after the first one: better to fail now than after the run."""
    if options.metrics is None:
        return None
    try:
        return Watch(options.metrics, settled(options.metrics))
    except Unavailable as error:
        raise exits.CommandError(f"--metrics: {error}", exits.UNREACHABLE) from error


def _figures(options: argparse.Namespace, load: Load, parts: list[Part]) -> tuple[dict[str, Any], list[Sample]]:
    limits = dict(options.goodput)
    samples = merged(parts)
    counted = [sample for sample in samples if sample.intended >= load.ramp]
    figures: dict[str, Any] = {
        "request_rate": "inf" if load.rate is not None and math.isinf(load.rate) else load.rate,
        **result(counted, limits),
        "kinds": kinds(counted, limits) if len(load.kinds) > 1 else {},
        "clients": clients(parts),
    }
    # Everything at once is late by intention.
    late = generator_warnings(figures["clients"], figures["p99_e2el_ms"])
    figures["warnings"] = [] if load.rate == math.inf else late
    if load.ramp:
        failed = sum(sample.error is not None for sample in samples) - figures["failed"]
        figures["ramp"] = {"completed": len(samples) - len(counted) - failed, "failed": failed}
    return figures, samples


def _record(
    options: argparse.Namespace, load: Load, model: ModelInfo, runs: list[Run], found: float | None
) -> dict[str, Any]:
    """The whole result, ready for JSON: settings first, named as vLLM's where it has them."""
    settings = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "target": options.target,
        "model_id": model.name,
        "model": f"{model.name} ({model.family}, {model.precision}, version {model.version})",
        "machine": bench_settings.machine(),
        "num_prompts": load.requests,
        "duration_limit": load.duration,
        "burstiness": load.burstiness,
        "max_concurrency": load.concurrency,
        "trace": str(options.trace) if options.trace else None,
        "trace_speed": options.trace_speed,
        "input": str(options.input) if options.input else None,
        "ramp_seconds": load.ramp,
        "mix": {kind.name: kind.weight for kind in load.kinds},
        "stream": load.streams,
        "decoding": bench_settings.decoding_of(options),
        "seed": load.seed,
        "num_warmups": load.warmup,
        "processes": options.processes,
        "timeout": options.timeout,
        "goodput_limits_ms": dict(options.goodput),
    }
    if not options.sweep and not options.capacity:
        return settings | runs[0].figures
    return settings | {"sweep": [each.figures for each in runs]} | ({"capacity": found} if options.capacity else {})


def _deliver(options: argparse.Namespace, record: dict[str, Any], runs: list[Run]) -> None:
    """Save, draw and print."""
    try:
        if options.save_result:
            options.save_result.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if options.report:
            load_page.write(options.report, record, runs[0].samples if "sweep" not in record else [])
    except OSError as error:
        raise exits.CommandError(f"cannot write {error.filename}: {error.strerror}") from error
    if options.json:
        print(json.dumps(record))
    elif "sweep" in record:
        print(sweep_table(record))
    else:
        print(table(record))
