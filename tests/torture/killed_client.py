"""Clients to be killed, by ``python -m torture.killed_client TARGET CALLS``: one for each line that comes in.

Forked, because a thousand interpreters that load gRPC would take longer than all else. gRPC allows it as long as
nothing of it has been made, so that only children make something.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import grpc

from serving import ENDLESS, ask, ask_stream, ids, make_stub

LONGEST_SECONDS = 300  # none of them outlives a row that was interrupted


@contextlib.contextmanager
def forking(target: str, calls: int) -> Iterator[Callable[[int], list[int]]]:
    """Gives what starts so many clients with so many calls each, and returns their process ids; kills the rest."""
    command = [sys.executable, "-m", "torture.killed_client", target, str(calls)]
    environment = {"GRPC_VERBOSITY": "NONE", **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    forker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert forker.stdin is not None
    assert forker.stdout is not None
    commands, answers = forker.stdin, forker.stdout

    def start(count: int) -> list[int]:
        commands.write("\n" * count)
        commands.flush()
        return [int(answers.readline()) for _ in range(count)]

    try:
        yield start
    finally:
        forker.kill()
        forker.communicate()


def main() -> None:
    """Fork for every line."""
    target, calls = sys.argv[1], int(sys.argv[2])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that the kernel buries them
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            _call(target, calls)
        print(child, flush=True)  # noqa: T201 - the answer


def _call(target: str, calls: int) -> None:
    signal.alarm(LONGEST_SECONDS)
    stub = make_stub(grpc.insecure_channel(target))  # type: ignore[arg-type]
    kept = [
        stub.GenerateStream(ask_stream(ids(*ENDLESS))) if place % 2 else stub.Generate.future(ask(ids(*ENDLESS)))
        for place in range(calls)
    ]
    while kept:
        signal.pause()


if __name__ == "__main__":
    main()
