"""Choosing tokens: one search per request, pure, from candidates to continuations."""

from seqserve_server.decoding.choose import search_of

__all__ = ["search_of"]
