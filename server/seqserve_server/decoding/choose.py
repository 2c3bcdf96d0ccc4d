"""Which search decodes a request."""

from collections.abc import Sequence

from seqserve_server.decoding.alternatives import AlternativesSearch
from seqserve_server.decoding.beam import BeamSearch
from seqserve_server.decoding.constrained import ConstrainedBeamSearch
from seqserve_server.decoding.greedy import GreedySearch
from seqserve_server.decoding.ruled import RuledSearch
from seqserve_server.decoding.search import Search, SearchSettings
from seqserve_server.decoding.stopped import StoppedSearch


def search_of(settings: SearchSettings, prompt: Sequence[int]) -> Search:
    """A new search behind a prompt; greedy with one beam, whatever the rule for stopping, as the libraries have it.

    ``BeamSearch`` of one beam is not the same: ``EXHAUSTIVE``, or ``PATIENCE`` with more than 1, would go on behind the
    first end token.
    """
    if settings.required:
        return ConstrainedBeamSearch(settings, prompt)
    search: Search = AlternativesSearch(settings, _plain) if settings.alternatives else _plain(settings)
    ruled = (
        settings.repetition_penalty != 1 or settings.no_repeat_ngram_size or settings.suppressed
        or settings.sampling is not None or settings.favoured
    )
    if ruled:
        search = RuledSearch(search, settings, prompt)
    return search if settings.stop is None else StoppedSearch(search, settings.stop)


def _plain(settings: SearchSettings) -> Search:
    return GreedySearch(settings) if settings.beam_size == 1 else BeamSearch(settings)
