"""Attention of several queries to one source, as operators of our own (``kernels``): scores, then a weighted sum.

Sources lie in buffers that have room for more. What lies beyond the extent of a step, rounded up to 16, is not looked
at; a source's own end is where its weights become zero. Rounding up keeps bits: sums over a source are grouped by 16,
and what a longer neighbour adds to a group are zeros.
"""

import torch
from torch import Tensor


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
