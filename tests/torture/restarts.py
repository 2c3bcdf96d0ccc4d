"""Row 21: servers that are restarted while they are asked."""

import asyncio
import contextlib
import signal
import socket
from collections import Counter

from pencil_server import pencil_server
from seqserve_client import AsyncClient
from serving import PENCIL_TEXT
from torture.prober import probing
from torture.progress import Progress


async def restarts(
    count: int, callers: int = 8, *, max_attempts: int = 4, stop: signal.Signals = signal.SIGTERM
) -> str:
    """So many restarts of one of two servers, under callers that use the shipped client."""
    ports = [_free_port(), _free_port()]
    answers: Counter[str] = Counter()
    lost: list[str] = []
    over, progress = asyncio.Event(), Progress("restarts", count)
    taken = wrong = 0

    async def call(client: AsyncClient, stream: bool) -> None:
        while not over.is_set():
            try:
                if stream:
                    text = "".join([chunk.text async for chunk in client.stream("c d")])
                else:
                    text = (await client.generate(["c d"]))[0].text
                answers[text] += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, an answer was lost
                lost.append(repr(error))

    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(pencil_server(port=port, step_seconds=0.001)) for port in ports]
        target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
        async with AsyncClient(target, timeout=60, max_attempts=max_attempts) as client:
            tasks = [asyncio.ensure_future(call(client, bool(place % 2))) for place in range(callers)]
            for number in range(count):
                place = number % 2
                # As ``minReadySeconds`` of a rolling update. Nobody has asked either to stop, and both say so.
                async with probing(running[0].target) as first, probing(running[1].target) as second:
                    await asyncio.sleep(1.5)
                taken, wrong = taken + first.taken + second.taken, wrong + first.wrong + second.wrong
                running[place].process.send_signal(stop)
                code = await asyncio.to_thread(running[place].process.wait, 90)
                assert code in (0, -stop), f"a drained server ended with {code}"
                running[place] = await asyncio.to_thread(
                    stack.enter_context, pencil_server(port=ports[place], step_seconds=0.001)
                )
                progress.add()
            over.set()
            await asyncio.gather(*tasks)
    assert not lost, f"{len(lost)} answers lost: {lost[:3]}"
    assert set(answers) == {PENCIL_TEXT}, "an answer was cut short"
    assert wrong == 0, f"{wrong} health samples were wrong"
    return (f"{count} restarts, {sum(answers.values())} answers, 0 lost or cut short; {taken} health samples, "
            f"{wrong} wrong")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
