"""Choosing tokens: one search per request, pure, from candidates to continuations."""

from seqserve_server.decoding.greedy import GreedySearch
from seqserve_server.decoding.search import Search, SearchSettings

__all__ = ["search_of"]


def search_of(settings: SearchSettings) -> Search:
    """A search for one request."""
    return GreedySearch(settings)
