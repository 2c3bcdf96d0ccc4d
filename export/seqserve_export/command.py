"""``seqserve export``: arguments, progress and exit codes."""

import argparse
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TextIO

from seqserve.bundle import PRECISIONS
from seqserve_export.errors import ExportError
from seqserve_export.families import FAMILIES
from seqserve_export.families.checkpoint import SourceOptions
from seqserve_export.families.registry import AUTO
from seqserve_export.parity import Opener
from seqserve_export.pipeline import ExportOptions, export_bundle

FAILURE = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments; their defaults are those of ``ExportOptions``."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help="checkpoint: a directory, or an .argosmodel")
    parser.add_argument("out", type=Path, metavar="OUT", help="directory of the bundle to write")
    parser.add_argument(
        "--family", default=ExportOptions.family, choices=(AUTO, *FAMILIES), metavar="FAMILY",
        help="kind of checkpoint: %(choices)s (default: auto)",
    )
    parser.add_argument(
        "--precision", default=ExportOptions.precision, choices=PRECISIONS,
        help="number format (default: fp32); int8, for the CPU, and fp16, for CUDA, are measured against it",
    )
    parser.add_argument(
        "--min-agreement", type=float, default=ExportOptions.min_agreement, metavar="PART",
        help="int8, fp16: part of the tokens, 0..1, that have to equal fp32's; fewer, and no bundle is written"
        " (default: 0)",
    )
    parser.add_argument("--name", help="name of the model in the server (default: the source directory's)")
    parser.add_argument(
        "--sentences", type=Path, metavar="FILE", help="prove on these lines of text instead of random token ids;"
        " other precisions are then compared by BLEU and chrF too"
    )
    parser.add_argument(
        "--heads", type=int, metavar="N", help="d2l: number of attention heads, where config.json does not say it"
    )
    parser.add_argument(
        "--positions", choices=("true", "book"),
        help="d2l: positions of generated tokens: true ones (default), or all 0 as in the book's predict",
    )
    parser.add_argument(
        "--sha256", metavar="HEX", help="refuse a weights file whose SHA-256 is another, before anything of it is read"
    )
    for side in ("source", "target"):
        parser.add_argument(
            f"--max-{side}-length", type=int, metavar="N",
            help=f"t5, bahdanau: longest {side} in tokens, end token included (default: n_positions of config.json,"
            " else 1024; bahdanau: 1000)",
        )
    parser.add_argument(
        "--pad-sources", type=int, metavar="N",
        help="bahdanau: the encoder reads on over padding up to N tokens, as the book's does up to num_steps"
        " (default: it reads a source's own tokens alone)",
    )
    parser.add_argument(
        "--no-scorer", dest="scorer", action="store_false",
        help="leave out the graph that scores given targets and tells alignments; fp16 bundles have none",
    )
    parser.add_argument("--force", action="store_true", help="replace an older bundle at OUT")


def run(args: argparse.Namespace, open_bundle: Opener) -> int:
    """Export; the parity report goes to stdout, everything else to stderr. Returns the exit code."""
    options = ExportOptions(
        source=args.source, out=args.out, family=args.family, precision=args.precision, name=args.name,
        sentences=args.sentences, force=args.force, min_agreement=args.min_agreement, sha256=args.sha256,
        scorer=args.scorer,
        checkpoint=SourceOptions(
            heads=args.heads, positions=args.positions,
            max_source_length=args.max_source_length, max_target_length=args.max_target_length,
            pad_sources=args.pad_sources,
        ),
    )
    started = time.monotonic()
    status = StatusLine(sys.stderr)
    try:
        with _terminable():
            exported = export_bundle(options, open_bundle, status.show)
    except ExportError as error:
        status.clear()
        sys.stderr.write(f"seqserve export: {error}\n")
        return FAILURE
    finally:
        status.clear()
    for note in exported.notes:
        sys.stderr.write(f"note: {note}\n")
    sys.stdout.write(exported.report.table() + "\n")
    if exported.rounded is not None:
        sys.stdout.write(exported.rounded.table() + "\n")
    sys.stderr.write(f"wrote {options.out} ({exported.description.name}) in {time.monotonic() - started:.0f} s\n")
    return 0


class StatusLine:
    """One line that is overwritten, on a terminal; nothing at all elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._shown = stream, stream.isatty()

    def show(self, text: str) -> None:
        """Replace the line."""
        if self._shown:
            self._stream.write(f"\r\x1b[K{text}")
            self._stream.flush()

    def clear(self) -> None:
        """Remove the line."""
        self.show("")


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let signals that end a process unwind the stack as Ctrl-C does, so that no unfinished bundle stays behind."""
    def stop(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {}
    if threading.current_thread() is threading.main_thread():  # elsewhere signals are not ours to handle
        ending = (signal.SIGTERM, signal.SIGHUP)
        # One that is ignored (nohup) stays ignored.
        before = {one: signal.signal(one, stop) for one in ending if signal.getsignal(one) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
