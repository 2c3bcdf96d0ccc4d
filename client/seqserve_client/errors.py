"""Everything a call can raise, split by who must act.

SeqserveError
├── InvalidInput        the caller changes the request; also a ValueError
│   ├── InputTooLong    a source over the model's limit
│   └── TooManyInputs   more inputs than one call may hold
├── MessageTooLarge     the caller sends less per call, or raises ``max_message_bytes`` here and on the server
├── ModelNotFound       the caller changes the name
├── Unauthenticated     the caller gets a valid token
├── PermissionDenied    the caller names its own tenant, or none
├── Unsupported         the operator exports the model again: it has no scorer
├── Quarantined         nobody but the operator: this very input crashed the server before; others are welcome
├── QueueFull           the caller waits (``retry_after``) and tries again
├── DeadlineExceeded    the caller waits longer, or asks for less
├── Cancelled           nobody: this side cancelled, or the server stopped before it could answer
├── Unavailable         the caller looks at the address, or waits: no server, not loaded yet, shutting down
└── ServerError         the operator reads the server's log; the request was not at fault as far as it knows

Mistakes in the Python call itself, such as an unknown option or two inputs at once, are a plain ``TypeError``.
"""

from collections.abc import Mapping

import grpc


class SeqserveError(Exception):
    """Base of all errors of this package.

    Attributes:
        code: Status code of the call; for errors found before sending, the code that the server would have used.
        reason: Stable upper-case name of the cause, such as "QUEUE_FULL"; empty where the server gave none.
        metadata: Facts about the cause, such as the limit that was passed; may be empty.
        field: Path of the offending field, such as "inputs[3].text", or None.
        retry_after: Seconds after which the server suggests to try again, or None.
        request_id: Name of the call in the server's log, or None.
    """

    default_code = grpc.StatusCode.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        field: str | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = self.default_code if code is None else code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.field = field
        self.retry_after = retry_after
        self.request_id = request_id


class InvalidInput(SeqserveError, ValueError):
    """A request that can never succeed."""

    default_code = grpc.StatusCode.INVALID_ARGUMENT


class InputTooLong(InvalidInput):
    """A source over the model's limit, or the request's own; nothing is cut off unasked."""


class TooManyInputs(InvalidInput):
    """More inputs than the server takes in one call; ``info()`` tells the limit."""


class MessageTooLarge(SeqserveError):
    """A request or an answer over the size limit of either side."""

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED


class ModelNotFound(SeqserveError):
    """A model name that is not served."""

    default_code = grpc.StatusCode.NOT_FOUND


class Unauthenticated(SeqserveError):
    """The server wants a bearer token, and there was none, or one that it does not know or that has expired."""

    default_code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(SeqserveError):
    """A ``tenant`` that is not the token's: tokens may belong to one."""

    default_code = grpc.StatusCode.PERMISSION_DENIED


class Unsupported(SeqserveError):
    """What the served model cannot do: scores and alignments need a bundle with a scorer."""

    default_code = grpc.StatusCode.FAILED_PRECONDITION


class Quarantined(SeqserveError):
    """An input that was being computed each time the server's process crashed; ``metadata["place"]`` says which."""

    default_code = grpc.StatusCode.FAILED_PRECONDITION


class QueueFull(SeqserveError):
    """The server has no place for more waiting requests; raised after the built-in retries."""

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED


class DeadlineExceeded(SeqserveError):
    """The answer did not come within the timeout."""

    default_code = grpc.StatusCode.DEADLINE_EXCEEDED


class Cancelled(SeqserveError):
    """The call was cancelled, by ``cancel()`` or by a server that went away."""

    default_code = grpc.StatusCode.CANCELLED


class Unavailable(SeqserveError):
    """No server answers at the address, or it is loading or shutting down; raised after the built-in retries."""

    default_code = grpc.StatusCode.UNAVAILABLE


class ServerError(SeqserveError):
    """The server failed."""

    default_code = grpc.StatusCode.INTERNAL
