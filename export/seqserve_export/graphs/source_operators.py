"""Attention of several queries to one source, as operators of our own (``kernels``): scores, then a weighted sum.

Sources lie in buffers that have room for more. What lies beyond the extent of a step, rounded up to 16, is not looked
at; a source's own end is where its weights become zero. Rounding up keeps bits: sums over a source are grouped by 16,
and what a longer neighbour adds to a group are zeros.
"""

import torch
from torch import Tensor

# Their definitions, beside those of ``kernels``. -1e30 and not -inf: where no token is seen, nothing becomes NaN.
OVER_SOURCES = """
SourceWithin (states, extent) => (near) {
    whole = Cast <to: int = 7> (extent)
    less = Constant <value_int: int = 15> ()
    sixteen = Constant <value_int: int = 16> ()
    first = Constant <value_ints: ints = [0]> ()
    axis = Constant <value_ints: ints = [1]> ()
    above = Add (whole, less)
    blocks = Div (above, sixteen)
    rounded = Mul (blocks, sixteen)
    end = Unsqueeze (rounded, first)
    near = Slice (states, first, end, axis)
}
SourceOffsets (centres, scores) => (offsets) {
    nought = Constant <value_int: int = 0> ()
    one = Constant <value_int: int = 1> ()
    second = Constant <value_ints: ints = [2]> ()
    sizes = Shape <start: int = 2, end: int = 3> (scores)
    size = Squeeze (sizes)
    counted = Range (nought, size, one)
    places = Cast <to: int = 1> (counted)
    column = Unsqueeze (centres, second)
    offsets = Sub (places, column)
}
SourceSoftmax (scores, lengths) => (weights) {
    nought = Constant <value_float: float = 0.0> ()
    tail = Constant <value_ints: ints = [1]> ()
    low = Constant <value_float: float = -1e30> ()
    whole = Cast <to: int = 1> (lengths)
    row = Unsqueeze (whole, tail)
    start = Mul (row, nought)
    places = seqserve.SourceOffsets (start, scores)
    column = Unsqueeze (row, tail)
    seen = Less (places, column)
    shown = Where (seen, scores, low)
    weights = Softmax <axis: int = -1> (shown)
}
SourceWindow <reach> (scores, offsets) => (shown) {
    low = Constant <value_float: float = -1e30> ()
    reach = Constant <value_float: float = @reach> ()
    away = Abs (offsets)
    near = LessOrEqual (away, reach)
    shown = Where (near, scores, low)
}
SumScores (query, keys, vector, extent) => (scores) {
    last = Constant <value_ints: ints = [-1]> ()
    one = Constant <value_ints: ints = [1]> ()
    two = Constant <value_ints: ints = [2]> ()
    near = seqserve.SourceWithin (keys, extent)
    asked = Unsqueeze (query, two)
    held = Unsqueeze (near, one)
    sums = Add (asked, held)
    bent = Tanh (sums)
    weighed = Mul (bent, vector)
    scores = ReduceSum <keepdims: int = 0> (weighed, last)
}
DotScores (query, keys, extent) => (scores) {
    near = seqserve.SourceWithin (keys, extent)
    held = Transpose <perm: ints = [0, 2, 1]> (near)
    scores = MatMul (query, held)
}
Pool (scores, values, lengths, extent) => (context, weights) {
    weights = seqserve.SourceSoftmax (scores, lengths)
    near = seqserve.SourceWithin (values, extent)
    context = MatMul (weights, near)
}
PoolMonotonic <reach> (scores, values, lengths, extent, steps) => (context, weights) {
    tail = Constant <value_ints: ints = [1]> ()
    one = Constant <value_float: float = 1.0> ()
    whole = Cast <to: int = 1> (lengths)
    row = Unsqueeze (whole, tail)
    ends = Sub (row, one)
    centres = Min (steps, ends)
    offsets = seqserve.SourceOffsets (centres, scores)
    shown = seqserve.SourceWindow <reach: float = @reach> (scores, offsets)
    weights = seqserve.SourceSoftmax (shown, lengths)
    near = seqserve.SourceWithin (values, extent)
    context = MatMul (weights, near)
}
PoolPredicted <reach> (scores, values, lengths, extent, shares) => (context, weights) {
    tail = Constant <value_ints: ints = [1]> ()
    reach = Constant <value_float: float = @reach> ()
    two = Constant <value_float: float = -2.0> ()
    whole = Cast <to: int = 1> (lengths)
    row = Unsqueeze (whole, tail)
    centres = Mul (shares, row)
    offsets = seqserve.SourceOffsets (centres, scores)
    shown = seqserve.SourceWindow <reach: float = @reach> (scores, offsets)
    level = seqserve.SourceSoftmax (shown, lengths)
    units = Div (offsets, reach)
    squares = Mul (units, units)
    powers = Mul (squares, two)
    bell = Exp (powers)
    weights = Mul (level, bell)
    near = seqserve.SourceWithin (values, extent)
    context = MatMul (weights, near)
}
"""


def sum_scores(query: Tensor, keys: Tensor, vector: Tensor, extent: Tensor) -> Tensor:
    """``v^T tanh(q + k)`` of projected queries and keys.

    Args:
        query: [places, queries, width]; widths are multiples of 16, so that sums over them do not depend on where a row
            lies in memory.
        keys: [places, capacity, width].
        vector: [width].
        extent: int32 scalar, at least the longest source.

    Returns:
        [places, queries, extent rounded up].
    """
    return torch.onnx.ops.symbolic(
        "seqserve::SumScores", (query, keys, vector, extent), {},
        dtype=query.dtype, shape=(*query.shape[:2], keys.shape[1]), version=1,
    )


def dot_scores(query: Tensor, keys: Tensor, extent: Tensor) -> Tensor:
    """``q^T k``; as ``sum_scores``."""
    return torch.onnx.ops.symbolic(
        "seqserve::DotScores", (query, keys, extent), {},
        dtype=query.dtype, shape=(*query.shape[:2], keys.shape[1]), version=1,
    )


def pool(
    scores: Tensor, values: Tensor, lengths: Tensor, extent: Tensor, *, window: str = "global", reach: int = 0,
    centre: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Softmax of scores over what a query sees, and the sum of values that it weighs.

    Args:
        scores: [places, queries, extent rounded up].
        values: [places, capacity, width].
        lengths: int32 [places].
        extent: As of the scores.
        window: Of ``RecurrentConfig``.
        reach: Half of a window.
        centre: [places, queries]: of a monotonic window the step, of a predicted one the share of the source at which
            its centre lies.

    Returns:
        [places, queries, width], and the weights, shaped as the scores.
    """
    name = {"global": "Pool", "monotonic": "PoolMonotonic", "predictive": "PoolPredicted"}[window]
    inputs = [scores, values, lengths, extent]
    if centre is not None:
        inputs.append(centre)
    context, weights = torch.onnx.ops.symbolic_multi_out(
        f"seqserve::{name}", inputs, {} if centre is None else {"reach": float(reach)},
        dtypes=[values.dtype] * 2, shapes=[(*scores.shape[:2], values.shape[2]), tuple(scores.shape)], version=1,
    )
    return context, weights
