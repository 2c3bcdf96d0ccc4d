"""What a serving process must be and must not have, looked at before it listens: cheap, and it catches much."""

import logging
import os
import sys

from google.protobuf.internal import api_implementation

from seqserve_server.errors import StartupError

logger = logging.getLogger(__name__)
UNWANTED = ("torch", "transformers", "onnx")  # they read checkpoints, which may run code, and take memory


def check_process() -> None:
    """Look at this process.

    Raises:
        StartupError: messages would be read by Python code, or a library is loaded that no server needs.
    """
    if (kind := api_implementation.Type()) != "upb":
        raise StartupError(
            f"protobuf runs on its {kind!r} implementation, which untrusted messages can bring down; "
            "unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION, or install protobuf's own wheel"
        )
    if found := [name for name in UNWANTED if name in sys.modules]:
        raise StartupError(f"{found[0]} is loaded in this process, and serving runs without it")
    if os.geteuid() == 0:
        logger.warning("this server runs as root, which it does not need; containers of it run as user 65532")
