"""Where a token stands: sinusoidal tables and T5's bucketed distance."""

import math

import torch
from torch import Tensor

from seqserve_export.model.config import SinusoidOrder


def sinusoid_table(length: int, width: int, order: SinusoidOrder) -> Tensor:
    """Table [length, width], float32: angle ``p / 10000^(2i / width)`` for position p and frequency i.

    Formula: "Attention Is All You Need", section 3.5. ``interleaved`` puts sin at even and cos at odd columns;
    ``concatenated`` puts all sines first. An odd width gets one cosine less.
    """
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10000.0) / width))
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
    sines, cosines = torch.sin(angles), torch.cos(angles)[:, : width // 2]
    if order == "concatenated":
        return torch.cat([sines, cosines], dim=1).float()
    table = torch.empty(length, width, dtype=torch.float64)
    table[:, 0::2], table[:, 1::2] = sines, cosines
    return table.float()


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
