"""Lines in, answers out: several calls in flight, order kept, memory bounded, nothing waits for a full batch.

A reader thread hands over the lines that have arrived, as a block; blocks are cut into batches; each batch is one
call. So a line that is typed is answered at once, and a file goes through in full batches.
"""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import BinaryIO, TypeVar

from seqserve_cli import exits

MAX_LINE_BYTES = 4 * 2**20

Item = TypeVar("Item")
Answered = TypeVar("Answered")


def blocks_of_lines(stream: BinaryIO) -> Iterator[list[str]]:
    """The lines of a stream, in blocks as they arrive; line ends are removed, a last line needs none.

    ``stream`` is the raw one: it returns what is there instead of waiting for more, and, unlike a buffered one, holds
    no lock on which the interpreter would stumble when it exits while the reader waits.
    """
    rest, count = b"", 0
    while data := stream.read(65_536):
        *lines, rest = (rest + data).split(b"\n")
        if lines:
            yield [_decoded(line, count + place) for place, line in enumerate(lines, 1)]
            count += len(lines)
        if len(rest) > MAX_LINE_BYTES:
            raise exits.CommandError(f"line {count + 1} is longer than {MAX_LINE_BYTES} bytes")
    if rest:
        yield [_decoded(rest, count + 1)]


def _decoded(line: bytes, number: int) -> str:
    try:
        return line.removesuffix(b"\r").decode()
    except UnicodeDecodeError as error:
        raise exits.CommandError(f"line {number} is not UTF-8: {error}") from None


def blocks_of_texts(arguments: list[str]) -> AsyncIterator[list[str]] | None:
    """A command's texts: its arguments, or the lines of stdin for none and for "-"; None where nobody says anything.

    Raises:
        CommandError: stdin is wanted, and closed.
    """
    if arguments not in ([], ["-"]):
        return one_block(arguments)
    if sys.stdin is None:
        raise exits.CommandError("no text: stdin is closed", exits.USAGE)
    return None if not arguments and sys.stdin.isatty() else stdin_blocks()


def stdin_blocks() -> AsyncIterator[list[str]]:
    """The lines of stdin, in blocks as they arrive."""
    buffered = sys.stdin.buffer
    return from_thread(blocks_of_lines(getattr(buffered, "raw", buffered)))


async def one_block(lines: list[str]) -> AsyncIterator[list[str]]:
    """Lines that are all there, such as the arguments of a command."""
    yield lines


async def from_thread(items: Iterator[Item], ahead: int = 4) -> AsyncIterator[Item]:
    """Iterate in a thread, at most ``ahead`` items further than the reader of this iterator."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[Item | BaseException | None] = asyncio.Queue()
    room = threading.Semaphore(ahead)

    def deliver(item: Item | BaseException | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(arrived.put_nowait, item)

    def pump() -> None:
        try:
            for item in items:
                deliver(item)
                room.acquire()
        except Exception as error:  # noqa: BLE001 - raised again where it is awaited
            deliver(error)
        else:
            deliver(None)

    # A daemon, because nothing can wake a thread that waits for a terminal.
    threading.Thread(target=pump, name="stdin", daemon=True).start()
    while (item := await arrived.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        room.release()
        yield item


async def answer_in_order(
    blocks: AsyncIterator[list[Item]],
    answer: Callable[[int, list[Item]], Awaitable[list[Answered]]],
    emit: Callable[[Answered], None],
    *,
    batch_size: int,
    calls_in_flight: int,
) -> None:
    """Call ``answer(number of the first line, lines)`` for every batch and ``emit`` its answers in line order."""
    pending: asyncio.Queue[asyncio.Future[list[Answered]] | None] = asyncio.Queue()
    places = asyncio.Semaphore(calls_in_flight)

    async def send() -> None:
        number = 1
        try:
            async for block in blocks:
                for start in range(0, len(block), batch_size):
                    batch = block[start : start + batch_size]
                    await places.acquire()
                    pending.put_nowait(asyncio.ensure_future(answer(number, batch)))
                    number += len(batch)
        finally:
            pending.put_nowait(None)

    sender = asyncio.create_task(send())
    unfinished: list[asyncio.Future[list[Answered]]] = []
    try:
        while (call := await pending.get()) is not None:
            unfinished = [call]
            for answered in await call:
                emit(answered)
            places.release()
        await sender
    finally:
        sender.cancel()
        while not pending.empty():
            if (call := pending.get_nowait()) is not None:
                unfinished.append(call)
        for call in unfinished:
            call.cancel()
        await asyncio.gather(sender, *unfinished, return_exceptions=True)
