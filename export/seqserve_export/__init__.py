"""Checkpoint to bundle: map a trained encoder-decoder onto one model, trace it, prove the result."""

import os

# ONNX Runtime's official builds report each process, session and model to their maker, and keep an identifier of the
# machine on disk, unless this is set before they are loaded; their own switch comes too late for the first of it.
# Whoever has set it themselves has decided.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
