"""Which search decodes a request."""

from collections.abc import Sequence

from seqserve_server.decoding.beam import BeamSearch
from seqserve_server.decoding.greedy import GreedySearch
from seqserve_server.decoding.search import Search, SearchSettings


def search_of(settings: SearchSettings, prompt: Sequence[int]) -> Search:
    """A new search behind a prompt; greedy with one beam, whatever the stopping rule, as transformers and CTranslate2 have it.

    ``BeamSearch`` of one beam is not the same: ``EXHAUSTIVE``, or ``PATIENCE`` with more than 1, would go on behind the
    first end token.
    """
    return GreedySearch(settings) if settings.beam_size == 1 else BeamSearch(settings)
