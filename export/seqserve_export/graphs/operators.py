"""The runtime's fused operators, as functions on tensors that exist only while a graph is traced.

``torch.onnx.ops.symbolic*`` records a node and returns a value of the declared shape, without computing it. What the
operators compute is proved against the PyTorch model after export, never assumed.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from seqserve_export.model.layers import RMSNorm

Attribute = int | float | str | bool | Sequence[int] | Sequence[float] | Sequence[str] | Sequence[bool]


def grouped_query_attention(
    query: Tensor, key: Tensor | None, value: Tensor | None, past_key: Tensor, past_value: Tensor,
    last: Tensor, extent: Tensor, *, heads: int, scale: float, update: bool, bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """GroupQueryAttention with one query per row, over a buffer of which row b holds ``last[b] + 1`` valid positions.

    Args:
        query: [rows, 1, heads * head_size], or queries, keys and values side by side when ``key`` is None.
        key, value: [rows, new, heads * head_size]; ``new`` 0 attends to the buffer alone (cross-attention).
        past_key, past_value: [rows, heads, capacity, head_size].
        last: int32 [rows], index of the last valid position.
        extent: int32 scalar, at least 2 and at least ``max(last) + 1``; only sizes scratch memory.
        update: whether the grown buffers are outputs (they alias the inputs when bound so).
        bias: [rows, heads, 1, extent] added to the scores.

    Returns:
        The attended values [rows, 1, heads * head_size] and the two buffers.
    """
    rows, width = query.shape[0], heads * past_key.shape[3]
    shapes: list[Sequence[int | torch.SymInt]] = [(rows, 1, width)]
    if update:
        shapes += [tuple(past_key.shape), tuple(past_value.shape)]
    # causal=0 is the same mathematics for one query, and takes the kernel that works on all rows at once: the causal
    # one walks rows of different lengths one after the other.
    attributes: dict[str, Attribute] = {"num_heads": heads, "kv_num_heads": heads, "scale": scale, "causal": 0}
    inputs = [query, key, value, past_key, past_value, last, extent]
    if bias is not None:
        inputs += [None, None, None, bias]
    results = torch.onnx.ops.symbolic_multi_out(
        "com.microsoft::GroupQueryAttention", inputs, attributes,
        dtypes=[query.dtype] * len(shapes), shapes=shapes, version=1,
    )
    return (results[0], results[1], results[2]) if update else (results[0], past_key, past_value)


def multi_head_attention(
    query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None, *, heads: int, scale: float,
    bias: Tensor | None = None,
) -> Tensor:
    """MultiHeadAttention over padded sequences [batch, length, heads * head_size].

    Args:
        lengths: int32 [batch], of keys and values; None where ``bias`` says which of them are seen.
        bias: [1, 1 or heads, length, length] added to the scores.
    """
    return torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention", (query, key, value, None, lengths, bias),
        {"num_heads": heads, "scale": scale},
        dtype=query.dtype, shape=tuple(query.shape), version=1,
    )


def retain(query: Tensor, key: Tensor, value: Tensor, state: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
    """The operator Retain of our own (``kernels``): ``S' = decay * S + k^T v`` and ``q S'`` of every row and head.

    Args:
        query, key: [rows, heads, key size].
        value: [rows, heads, value size].
        state: [rows, heads, key size, value size].
        decay: [heads, 1, 1].

    Returns:
        [rows, heads, value size], and the new state.
    """
    results = torch.onnx.ops.symbolic_multi_out(
        "seqserve::Retain", (query, key, value, state, decay), {},
        dtypes=[query.dtype] * 2, shapes=[tuple(value.shape), tuple(state.shape)], version=1,
    )
    return results[0], results[1]


def rms_norm(norm: RMSNorm, states: Tensor) -> Tensor:
    """SimplifiedLayerNormalization: the RMS norm."""
    return torch.onnx.ops.symbolic(
        "SimplifiedLayerNormalization", (states, norm.weight), {"axis": -1, "epsilon": norm.epsilon, "stash_type": 1},
        dtype=states.dtype, shape=tuple(states.shape), version=1,
    )


def top_candidates(scores: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """TopK over the last axis with a count given at run time: values and indices, best first, ties to the lower index.

    Args:
        scores: [rows, vocabulary].
        count: int64 [1].
    """
    shape = (scores.shape[0], 2)  # the real second size is ``count``; the traced value is renamed afterwards
    values, indices = torch.onnx.ops.symbolic_multi_out(
        "TopK", (scores, count), {"axis": -1, "largest": 1, "sorted": 1},
        dtypes=[scores.dtype, torch.int64], shapes=[shape, shape], version=11,
    )
    return values, indices


def count_up(end: Tensor, traced_size: int | torch.SymInt) -> Tensor:
    """Range: int32 [end], 0 .. end-1, for an int32 scalar known at run time only.

    The attention operator wants a bias that is just as long as the extent it is given. ``traced_size`` stands in for
    that length while tracing; the graph does not keep it.
    """
    zero, one = torch.tensor(0, dtype=torch.int32), torch.tensor(1, dtype=torch.int32)
    return torch.onnx.ops.symbolic("Range", (zero, end, one), {}, dtype=torch.int32, shape=(traced_size,), version=11)
