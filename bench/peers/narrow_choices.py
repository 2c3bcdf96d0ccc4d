"""How narrowly a beam search chose, which tells a tie from a difference where another library chose otherwise."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

ROUNDING = 1e-5  # of the sum of a few dozen log-probabilities in float32, which is how the libraries keep it


@contextmanager
def narrow_choices() -> Iterator[list[float]]:
    """Within, how much better the last hypothesis that lived on was, at every step, than the first that did not."""
    from seqserve_server.decoding.beam import BeamSearch

    gaps: list[float] = []
    ranked = BeamSearch._ranked

    def watched(self: Any, *given: Any) -> Any:
        found = ranked(self, *given)
        beam, live = self._settings.beam_size, [each[0] for each in found if each[1] != self._settings.end_id]
        gaps.extend([live[beam] - live[beam - 1]] if len(live) > beam else [])
        return found

    with patch.object(BeamSearch, "_ranked", watched):
        yield gaps
