import sys
import threading
from os import getpid
from pathlib import Path

import pytest

from agreement import Agreement, first_difference
from comparison import Measured, Report
from machine import Usage, process_seconds
from processes import running_system
from saturation import thread_seconds
from spread import Spread, table
from workload import EOS_ID, PAD_ID, SOURCE_TOKENS, complete, contents

NOISY_WORKER = """
from worker import closed_batches, serve

def translate(sources):
    print("libraries print where they like")
    return [source[::-1] for source in sources]

serve("mirror", {"mirror": "1"}, "none", closed_batches(translate))
"""


def turn(speed: float, foreign: float = 0.0) -> Measured:
    return Measured(seconds=1.0, tokens_per_second=speed, own=1.0, foreign=foreign)


def report_of(theirs: list[Measured], ours: list[Measured]) -> Report:
    report = Report({"processor": "test"}, "--rounds 2", "float32, beam size 1")
    report.describe({"theirs": ({"theirs": "1"}, "none"), "ours": ({"ours": "2"}, "none")})
    for a, b in zip(theirs, ours, strict=True):
        report.add(8, "theirs", a)
        report.add(8, "ours", b)
    return report


def test_fewer_sources_are_the_first_of_more() -> None:
    assert contents(3) == contents(8)[:3]
    assert all(len(complete(content)) == SOURCE_TOKENS for content in contents(8))
    assert all(EOS_ID < token < PAD_ID for content in contents(8) for token in content)


def test_a_spread_shows_median_and_both_ends() -> None:
    assert Spread.of([3.0, 1.0, 2.0]).text(1) == "2.0 (1.0 - 3.0)"


def test_a_table_has_a_rule_below_its_head() -> None:
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_ratios_are_taken_within_a_round() -> None:
    # The machine was ten times slower in the second round, for both: the ratio does not see it.
    report = report_of([turn(100), turn(10)], [turn(200), turn(20)])
    assert report.ratio(8, "theirs") == Spread(2.0, 2.0, 2.0)
    assert "| 8 | theirs | 55 (10 - 100) | 2.00 (2.00 - 2.00) x |" in report.markdown([])


def test_turns_that_others_disturbed_are_named() -> None:
    report = report_of([turn(100), turn(100, foreign=0.5)], [turn(200), turn(200)])
    assert report.disturbed() == ["8 rows, round 2, theirs: 0.50 s of 1.00 s"]
    assert "DISTURBED" in report.markdown([])


@pytest.mark.parametrize(("found", "prefix"), [([1, 2, 9], [1, 2, 3]), ([9, 2, 3], [1]), ([1, 2], [1, 2, 3])])
def test_the_first_difference_ends_the_prefix(found: list[int], prefix: list[int]) -> None:
    assert first_difference([1, 2, 3], found) == prefix


def test_only_ties_excuse_a_difference() -> None:
    assert Agreement("ours", 2, 1, (1e-5,)).explained
    assert not Agreement("ours", 2, 1, (1e-2,)).explained


def test_a_worker_answers_whatever_its_libraries_print() -> None:
    with running_system([sys.executable, "-c", NOISY_WORKER]) as system:
        assert (system.name, system.versions) == ("mirror", {"mirror": "1"})
        assert system.turn([[[1, 2, 3]], [[1, 2]]]).token_ids == [[3, 2, 1], [2, 1]]
        assert system.turn([[[4], [5]]]).token_ids == [[4], [5]]


def test_a_worker_that_ends_is_an_error_and_not_a_hang() -> None:
    with pytest.raises(ChildProcessError, match="ended with 3"), running_system([sys.executable, "-c", "exit(3)"]):
        pass


def test_processor_time_is_counted_by_thread_name() -> None:
    named, done = threading.Event(), threading.Event()

    def body() -> None:
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text("odd (name) 1)")
        named.set()
        done.wait()

    thread = threading.Thread(target=body)
    thread.start()
    try:
        assert named.wait(timeout=60)
        assert "odd (name) 1)" in thread_seconds(getpid())
    finally:
        done.set()
        thread.join()
    assert 0 < process_seconds(getpid()) <= Usage.now().busy
