"""What workers of a run share is made once, whole, and by the next one where the first failed."""

import time
from pathlib import Path

import pytest

from built_once import built_once
from cli_process import start


def slowly(directory: Path) -> None:
    (directory / "first").touch()
    time.sleep(0.2)
    (directory / "second").touch()
    with (directory.parent / "makers").open("a") as makers:
        makers.write("one\n")


def test_of_several_processes_one_makes_it_and_the_others_wait_for_the_whole(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys; from built_once import built_once; from test_built_once import slowly; "
        "print(*sorted(path.name for path in built_once(pathlib.Path(sys.argv[1]), slowly).iterdir()))"
    )
    processes = [start(str(tmp_path / "shared"), python=script) for _ in range(3)]
    assert [process.communicate(timeout=60)[0] for process in processes] == ["first second\n"] * 3
    assert (tmp_path / "makers").read_text() == "one\n"


def test_what_a_failure_left_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    def broken(directory: Path) -> None:
        (directory / "half").touch()
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        built_once(tmp_path / "shared", broken)
    assert [path.name for path in built_once(tmp_path / "shared", slowly).iterdir()] != ["half"]
