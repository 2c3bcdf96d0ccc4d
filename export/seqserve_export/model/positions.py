"""Where a token stands: sinusoidal tables and T5's bucketed distance."""

import math

import torch
from torch import Tensor

from seqserve_export.model.config import SinusoidOrder


def sinusoid_table(length: int, width: int, order: SinusoidOrder) -> Tensor:
    """Table [length, width], float32: angle ``p / 10000^(2i / width)`` for position p and frequency i.

    Formula: "Attention Is All You Need", section 3.5. ``interleaved`` puts sin at even and cos at odd columns;
    ``concatenated`` puts all sines first. An odd width gets one cosine less. ``fairseq`` is ``fairseq_table``.
    """
    if order == "fairseq":
        return fairseq_table(length, width)
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10000.0) / width))
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
    sines, cosines = torch.sin(angles), torch.cos(angles)[:, : width // 2]
    if order == "concatenated":
        return torch.cat([sines, cosines], dim=1).float()
    table = torch.empty(length, width, dtype=torch.float64)
    table[:, 0::2], table[:, 1::2] = sines, cosines
    return table.float()


def fairseq_table(length: int, width: int) -> Tensor:
    """Table [length, width], float32: sines, then cosines, of frequencies from 1 to 1 / 10000, the last included.

    That of tensor2tensor and fairseq, whose exponent is ``i / (width / 2 - 1)``. Computed in float32 throughout, as
    there: at position 1000 that differs by 6e-5 from exact values, and models were trained with it. An odd width gets
    a column of zeros; a width below 4 has no table.
    """
    half = width // 2
    rates = torch.exp(torch.arange(half).float() * -(math.log(10000.0) / (half - 1)))
    angles = torch.arange(length).float()[:, None] * rates
    return torch.cat([torch.sin(angles), torch.cos(angles), torch.zeros(length, width % 2)], dim=1)


def relative_bucket(distance: Tensor, *, bidirectional: bool, buckets: int, max_distance: int) -> Tensor:
    """Bucket of each signed distance ``key position - query position``; same shape, int64 in [0, buckets).

    Formula: Raffel et al. 2020 (T5), section 2.1, as its public implementations compute it: near distances have a
    bucket each, far ones share logarithmically wider buckets up to ``max_distance``. Bidirectional attention (the
    encoder) halves the buckets between past and future; causal attention sees no future.
    """
    bucket = torch.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        bucket = bucket + (distance > 0).long() * buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    exact = buckets // 2
    ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
    return bucket + torch.where(distance < exact, distance, far)
