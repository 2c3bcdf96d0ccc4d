"""The compiled operators, where this installation has them. Their sources are in server/native."""

from pathlib import Path

# Not ".so" alone, which would make it look like a module of Python.
_LIBRARY = Path(__file__).with_name("libseqserve_kernels.so.1")


def compiled_library() -> Path | None:
    """The library that sessions register, or None where none was compiled for this machine.

    Without it the runtime puts standard operators in the place of each (``export/seqserve_export/graphs/kernels.py``):
    answers differ by less than rounding does, and take longer.
    """
    return _LIBRARY if _LIBRARY.exists() else None
