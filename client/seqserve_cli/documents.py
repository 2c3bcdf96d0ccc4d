"""``seqserve generate --document``: whole files, sentence by sentence, in bounded memory."""

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from seqserve_cli import answers, exits, remote
from seqserve_cli.lines import MAX_LINE_BYTES, answer_in_order, from_thread
from seqserve_client import AsyncClient, Document, InvalidInput
from seqserve_client.documents import SPLITS, moved
from seqserve_client.translation import Translation, batch_size_of

# A block is translated by one call after the other, and so many blocks at once.
BLOCK_BYTES = 16_384
BLOCKS_IN_FLIGHT = 4
STDIN = "-"

Ask = Callable[[list[str]], Awaitable[list[Any]]]


@dataclass(frozen=True, slots=True)
class Block:
    """Some whole lines of a file, behind ``offset`` characters of it; ``done`` bytes of all files end with it."""

    file: str
    text: str
    offset: int
    done: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of documents."""
    group = parser.add_argument_group("documents")
    group.add_argument(
        "--document", action="store_true",
        help="arguments are files (none, or \"-\", is stdin); their sentences are answered, their layout is kept",
    )
    group.add_argument("--split", choices=SPLITS, help="what is answered at once (default: sentences)")
    group.add_argument(
        "--language", metavar="CODE", help="whose abbreviations end no sentence (default: --source-language, or all)"
    )
    group.add_argument("--output", metavar="FILE", help="write there, in place of stdout")


def check(options: argparse.Namespace) -> None:
    """Whether the options of a document make sense together.

    Raises:
        CommandError: they do not.
    """
    for flag in ("stream", "tokens", "token_ids", "return_logprobs"):
        if getattr(options, flag):
            raise exits.CommandError(f"--{flag.replace('_', '-')} is not for --document", exits.USAGE)
    if (options.num_hypotheses or 1) > 1:
        raise exits.CommandError("a document has one answer; --num-hypotheses is not for --document", exits.USAGE)
    for name in options.texts:
        if name != STDIN and options.output and _same(name, options.output):
            raise exits.CommandError(f"--output {options.output} is read, too", exits.USAGE)


def _same(one: str, other: str) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samefile(one, other)
    return False


def size_of(names: list[str]) -> int | None:
    """Bytes of all files together; None where that is not known."""
    try:
        return sum(Path(name).stat().st_size for name in names) if names and STDIN not in names else None
    except OSError:
        return None


def _blocks(names: list[str]) -> Iterator[list[Block]]:
    done = 0
    for name in names:
        with _opened(name) as stream:
            offset = 0
            for data in blocks_of_whole_lines(stream, name):
                done += len(data)
                text = _decoded(data, name)
                yield [Block(name, text, offset, done)]
                offset += len(text)


@contextlib.contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    if name == STDIN:
        if sys.stdin is None:
            raise exits.CommandError("no text: stdin is closed", exits.USAGE)
        buffered = sys.stdin.buffer
        yield getattr(buffered, "raw", buffered)  # see lines.blocks_of_lines
        return
    try:
        stream = open(name, "rb", buffering=0)  # noqa: SIM115 - an error of its own; closed below
    except OSError as error:
        raise exits.CommandError(f"cannot read {name}: {error.strerror}") from error
    with stream:
        yield stream


def blocks_of_whole_lines(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """All bytes of a stream, as they arrive, in blocks that end with a line end, the last excepted."""
    rest: list[bytes] = []
    held = 0
    while data := stream.read(BLOCK_BYTES):
        end = data.rfind(b"\n") + 1
        if end:
            yield b"".join([*rest, data[:end]])
            rest, held = [data[end:]], len(data) - end
        else:
            rest.append(data)
            held += len(data)
        if held > MAX_LINE_BYTES:
            raise exits.CommandError(f"{_called(name)} has a line of more than {MAX_LINE_BYTES} bytes")
    if held:
        yield b"".join(rest)


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise exits.CommandError(f"{_called(name)} is not UTF-8: {error}") from None


def _called(name: str) -> str:
    return "stdin" if name == STDIN else name


async def translate(options: argparse.Namespace) -> None:
    """Answer all of it, from a server or in-process."""
    blocks = from_thread(_blocks(options.texts or [STDIN]))
    with _destination(options.output) as out:
        shown = Bar(size_of(options.texts)) if sys.stderr.isatty() else None
        writer = Writer(out, shown, as_json=options.json)
        try:
            if options.model:
                with remote.errors_as_one_line("in-process"):
                    bundle = answers.Bundle(options.model)
                    await _answer(options, blocks, lambda texts: bundle.results(options, texts), writer, 64, 1)
                return
            with remote.errors_as_one_line(options.target):
                security = remote.security(options)
                async with AsyncClient(options.target, timeout=options.timeout or None, **security) as client:
                    size = batch_size_of(await client.info(), options.model_name)
                    decoding: dict[str, Any] = {**answers.decoding_options(options)}
                    await _answer(
                        options, blocks,
                        lambda texts: client.generate(texts, model=options.model_name, **decoding),
                        writer, size, BLOCKS_IN_FLIGHT,
                    )
        finally:
            if shown is not None:
                shown.clear()


async def _answer(
    options: argparse.Namespace, blocks: AsyncIterator[list[Block]], ask: Ask, writer: "Writer", batch_size: int,
    in_flight: int,
) -> None:
    async def answer(_: int, group: list[Block]) -> list[tuple[Block, Document]]:
        block = group[0]
        language = options.language or options.source_language
        work = Translation(block.text, options.split or "sentences", language, offset=block.offset)
        try:
            return [(block, await work.run_async(ask, batch_size=batch_size, calls_in_flight=1))]
        except InvalidInput as error:
            if not (error.field or "").startswith("inputs["):
                raise
            raise exits.CommandError(f"{_called(block.file)}: {error.code.name}: {error}") from error

    await answer_in_order(blocks, answer, writer.write, batch_size=1, calls_in_flight=in_flight)


@contextlib.contextmanager
def _destination(path: str | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    try:
        stream = open(path, "w", encoding="utf-8", newline="")  # noqa: SIM115 - an error of its own; closed below
    except OSError as error:
        raise exits.CommandError(f"cannot write {path}: {error.strerror}") from error
    with stream:
        yield stream


class Writer:
    """Writes translated blocks in their order: their text, or one JSON object for each of their passages."""

    def __init__(self, out: TextIO, bar: "Bar | None", *, as_json: bool) -> None:
        self._out, self._bar, self._as_json = out, bar, as_json
        self._file: str | None = None
        self._target = 0

    def write(self, translated: tuple[Block, Document]) -> None:
        """The next block."""
        block, document = translated
        if block.file != self._file or not block.offset:
            self._file, self._target = block.file, 0
        if self._bar is not None:
            self._bar.clear()
        self._out.write(self._records(block, document) if self._as_json else document.text)
        self._out.flush()
        self._target += len(document.text)
        if self._bar is not None:
            self._bar.show(block.done, len(document.passages))

    def _records(self, block: Block, document: Document) -> str:
        lines = []
        for passage in document.passages:
            record = asdict(moved(passage, block.offset, self._target))
            del record["result"]
            record = {"file": _called(block.file), **record, "score": passage.score}
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
        return "".join(lines)


class Bar:
    """How far it is, on one line of stderr that is overwritten."""

    WIDTH, SECONDS = 30, 0.1

    def __init__(self, size: int | None) -> None:
        self._size, self._sentences = size, 0
        self._drawn = 0.0

    def show(self, done: int, sentences: int) -> None:
        """So many bytes are done, and so many sentences more."""
        self._sentences += sentences
        if (now := time.monotonic()) < self._drawn + self.SECONDS and done != self._size:
            return
        self._drawn = now
        sys.stderr.write(f"\r{self.line(done)}")
        sys.stderr.flush()

    def line(self, done: int) -> str:
        """What it says."""
        if not self._size:
            return f"{self._sentences} sentences"
        share = min(done / self._size, 1.0)
        return f"[{'#' * int(share * self.WIDTH):.<{self.WIDTH}}] {share:4.0%}  {self._sentences} sentences"

    def clear(self) -> None:
        """Remove the line."""
        sys.stderr.write("\r\033[K")
        sys.stderr.flush()
