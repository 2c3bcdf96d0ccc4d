"""What workers of a run share is made once, whole, and by the next one where the first failed."""

import multiprocessing
import time
from pathlib import Path

import pytest

from built_once import built_once


def slowly(directory: Path) -> None:
    (directory / "first").touch()
    time.sleep(0.2)
    (directory / "second").touch()
    with (directory.parent / "makers").open("a") as makers:
        makers.write("one\n")


def seen(directory: Path, answers: "multiprocessing.SimpleQueue[list[str]]") -> None:
    answers.put(sorted(path.name for path in built_once(directory, slowly).iterdir()))


def test_of_several_processes_one_makes_it_and_the_others_wait_for_the_whole(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    processes = [context.Process(target=seen, args=(tmp_path / "shared", answers)) for _ in range(3)]
    for process in processes:
        process.start()
    assert [answers.get() for _ in processes] == [["first", "second"]] * 3
    for process in processes:
        process.join()
    assert (tmp_path / "makers").read_text() == "one\n"


def test_what_a_failure_left_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    def broken(directory: Path) -> None:
        (directory / "half").touch()
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        built_once(tmp_path / "shared", broken)
    assert [path.name for path in built_once(tmp_path / "shared", slowly).iterdir()] != ["half"]
