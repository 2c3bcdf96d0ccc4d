"""A way to a server that can be cut without a word: whatever comes is taken and goes nowhere, and nothing is closed."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Relay:
    """Carries bytes between its own port and another's, until it is ``cut``."""

    def __init__(self, port: int) -> None:
        self.target = ""
        self._port = port
        self._flowing = True
        self._writers: list[asyncio.StreamWriter] = []

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, in both directions."""
        beyond_reader, beyond_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, beyond_writer]
        with contextlib.suppress(OSError):
            await asyncio.gather(self._pump(reader, beyond_writer), self._pump(beyond_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            if self._flowing:
                writer.write(data)
        if self._flowing:
            writer.close()

    def cut(self) -> None:
        """From now on nothing arrives, no end either."""
        self._flowing = False

    def close(self) -> None:
        """Reset all connections."""
        for writer in self._writers:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def relay(port: int) -> AsyncIterator[Relay]:
    """A relay to a port of this machine."""
    found = Relay(port)
    async with await asyncio.start_server(found.carry, "127.0.0.1", 0) as door:
        found.target = f"127.0.0.1:{door.sockets[0].getsockname()[1]}"
        try:
            yield found
        finally:
            found.close()
