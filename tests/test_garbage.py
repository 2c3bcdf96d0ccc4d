"""Searches for unreachable cycles, in a process of its own: what is frozen stays so."""

import subprocess
import sys

PROGRAM = """
import gc, weakref
from seqserve_server import garbage

class Cycle:
    def __init__(self):
        self.itself = self

garbage.settle_again()
print(gc.get_freeze_count() > 0)
kept = Cycle()
gone = weakref.ref(kept)
garbage.settle()
print(gc.get_freeze_count() > 1000, len(gc.get_objects()) < 1000)
del kept
gc.collect()
print(gone() is None)
garbage.settle_again()
print(gone() is None)
"""


def test_what_was_there_is_left_out_of_searches_until_something_large_has_gone() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True", "False", "True"]
