"""``seqserve bench``."""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from seqserve_cli import exits, remote
from seqserve_cli.answers import decoding_options
from seqserve_client import AsyncClient, ServerInfo
from seqserve_client.load_test import Load, LoadTest, Source, random_sources, text_sources
from seqserve_client.report import GOODPUT_METRICS, Sample, result, table

DESCRIPTION = """\
Measure a server under load. By default an open loop: requests are sent at random (Poisson) times fixed in advance by
--rate and --seed, whatever the server does, and latency counts from the time a request should have been sent. With
--concurrency and no --rate, a closed loop: N requests in flight at all times.

examples:
  seqserve bench --rate 20 --requests 500 --input english.txt
  seqserve bench --rate 50 --duration 30 --stream --goodput ttft:100 e2el:300
  seqserve bench --concurrency 64 --random-ids 20 --min-new-tokens 24 --max-new-tokens 24 --save-result run.json
  seqserve bench --rate inf --requests 1000 --concurrency 256"""
DEFAULT_RATE = 10.0
DEFAULT_REQUESTS = 100
DEFAULT_SOURCE_LENGTH = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    remote.add_target(parser)
    count = remote.at_least(1)
    load = parser.add_argument_group("load")
    load.add_argument(
        "--rate",
        type=_rate,
        metavar="R",
        help=f'mean requests per second; "inf" sends all at once (default: {DEFAULT_RATE:g}, without --concurrency)',
    )
    load.add_argument(
        "--concurrency", type=count, metavar="N", help="most requests in flight; without --rate, always that many"
    )
    load.add_argument(
        "--requests", type=count, metavar="N", help=f"how many (default: {DEFAULT_REQUESTS}, without --duration)"
    )
    load.add_argument("--duration", type=remote.seconds, metavar="S", help="seconds during which requests are sent")
    load.add_argument(
        "--warmup", type=remote.at_least(0), default=2, metavar="N", help="uncounted first ones (default: %(default)s)"
    )
    load.add_argument("--seed", type=int, default=0, help="of times and inputs (default: %(default)s)")
    inputs = parser.add_argument_group("inputs").add_mutually_exclusive_group()
    inputs.add_argument("--input", type=Path, metavar="FILE", help="text lines to send, in a seeded order")
    inputs.add_argument(
        "--random-ids",
        type=count,
        metavar="LENGTH",
        help=f"send random ids (default: of length {DEFAULT_SOURCE_LENGTH})",
    )
    decoding = parser.add_argument_group("decoding")
    decoding.add_argument("--model-name", metavar="NAME", help="which model of a server that has several")
    remote.add_lengths(decoding)
    remote.add_beam_size(decoding)
    remote.add_languages(decoding)
    decoding.add_argument("--stream", action="store_true", help="stream, and measure when tokens arrive")
    report = parser.add_argument_group("report")
    report.add_argument(
        "--goodput",
        nargs="+",
        type=_limit,
        default=[],
        metavar="METRIC:MS",
        help=f"also count requests within these limits; metrics: {', '.join(GOODPUT_METRICS)}",
    )
    report.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")
    report.add_argument("--save-result", type=Path, metavar="FILE", help="write the result as JSON")
    remote.add_timeout(parser, 60)


def run(options: argparse.Namespace) -> int:
    """Run the command; fails where no request was completed."""
    limits = dict(options.goodput)
    if not options.stream and (unseen := sorted(set(limits) - {"e2el"})):
        raise exits.CommandError(f"--goodput {unseen[0]} needs --stream", exits.USAGE)
    load = _load(options)
    texts = _texts(options.input) if options.input else None
    samples = asyncio.run(_measure(options, load, texts))
    figures = {
        "target": options.target,
        "request_rate": "inf" if load.rate == float("inf") else load.rate,
        "max_concurrency": load.concurrency,
        "stream": load.stream,
        "seed": load.seed,
        "num_warmups": load.warmup,
        "goodput_limits_ms": limits,
        **result(samples, limits),
    }
    if options.save_result:
        options.save_result.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures) if options.json else table(figures))
    return exits.OK if figures["completed"] else exits.FAILURE


def _load(options: argparse.Namespace) -> Load:
    rate = options.rate
    if rate is None and options.concurrency is None:
        rate = DEFAULT_RATE
    requests = options.requests
    if requests is None and options.duration is None:
        requests = DEFAULT_REQUESTS
    try:
        return Load(
            rate=rate,
            concurrency=options.concurrency,
            requests=requests,
            duration=options.duration,
            warmup=options.warmup,
            stream=options.stream,
            seed=options.seed,
        )
    except ValueError as error:
        raise exits.CommandError(str(error), exits.USAGE) from error


async def _measure(options: argparse.Namespace, load: Load, texts: list[str] | None) -> list[Sample]:
    # Retries are off: a refusal is a result here.
    client = AsyncClient(options.target, timeout=options.timeout or None, max_attempts=1)
    with remote.errors_as_one_line(options.target):
        async with client:
            info = await client.info()
            sources = _sources(options, texts, info)
            decoding = decoding_options(options)
            progress = _progress(load) if sys.stderr.isatty() else None
            try:
                test = LoadTest(client, load, sources, decoding, model=options.model_name, progress=progress)
                return await test.run()
            finally:
                if progress is not None:
                    sys.stderr.write("\r\033[K")


def _sources(options: argparse.Namespace, texts: list[str] | None, info: ServerInfo) -> Iterator[Source]:
    if texts is not None:
        return text_sources(options.seed, texts)
    for model in info.models:
        if options.model_name in (None, model.name):
            return random_sources(options.seed, options.random_ids or DEFAULT_SOURCE_LENGTH, model)
    raise exits.CommandError(f"the server has no model {options.model_name!r}")


def _texts(path: Path) -> list[str]:
    try:
        texts = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise exits.CommandError(f"cannot read {path}: {error}") from error
    if not texts:
        raise exits.CommandError(f"{path} holds no text")
    return texts


def _progress(load: Load) -> Callable[[int, int], None]:
    whole = f"/{load.requests}" if load.requests is not None else ""

    shown = 0.0

    def show(ended: int, failed: int) -> None:
        nonlocal shown
        if (now := time.monotonic()) >= shown + 0.1:  # drawing takes time from the requests being measured
            shown = now
            sys.stderr.write(f"\r{ended}{whole} done, {failed} failed")
            sys.stderr.flush()

    return show


def _rate(text: str) -> float:
    rate = float(text)
    if not rate > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return rate


def _limit(text: str) -> tuple[str, float]:
    name, _, milliseconds = text.partition(":")
    if name not in GOODPUT_METRICS:
        raise argparse.ArgumentTypeError(f"{text!r} is not METRIC:MS with a metric of {', '.join(GOODPUT_METRICS)}")
    try:
        return name, float(milliseconds)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} lacks a number of milliseconds") from None
