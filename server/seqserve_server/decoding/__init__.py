"""Choosing tokens: pure functions from candidates to choices."""
