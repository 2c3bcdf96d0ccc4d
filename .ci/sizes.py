"""Hold files to 300 lines and functions to 50, docstrings of functions not counted.

A reader should be able to keep one file in mind and one function on the screen. Where that is wrong, the path and the
reason go into ``EXCUSED``.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOTS = ("server", "client", "export", "proto", "tests", "demo", "bench", "deploy", ".ci")
FILE_LINES = 300
FUNCTION_LINES = 50
EXCUSED: dict[str, str] = {}


def python_files(root: Path) -> Iterator[Path]:
    """Hand-written sources, in order."""
    for name in ROOTS:
        yield from (path for path in sorted((root / name).rglob("*.py")) if "_pb2" not in path.name)


def function_lengths(source: str) -> Iterator[tuple[str, int, int]]:
    """Name, first line and length of every function, from its signature to its end, without the docstring."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node) is not None:
                length -= (first.end_lineno or first.lineno) - first.lineno + 1
            yield node.name, node.lineno, length


def main() -> int:
    """Print the totals and every excess."""
    root = Path(__file__).resolve().parent.parent
    excesses: list[str] = []
    lengths: list[tuple[int, str]] = []
    for path in python_files(root):
        name, source = path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
        lengths.append((len(source.splitlines()), name))
        if name in EXCUSED:
            continue
        if lengths[-1][0] > FILE_LINES:
            excesses.append(f"{name}: {lengths[-1][0]} lines, {FILE_LINES} at most")
        excesses += [
            f"{name}:{line}: {function} has {length} lines, {FUNCTION_LINES} at most"
            for function, line, length in function_lengths(source)
            if length > FUNCTION_LINES
        ]
    longest = ", ".join(f"{name} {lines}" for lines, name in sorted(lengths, reverse=True)[:3])
    print(f"sizes: {len(lengths)} files, {sum(lines for lines, _ in lengths)} lines; longest: {longest}")
    for excess in excesses:
        print(excess, file=sys.stderr)
    return 1 if excesses else 0


if __name__ == "__main__":
    sys.exit(main())
