"""Which operators a graph has, read from the file itself: serving needs no ONNX library for that.

Walks the protobuf wire format (https://protobuf.dev/programming-guides/encoding/) along the few fields of
``onnx.proto`` that lead to operator names, those of subgraphs and of the model's own functions included; everything
else, weights above all, is skipped by its length.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

from seqserve.bundle import BundleError

# What couples the rows of a batch: one scale over all of them, or sums in an order that depends on their number.
COUPLING = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulNBits"})
MODEL_GRAPH, MODEL_FUNCTION, GRAPH_NODE, FUNCTION_NODE, FUNCTION_DEFAULT = 7, 25, 1, 7, 11
NODE_OPERATOR, NODE_ATTRIBUTE, ATTRIBUTE_GRAPHS = 4, 5, (6, 11)
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


def refuse_coupling(path: Path) -> None:
    """Refuse a graph in which a row's result could depend on the rows beside it.

    Raises:
        BundleError: naming the file and the operators, or that it is no ONNX file.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = sorted(COUPLING.intersection(operators(data)))
    except OSError as error:
        raise BundleError(f"{path.name}: cannot be read: {error.strerror}") from None
    except (ValueError, IndexError, UnicodeDecodeError, RecursionError):  # the last: subgraphs nested without end
        raise BundleError(f"{path.name}: not an ONNX graph") from None
    if found:
        raise BundleError(
            f"{path.name}: {', '.join(found)}: results would depend on the other requests in the batch; "
            "export with --precision int8, which has one scale per row"
        )


def operators(data: mmap.mmap | bytes) -> Iterator[str]:
    """Operator names of a serialised ModelProto, in file order, with repetitions."""
    for number, start, end in _fields(data, 0, len(data)):
        if number == MODEL_GRAPH:
            yield from _of_nodes(data, start, end, GRAPH_NODE)
        elif number == MODEL_FUNCTION:
            yield from _of_nodes(data, start, end, FUNCTION_NODE)


def _of_nodes(data: mmap.mmap | bytes, start: int, end: int, nodes: int) -> Iterator[str]:
    """Of a graph or a function, whose nodes are in the field ``nodes``."""
    for number, node, node_end in _fields(data, start, end):
        if number == FUNCTION_DEFAULT and nodes == FUNCTION_NODE:
            yield from _of_attribute(data, node, node_end)
        if number != nodes:
            continue
        for inner, first, last in _fields(data, node, node_end):
            if inner == NODE_OPERATOR:
                yield bytes(data[first:last]).decode()
            elif inner == NODE_ATTRIBUTE:
                yield from _of_attribute(data, first, last)


def _of_attribute(data: mmap.mmap | bytes, start: int, end: int) -> Iterator[str]:
    for number, first, last in _fields(data, start, end):
        if number in ATTRIBUTE_GRAPHS:
            yield from _of_nodes(data, first, last, GRAPH_NODE)


def _fields(data: mmap.mmap | bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of every length-delimited field of a message; others are stepped over."""
    while start < end:
        key, start = _varint(data, start)
        number, kind = key >> 3, key & 7
        if kind == LENGTH:
            size, start = _varint(data, start)
            if start + size > end:
                raise ValueError("a field reaches beyond its message")
            yield number, start, start + size
            start += size
        elif kind == VARINT:
            _, start = _varint(data, start)
        elif kind in (FIXED64, FIXED32):
            start += 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")


def _varint(data: mmap.mmap | bytes, start: int) -> tuple[int, int]:
    value = 0
    for place in range(10):
        byte = data[start + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, start + place + 1
    raise ValueError("a number of more than ten bytes")
