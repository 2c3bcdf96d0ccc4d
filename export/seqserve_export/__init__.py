"""Checkpoint to bundle: map a trained encoder-decoder onto one model, trace it, prove the result."""
