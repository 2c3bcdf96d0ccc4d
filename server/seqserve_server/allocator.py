"""What the C library does with memory that was given back to it, so that a version that has gone leaves none behind.

Measured with the demo model over 80 swaps under load (docs/reliability.md): left alone, the process grows by half, for
threads that load have arenas of their own, and once a large block was freed, those that follow are cut out of the heap,
where small ones that stay pin them. Other allocators than glibc's are left as they are.
"""

import ctypes
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of malloc.h
ARENAS = 2
MAPPED_BYTES = 1 << 20  # a block of so many is mapped by itself, and goes as a whole
KEPT_BYTES = 1 << 25  # free at the end of the heap before it shrinks


def bound_arenas() -> bool:
    """Before there are threads: few arenas, and large blocks outside of them. Whether that could be said."""
    libc = _glibc()
    if libc is None:
        return False
    settings = ((_M_ARENA_MAX, ARENAS), (_M_MMAP_THRESHOLD, MAPPED_BYTES), (_M_TRIM_THRESHOLD, KEPT_BYTES))
    done = [libc.mallopt(name, value) for name, value in settings]
    return all(done)


def give_back() -> None:
    """Return free pages to the system. Takes milliseconds, in which other threads may wait for memory."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") and hasattr(library, "mallopt") else None
