"""How long Python's search for unreachable cycles holds everything up: not for what was there before serving began.

A search holds the interpreter's lock, so engine and event loop stand still meanwhile. Under a flood of calls that are
refused, those of the whole heap took 20 to 50 ms each (docs/performance.md).

Python's threshold for the youngest objects, 700, stays: with 10 000 a search took 9 ms in place of 0.3, for they have
left the processor's caches by then, and all of them together took twice the time.
"""

import gc


def settle() -> None:
    """Look through everything once, and leave what is left out of all searches to come."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def settle_again() -> None:
    """Where that was done before: something large has gone, and cycles of it may be among what is left out."""
    if gc.get_freeze_count():
        settle()
