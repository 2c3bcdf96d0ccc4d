"""The scorer graph: given targets in one pass, from what the encoder made of their sources."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from seqserve_server.encoder_batch import pack
from seqserve_server.engine import Pair, Scored

INPUTS = ("tokens", "positions", "wanted", "pad_index", "pack_index", "source_lengths", "source_pad_index")
OUTPUTS = ("log_probs", "alignment")
MOST_LOGIT_BYTES = 16 * 2**20  # in one pass, which holds those of all its tokens three times


def passes_of(pairs: Sequence[Pair], vocabulary: int) -> Iterator[Sequence[Pair]]:
    """Pairs for one pass after the other, so many that their logits stay within bounds; at least one."""
    most = MOST_LOGIT_BYTES // (4 * vocabulary)
    first = tokens = 0
    for place, pair in enumerate(pairs):
        tokens += len(pair.target) - 1
        if tokens > most and place > first:
            yield pairs[first:place]
            first, tokens = place, len(pair.target) - 1
    if first < len(pairs):
        yield pairs[first:]


def run_scorer(
    session: ort.InferenceSession, pairs: Sequence[Pair], encoded: Mapping[str, NDArray[np.generic]]
) -> list[Scored]:
    """Score pairs in one pass.

    Args:
        encoded: By state what the encoder gives for their sources, one after the other; the graph takes it by its name.
    """
    sources = pack([pair.source for pair in pairs])
    targets = pack([pair.target[:-1] for pair in pairs])
    wanted = np.concatenate([np.asarray(pair.target[1:], dtype=np.int64) for pair in pairs])
    log_probs, alignment = session.run(list(OUTPUTS), {
        "tokens": targets.tokens, "positions": targets.positions, "wanted": wanted, "pad_index": targets.pad_index,
        "pack_index": targets.pack_index, "source_lengths": sources.lengths, "source_pad_index": sources.pad_index,
        **encoded,
    })
    found = []
    for place, pair in enumerate(pairs):
        scored = slice(targets.starts[place] + pair.prompt - 1, targets.starts[place + 1])
        found.append(Scored(log_probs[scored].copy(), alignment[scored, : len(pair.source)].copy()))
    return found
