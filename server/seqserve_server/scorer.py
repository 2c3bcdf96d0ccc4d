"""The scorer graph: given targets in one pass, from what the encoder made of their sources."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from seqserve.alignment import Alignment
from seqserve_server.encoder_batch import pack
from seqserve_server.engine import Pair, Scored

INPUTS = ("tokens", "positions", "wanted", "pad_index", "pack_index", "source_lengths", "source_pad_index")
CHOICE = ("choose", "chosen")  # inputs that bundles from before it lack
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


def choosable_heads(session: ort.InferenceSession) -> tuple[int, int]:
    """Layers, and heads of each, whose attention a pass can tell; (0, 0) where it tells that of the usual ones only."""
    for entry in session.get_inputs():
        if entry.name == CHOICE[1] and len(entry.shape) == 3:
            _, layers, heads = entry.shape
            return int(layers), int(heads)
    return 0, 0


def shares(pairs: Sequence[Pair], choosable: tuple[int, int], usual: Alignment) -> NDArray[np.float32]:
    """[pairs, layers, heads]: of each head in the alignment of each pair; each pair's add up to 1."""
    found = np.zeros((len(pairs), *choosable), dtype=np.float32)
    for share, pair in zip(found, pairs, strict=True):
        if pair.heads is None:
            share[usual.layer, list(usual.heads)] = 1 / len(usual.heads)
        elif pair.heads.head is None:
            share[pair.heads.layer] = 1 / choosable[1]
        else:
            share[pair.heads.layer, pair.heads.head] = 1
    return found


def run_scorer(
    session: ort.InferenceSession, pairs: Sequence[Pair], encoded: Mapping[str, NDArray[np.generic]],
    choosable: tuple[int, int], usual: Alignment,
) -> list[Scored]:
    """Score pairs in one pass.

    Args:
        encoded: By state what the encoder gives for their sources, one after the other; the graph takes it by its name.
        choosable: The session's ``choosable_heads``.
        usual: Whose attention is told of pairs that do not choose.
    """
    choice: dict[str, NDArray[Any]] = {}
    if choosable != (0, 0):
        # Where nobody chooses, a branch of the graph spares all layers but one. Both give who does not the same bits.
        choose = any(pair.heads is not None for pair in pairs)
        choice = dict(zip(CHOICE, (np.array(choose), shares(pairs, choosable, usual)), strict=True))
    sources = pack([pair.source for pair in pairs])
    targets = pack([pair.target[:-1] for pair in pairs])
    wanted = np.concatenate([np.asarray(pair.target[1:], dtype=np.int64) for pair in pairs])
    log_probs, alignment = session.run(list(OUTPUTS), {
        "tokens": targets.tokens, "positions": targets.positions, "wanted": wanted, "pad_index": targets.pad_index,
        "pack_index": targets.pack_index, "source_lengths": sources.lengths, "source_pad_index": sources.pad_index,
        **encoded, **choice,
    })
    found = []
    for place, pair in enumerate(pairs):
        scored = slice(targets.starts[place] + pair.prompt - 1, targets.starts[place + 1])
        found.append(Scored(log_probs[scored].copy(), alignment[scored, : len(pair.source)].copy()))
    return found
