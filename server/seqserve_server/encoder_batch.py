"""Lay several sources out for the encoder graph: packed tokens, and where each stands in a padded batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqserve_server.engine import SOURCE_MULTIPLE


@dataclass(frozen=True, slots=True)
class EncoderBatch:
    """Inputs of the encoder graph; see ``seqserve_export.graphs.encoder`` for their meaning.

    ``starts[i]`` is where source i begins in the packed tokens; the last entry is their number.
    """

    tokens: NDArray[np.int64]
    positions: NDArray[np.int32]
    lengths: NDArray[np.int32]
    pad_index: NDArray[np.int64]
    pack_index: NDArray[np.int64]
    starts: list[int]


def pack(sources: Sequence[Sequence[int]], multiple: int = SOURCE_MULTIPLE) -> EncoderBatch:
    """Pack sources of any lengths; attention's padded length is rounded up to ``multiple``.

    The multiple is what keeps a source's bits the same in any batch: the attention kernel's sums over keys are grouped
    by 16, and padding up to a group boundary adds zeros only.
    """
    lengths = np.array([len(source) for source in sources], dtype=np.int32)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    padded = -(-int(lengths.max()) // multiple) * multiple
    places = np.arange(padded, dtype=np.int64)
    real = places[None, :] < lengths[:, None]
    return EncoderBatch(
        tokens=np.concatenate([np.asarray(source, dtype=np.int64) for source in sources]),
        positions=np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
        lengths=lengths,
        pad_index=np.where(real, starts[:-1, None] + places[None, :], 0),
        pack_index=np.flatnonzero(real),
        starts=starts.tolist(),
    )
