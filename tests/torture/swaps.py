"""Row 20: versions that change under load: toys whose answers tell versions apart, and what real ones leave behind."""

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path

from swapping import Toys, swap_under_load
from torture.progress import Progress

DEMO = Path("var/demo-bundle")  # of ``make demo``
MOST_GROWTH = 0.05


async def swaps(count: int) -> str:
    """So many swaps under load."""
    progress = Progress("swaps", count)
    with tempfile.TemporaryDirectory() as directory:
        outcome = await swap_under_load(Toys(Path(directory)), count, told=progress.add)
    assert not outcome.failed, f"{len(outcome.failed)} failed: {outcome.failed[:3]}"
    assert not outcome.mixed, f"{len(outcome.mixed)} answers are of no version"
    assert outcome.samples.wrong == 0
    return (f"{count} swaps, {outcome.answered} answers, {outcome.overlapped} beside a swap; 0 failed, 0 mixed; "
            f"{outcome.samples.taken} health samples, 0 wrong")


async def swap_memory(count: int, bundle: Path | None = None, *more: str) -> str:
    """So many swaps of a bundle of the demo, or of a tiny one, under load; then memory is what it was, but for 5 %."""
    with tempfile.TemporaryDirectory() as directory:
        if bundle is None:
            bundle = await asyncio.to_thread(any_bundle, Path(directory))
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "torture.swap_memory", str(bundle), str(count), *more,
            stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        out, _ = await child.communicate()
    assert child.returncode == 0, f"it ended with {child.returncode}"
    before, after = json.loads(out)
    grown = after / before - 1
    assert grown <= MOST_GROWTH, f"from {before} KiB to {after} KiB: {grown:+.1%}"
    return f"{count} swaps: from {before} to {after} KiB, {grown:+.1%}"


def any_bundle(directory: Path) -> Path:
    """The demo's where there is one, else a tiny one made there."""
    if DEMO.is_dir():
        return DEMO
    from tiny_bundle import write_bundle  # PyTorch comes with it
    write_bundle(directory / "tiny")
    return directory / "tiny"
