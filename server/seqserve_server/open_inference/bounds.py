"""What a request may spend on names and parameters, those that nobody looks at included."""

import re
from collections.abc import Mapping

from seqserve_server.errors import InvalidRequest
from seqserve_server.open_inference import open_inference_pb2 as pb

MAX_NAME_BYTES, MAX_PARAMETERS, MAX_VALUE_BYTES = 256, 64, 65536
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def shown(name: str) -> str:
    """A name of the caller's as errors show it: short, and on one line."""
    return name if _PLAIN.fullmatch(name) else f"{name[:64]!r}"


def check_name(name: str, field: str) -> None:
    """A name of a tensor or a parameter is short.

    Raises:
        InvalidRequest: naming ``field``.
    """
    if (size := len(name.encode())) > MAX_NAME_BYTES:
        raise InvalidRequest(field, f"its name has {size} bytes, over {MAX_NAME_BYTES}")


def check_parameters(parameters: Mapping[str, pb.InferParameter], field: str) -> None:
    """Parameters of a request or a tensor are few, and their names and texts are short.

    Raises:
        InvalidRequest: naming ``field``, or the parameter in it.
    """
    if len(parameters) > MAX_PARAMETERS:
        raise InvalidRequest(field, f"{len(parameters)} are over {MAX_PARAMETERS}")
    for name, value in sorted(parameters.items()):
        check_name(name, f"{field}.{shown(name)}")
        if (size := len(value.string_param.encode())) > MAX_VALUE_BYTES:
            raise InvalidRequest(f"{field}.{shown(name)}", f"{size} bytes are over {MAX_VALUE_BYTES}")
