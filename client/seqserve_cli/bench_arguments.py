"""The arguments of ``seqserve bench``, each checked as far as it can be by itself."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from seqserve_cli import remote
from seqserve_client.load_mix import Kind, parse_mix
from seqserve_client.report import GOODPUT_METRICS

DEFAULT_RATE = 10.0
DEFAULT_REQUESTS = 100
DEFAULT_SOURCE_LENGTH = 20
DEFAULT_SETTLE = 1.0
MOST_PROCESSES = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    remote.add_target(parser)
    remote.add_security(parser)
    _add_load(parser.add_argument_group("load"))
    _add_inputs(parser)
    decoding = parser.add_argument_group("decoding")
    decoding.add_argument("--model-name", metavar="NAME", help="which model of a server that has several")
    remote.add_lengths(decoding)
    remote.add_beam_size(decoding)
    remote.add_languages(decoding)
    kinds = decoding.add_mutually_exclusive_group()
    kinds.add_argument("--stream", action="store_true", help="stream, and measure when tokens arrive")
    kinds.add_argument(
        "--mix",
        type=mix,
        metavar="KIND=WEIGHT,...",
        help="seeded kinds of requests: unary, stream, beamN, stream+beamN; such as unary=0.5,stream=0.3,beam4=0.2",
    )
    _add_report(parser.add_argument_group("report"))
    remote.add_timeout(parser, 60)


def _add_load(load: argparse._ArgumentGroup) -> None:
    count = remote.at_least(1)
    load.add_argument(
        "--rate",
        type=rate,
        metavar="R",
        help=f'mean requests per second; "inf" sends all at once (default: {DEFAULT_RATE:g}, without --concurrency)',
    )
    load.add_argument(
        "--burstiness",
        type=above_zero,
        metavar="B",
        help="shape of the gamma distribution of gaps: below 1 in bursts, above nearly regular (default: 1, Poisson)",
    )
    load.add_argument("--trace", type=Path, metavar="FILE", help="send recorded requests at their times: JSONL or CSV")
    load.add_argument("--trace-speed", type=above_zero, metavar="F", help="replay so many times as fast (default: 1)")
    load.add_argument(
        "--sweep", type=rates, metavar="R1,R2,...", help="one run for each rate, with --settle seconds in between"
    )
    load.add_argument(
        "--capacity",
        action="store_true",
        help="look for the highest rate at which 99 %% of requests are within --goodput, from --rate on",
    )
    load.add_argument(
        "--settle",
        type=remote.seconds,
        metavar="S",
        help=f"pause between runs (default: {DEFAULT_SETTLE:g})",
    )
    load.add_argument(
        "--concurrency", type=count, metavar="N", help="most requests in flight; without --rate, always that many"
    )
    load.add_argument(
        "--requests", type=count, metavar="N", help=f"how many (default: {DEFAULT_REQUESTS}, without --duration)"
    )
    load.add_argument("--duration", type=above_zero, metavar="S", help="seconds during which requests are sent")
    load.add_argument(
        "--ramp", type=remote.seconds, default=0.0, metavar="S",
        help="seconds in which the rate first grows from 0; these requests are sent and not counted (default: 0)",
    )
    load.add_argument(
        "--warmup", type=remote.at_least(0), default=2, metavar="N",
        help="uncounted first ones of each process and kind, one after the other (default: %(default)s)",
    )
    load.add_argument(
        "--processes", type=processes, default=1, metavar="N",
        help="client processes that share the schedule and --concurrency (default: %(default)s)",
    )
    load.add_argument("--seed", type=int, default=0, help="of times, kinds and inputs (default: %(default)s)")


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    inputs = parser.add_argument_group("inputs").add_mutually_exclusive_group()
    inputs.add_argument("--input", type=Path, metavar="FILE", help="text lines to send, in a seeded order")
    inputs.add_argument(
        "--random-ids",
        type=remote.at_least(1),
        metavar="LENGTH",
        help=f"send random ids (default: of length {DEFAULT_SOURCE_LENGTH})",
    )


def _add_report(report: argparse._ArgumentGroup) -> None:
    report.add_argument(
        "--goodput",
        nargs="+",
        type=limit,
        default=[],
        metavar="METRIC:MS",
        help=f"also count requests within these limits; metrics: {', '.join(GOODPUT_METRICS)}",
    )
    report.add_argument(
        "--metrics", type=web_address, metavar="URL", help="scrape the server too: http://127.0.0.1:9090/metrics"
    )
    report.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")
    report.add_argument("--save-result", type=Path, metavar="FILE", help="write the result as JSON")
    report.add_argument(
        "--report", type=picture, metavar="FILE", help="write a page (.html) or a picture (.png) with the curves"
    )
    report.add_argument("--quiet", action="store_true", help="no progress on the terminal")


def above_zero(text: str) -> float:
    """A finite number above 0."""
    value = _float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text}")
    return value


def rate(text: str) -> float:
    """A number above 0, or infinite."""
    value = _float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f'must be a number above 0, or "inf", not {text}')
    return value


def rates(text: str) -> list[float]:
    """Rates of a sweep, in the order given."""
    found = [above_zero(part) for part in text.split(",")]
    if len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"has a rate twice: {text}")
    return found


def processes(text: str) -> int:
    """A number of processes."""
    value = remote.at_least(1)(text)
    if value > MOST_PROCESSES:
        raise argparse.ArgumentTypeError(f"must be at most {MOST_PROCESSES}, not {text}")
    return value


def limit(text: str) -> tuple[str, float]:
    """A metric and its most milliseconds."""
    name, _, milliseconds = text.partition(":")
    if name not in GOODPUT_METRICS:
        raise argparse.ArgumentTypeError(f"{text!r} is not METRIC:MS with a metric of {', '.join(GOODPUT_METRICS)}")
    if not 0 < (value := _float(milliseconds)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} lacks a number of milliseconds above 0")
    return name, value


def web_address(text: str) -> str:
    """An address that is scraped."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError(f"must be an address such as http://127.0.0.1:9090/metrics, not {text}")
    return text


def picture(text: str) -> Path:
    """A file whose ending says what it becomes."""
    path = Path(text)
    if path.suffix not in (".html", ".png"):
        raise argparse.ArgumentTypeError(f"must end in .html or .png, not {text}")
    return path


def _checked(parse: Callable[[str], tuple[Kind, ...]]) -> Callable[[str], tuple[Kind, ...]]:
    """argparse shows the message of its own error only, and of a ValueError just the text."""

    def checked(text: str) -> tuple[Kind, ...]:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


mix = _checked(parse_mix)


def _float(text: str) -> float:
    """NaN where it is no number: what no check lets through."""
    try:
        return float(text)
    except ValueError:
        return math.nan
