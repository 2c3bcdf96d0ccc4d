"""Runs the command line in a process of its own, for tests of signals, pipes and imports."""

import os
import subprocess
import sys
from typing import Any


def start(
    *arguments: str, python: str = "from seqserve_cli.main import main; sys.exit(main())", **settings: Any
) -> Any:
    """The command in a process of its own; ``before`` are the words of a program that becomes it."""
    # A child inherits ignored signals (``nohup``, a background job); tests that interrupt it need the usual ones.
    signals = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [*settings.pop("before", ()), sys.executable, "-W", "error", "-c", f"import sys; {signals}; {python}",
         *arguments],
        stdin=settings.pop("stdin", subprocess.PIPE),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        **settings,
    )
