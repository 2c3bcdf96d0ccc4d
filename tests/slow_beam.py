"""Beam search over the PyTorch model, one step at a time and from nothing: slow, and without any of the server's ways.

Only the search itself is the server's; what a step is given is computed anew from all tokens of every hypothesis.
"""

from collections.abc import Sequence

import numpy as np

from seqserve_export import reference
from seqserve_export.model import CanonicalModel
from seqserve_server.decoding import search_of
from seqserve_server.decoding.search import Hypothesis, SearchSettings


def slow_beam(model: CanonicalModel, source: Sequence[int], prompt: Sequence[int], settings: SearchSettings
              ) -> list[Hypothesis]:
    """What the search finds."""
    search = search_of(settings, prompt)
    live: list[list[int]] = [[]]
    while True:
        count = len(live)
        targets = [[*tokens, 0] for tokens in live]  # the last is what is asked for; it is not fed
        logits = np.stack([
            rows[-1].astype(np.float64)
            for rows in reference.step_logits(model, [source] * count, targets, [prompt] * count, last=1)
        ])
        peaks = logits.max(axis=1, keepdims=True)
        log_probs = logits - peaks - np.log(np.exp(logits - peaks).sum(axis=1, keepdims=True))
        order = np.argsort(-logits, axis=1, kind="stable")[:, : search.candidates]
        advance = search.advance(order.tolist(), np.take_along_axis(log_probs, order, axis=1).tolist())
        if advance.found is not None:
            return advance.found
        live = [[*live[each.parent], each.token] for each in advance.live]
