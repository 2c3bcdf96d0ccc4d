"""Rows 13, 14, 15 and 21: steps that raise, engines that die or hang, servers that are restarted."""

import asyncio
import contextlib
import random
import signal
import socket
import time
from collections import Counter
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from arithmetic_engine import END, ArithmeticEngine
from faulty_engine import FaultyEngine
from hand_loop import HandLoop, make_limits
from pencil_server import BAD_STEP, DIE, HANG, KILL, pencil_server
from seqserve_client import AsyncClient
from seqserve_server.isolation import Isolation
from seqserve_server.request import Failed
from serving import PENCIL_TEXT, ask, ask_stream, ids, make_health, make_stub
from torture.prober import SERVING, probing

WAVE = 8
STUCK_SECONDS = 30.0  # a caller that waits for so long is stuck


async def step_faults(count: int, isolation: type[Isolation] = Isolation) -> str:
    """So many runs of the engine that raise; who is not at fault gets its answer, which the hand loop compares."""
    hand, rng = HandLoop(make_limits(max_rows=32), ArithmeticEngine()), random.Random(3)
    faulty = FaultyEngine(hand.engine)
    faulty.bad_step = BAD_STEP
    hand.loop._engine, hand.loop._isolation = faulty, isolation(faulty, most_alone=1 << 30)
    bad: set[int] = set()
    innocent = 0
    while faulty.raised < count:
        for place in range(rng.randint(1, 6)):
            guilty = rng.random() < 0.2
            source = [BAD_STEP if guilty else rng.randrange(3, 22), rng.randrange(3, 22), END]
            number = hand.submit(source, rng.randint(1, 12), beams=rng.choice((1, 1, 2, 4)), stream=bool(place % 2))
            if guilty:
                bad.add(number)
        hand.step()
        if rng.random() < 0.05:
            faulty.broken.add(faulty.runs)  # a fault of nobody
        if len(hand.ended) > 2000:
            innocent += _settle(hand, bad)
    innocent += _settle(hand, bad)
    assert innocent == 0, f"{innocent} innocent requests failed"
    return f"{faulty.raised} runs raised; 0 innocent requests failed, all answers right"


def _settle(hand: HandLoop, bad: set[int]) -> int:
    """Run to the end; how many failed that were not to, and forget them all."""
    hand.run()
    failed = {number for number, event in hand.ended.items() if isinstance(event, Failed)}
    assert failed >= bad & hand.ended.keys(), "a bad request did not fail"
    return len(failed - bad)


async def _callers(target: str, tokens: list[int]) -> Counter[str]:
    """How calls end, half of them streams: codes, and STUCK for who was told nothing."""
    async with grpc.aio.insecure_channel(target) as channel:
        stub = make_stub(channel)
        calls: list[Any] = [
            stub.Generate(ask(ids(token), "c d"), timeout=STUCK_SECONDS) if place % 2
            else stub.GenerateStream(ask_stream(ids(token)), timeout=STUCK_SECONDS)
            for place, token in enumerate(tokens)
        ]
        return Counter([(await call.code()).name for call in calls])


async def _lost(count: int, kinds: tuple[int, ...], **config: int) -> str:
    codes: Counter[str] = Counter()
    exits: Counter[int] = Counter()
    taken = wrong = 0
    begun = time.monotonic()
    for number in range(count):
        token = kinds[number % len(kinds)]
        with pencil_server(**config) as server:
            # Whatever it says or does not say, until somebody was told; from then on SERVING is wrong.
            async with probing(server.target, lambda: None) as samples:
                codes += await _callers(server.target, [token] * WAVE)
                wrong += await _says_serving(server.target)
            taken, wrong = taken + samples.taken, wrong + samples.wrong
            exits[await asyncio.to_thread(server.process.wait, 60)] += 1
    assert codes["DEADLINE_EXCEEDED"] == 0, f"callers were left waiting: {codes}"
    assert set(codes) <= {"UNAVAILABLE", "CANCELLED"}, codes
    assert set(exits) <= {1, -signal.SIGKILL}, exits
    assert wrong == 0, f"{wrong} health samples were wrong"
    return (f"{count} lost, {sum(codes.values())} callers told, 0 stuck ({dict(codes)}); {taken} health samples, "
            f"{wrong} wrong; {(time.monotonic() - begun) / count:.1f} s each")


async def _says_serving(target: str) -> int:
    async with grpc.aio.insecure_channel(target) as channel:
        with contextlib.suppress(grpc.aio.AioRpcError):
            answer = await make_health(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
            return int(answer.status == SERVING)
    return 0


async def kills(count: int) -> str:
    """So many engines that die by an exception, and processes that are killed."""
    return await _lost(count, (DIE, KILL))


async def hangs(count: int, hang_seconds: int = 1) -> str:
    """So many engines that hang."""
    return await _lost(count, (HANG,), hang_seconds=hang_seconds)


async def restarts(
    count: int, callers: int = 8, *, max_attempts: int = 4, stop: signal.Signals = signal.SIGTERM
) -> str:
    """So many restarts of one of two servers, under callers that use the shipped client."""
    ports = [_free_port(), _free_port()]
    answers: Counter[str] = Counter()
    lost: list[str] = []
    over = asyncio.Event()

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
                await asyncio.sleep(1.5)  # as ``minReadySeconds`` of a rolling update
                place = number % 2
                running[place].process.send_signal(stop)
                code = await asyncio.to_thread(running[place].process.wait, 90)
                assert code in (0, -stop), f"a drained server ended with {code}"
                running[place] = await asyncio.to_thread(
                    stack.enter_context, pencil_server(port=ports[place], step_seconds=0.001)
                )
            over.set()
            await asyncio.gather(*tasks)
    assert not lost, f"{len(lost)} answers lost: {lost[:3]}"
    assert set(answers) == {PENCIL_TEXT}, "an answer was cut short"
    return f"{count} restarts, {sum(answers.values())} answers, 0 lost or cut short"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
