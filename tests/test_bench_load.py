"""The load benchmarks: figures are pure, and the window's batches follow from what waits, not from how fast."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from endurance import PART, speeds
from latency_report import Point, Results
from offered import Outcome
from overload import Goodput, Run
from peers.window import Waiting, Window
from seqserve_client.report import Sample
from watch import Memory, Watch
from workload import DEMO, RANDOM


def point(system: str, fraction: float | None, latencies: Sequence[float], number: int = 1, failed: int = 0) -> Point:
    return Point(
        system, fraction, 100 * (fraction or 0), number, seconds=10.0, throughput=100.0, tokens=0,
        latencies=sorted(latencies), failed=failed, generator=0.1, foreign=0.0,
    )


def results(*points: Point) -> Results:
    found = Results("test", 100.0, "ours", "theirs")
    found.points.extend(points)
    return found


def test_latency_ratios_are_taken_within_a_round() -> None:
    # The machine was ten times slower in the second round, for both.
    found = results(
        point("ours", 0.7, [10]), point("theirs", 0.7, [30]),
        point("theirs", 0.7, [300], 2), point("ours", 0.7, [100], 2),
    )
    assert found.ratio(50, 0.7).text(1) == "3.0 (3.0 - 3.0)"


def test_a_rate_is_served_only_if_all_lower_ones_are() -> None:
    fine, late = [10.0] * 100, [10.0] * 90 + [200.0] * 10
    found = results(
        point("ours", 0.1, fine), point("ours", 0.5, late), point("ours", 0.9, fine), point("theirs", 0.1, late)
    )
    assert found.served("ours") == 10
    assert found.served("theirs") == 0


def test_failed_requests_count_as_late() -> None:
    assert results(point("ours", 0.5, [10] * 90, failed=10)).within("ours", 0.5) == 0.9


def test_the_table_leaves_out_rates_that_only_the_faster_one_was_given() -> None:
    found = results(
        point("ours", None, [1]), point("theirs", None, [1]), point("ours", 0.7, [10]), point("theirs", 0.7, [30]),
        point("ours", 2.0, [20]),
    )
    lines = found.markdown().splitlines()
    assert sum(line.startswith("| 200.0") for line in lines) == 1
    assert "p50 3.00" in lines[0]


def test_refusals_and_answers_are_told_apart() -> None:
    refused = Sample(intended=0.0, sent=1.0, ended=1.5, error="RESOURCE_EXHAUSTED")
    outcome = Outcome([Sample(intended=0.0, sent=1.0, ended=2.0), refused], 0.0, 2.0)
    assert outcome.latencies() == [2000]  # from the intended time
    assert outcome.refusals() == [500]  # from the sending: waiting before it is not the server's
    assert outcome.errors == {"RESOURCE_EXHAUSTED": 1}
    assert outcome.completed_per_second(1.0, 3.0, within_ms=2000) == 0.5
    assert outcome.completed_per_second(1.0, 3.0, within_ms=1999) == 0
    assert outcome.completed_per_second(0.0, 2.0, within_ms=2000) == 0  # it came at the end of that


def test_goodput_is_compared_with_the_best_rate_before_and_after() -> None:
    before, after = [Goodput(90, 90, 0), Goodput(120, 100, 18)], [Goodput(90, 88, 0), Goodput(120, 104, 15)]
    outcome = Outcome([Sample(intended=0.0, sent=0.0, ended=1.0), Sample(0.0, 0.0, 0.5, error="RESOURCE_EXHAUSTED")],
                      0.1, 20.0)
    overload = Goodput.of(outcome, 300, 2.0, 1000)
    assert overload == Goodput(300, 1 / 1.5, 0.5)  # the first quarter is for settling
    run = Run([110, 112], [before, after], overload, outcome, Watch([(0.0, Memory(1, 1, 1), 0.0)] * 2), 1)
    assert run.curve == [Goodput(90, 89, 0), Goodput(120, 102, 16.5)]
    assert run.peak == 102


def test_the_speed_of_a_thousand_runs_from_the_end_before_it() -> None:
    samples = [Sample(0, 0, ended=0.001 * number, output_tokens=2) for number in range(1, 2 * PART + 1)]
    assert speeds(Outcome(samples, 0.0, 2.0)) == pytest.approx([2000, 2000])


def test_what_an_answer_holds_ends_before_its_end_token() -> None:
    assert DEMO.content([5, 6, DEMO.eos_id, DEMO.pad_id]) == [5, 6]
    assert DEMO.natural
    assert not RANDOM.natural


async def batches_of(requests: int, size: int) -> list[int]:
    """Sizes of the batches of ``requests`` that all came while a first one was decoded."""
    sizes: list[int] = []
    first, go = threading.Event(), threading.Event()

    def decode(batch: list[Waiting]) -> list[list[str]]:
        sizes.append(len(batch))
        first.set()
        go.wait()
        return [waiting.pieces[::-1] for waiting in batch]

    window = Window(decode, seconds=0.0, size=size, workers=1)
    running = asyncio.create_task(window.run())
    try:
        asked = [asyncio.create_task(window.ask(["a", "b"], 0, 9))]
        await asyncio.to_thread(first.wait)
        asked += [asyncio.create_task(window.ask([str(number), "x"], 0, 9)) for number in range(requests)]
        await asyncio.sleep(0)
        go.set()
        answers = await asyncio.gather(*asked)
        assert answers == [["b", "a"], *(["x", str(number)] for number in range(requests))]
    finally:
        go.set()
        running.cancel()
    return sizes


async def test_what_waited_for_a_batch_goes_in_the_next_up_to_its_size() -> None:
    assert await batches_of(3, size=8) == [1, 3]
    assert await batches_of(10, size=8) == [1, 8, 2]


async def test_an_error_of_the_library_reaches_every_caller() -> None:
    def decode(batch: list[Waiting]) -> list[list[str]]:
        raise RuntimeError(f"no memory for {len(batch)}")

    running = asyncio.create_task((window := Window(decode, seconds=0.0, size=8, workers=1)).run())
    try:
        asked = [asyncio.create_task(window.ask(["a"], 0, 9)) for _ in range(2)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(error, RuntimeError) for error in found)
    finally:
        running.cancel()
