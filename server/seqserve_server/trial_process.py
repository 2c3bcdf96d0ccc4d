"""The trial of a bundle (:mod:`.trial`) in a process of its own, and what is said of one that does not pass."""

import asyncio
import signal
import sys
from pathlib import Path

from seqserve.bundle import BundleError

WALL_SECONDS = 1800.0
MOST_TOLD = 300  # characters of the child's last line


async def try_in_child(directory: Path, version: str) -> str:
    """Decode a bundle's golden inputs where a crash harms nobody; returns one line that says what was tried.

    Args:
        version: What the manifest has to be.

    Raises:
        BundleError: why the bundle is not to be served.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "seqserve_server.trial", str(directory), version,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), WALL_SECONDS)
    except TimeoutError:
        raise BundleError(f"its trial did not end within {WALL_SECONDS:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    code = process.returncode or 0
    if code < 0:
        raise BundleError(f"its trial was ended by {signal.Signals(-code).name}")
    if code:
        raise BundleError(_last_line(err) or f"its trial ended with {code}")
    return _last_line(out)


def _last_line(output: bytes) -> str:
    lines = output.decode("utf-8", errors="replace").strip().splitlines()
    return lines[-1][:MOST_TOLD] if lines else ""
