"""Everything that can go wrong, split by who must act. Status codes appear only in ``service_errors``.

ServerError
├── InvalidRequest      the caller changes the request
│   └── InputTooLong
├── UnknownModel        the caller changes the name
├── Unauthenticated     the caller gets a valid token
├── TenantDenied        the caller names its own tenant, or none
├── Quarantined         we look at the log: the request ended the process before
├── NoScorer            the operator exports the model again, or lets it be opened whole
├── QueueFull           the caller waits and tries again
├── Loading             the caller waits and tries again
├── EngineStopped       the caller goes elsewhere
├── Draining            the caller goes elsewhere
├── SlowReader          the caller reads what it asked for
├── DeadlinePassed      the caller allows more time
│   ├── DeadlineInQueue
│   └── DeadlineUnreachable
├── EngineFailure       we look at the log; the request was not at fault as far as we know
└── StartupError        the operator changes the configuration
    └── ConfigError     a flag or a variable has a value that it cannot have
"""


class ServerError(Exception):
    """Base of all errors raised on purpose. ``reason`` is stable and machine-readable."""

    reason = "INTERNAL"


class InvalidRequest(ServerError):
    """A request that can never succeed. ``field`` is its path in the message, such as ``inputs[3].token_ids``."""

    reason = "INVALID_FIELD"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class InputTooLong(InvalidRequest):
    """A source over the model's limit, or the request's own."""

    reason = "INPUT_TOO_LONG"

    def __init__(self, field: str, count: int, limit: int) -> None:
        super().__init__(field, f"{count} tokens, special tokens included, are over the limit of {limit}")
        self.count = count
        self.limit = limit


class UnknownModel(ServerError):
    """A model name that is not served."""

    reason = "MODEL_NOT_FOUND"

    def __init__(self, name: str, served: list[str]) -> None:
        super().__init__(f"model {name!r} is not served here; served: {', '.join(served)}")
        self.name = name


class Unauthenticated(ServerError):
    """A call without a valid token."""

    reason = "UNAUTHENTICATED"


class TenantDenied(ServerError):
    """A call on the account of another tenant than its token's."""

    reason = "TENANT_DENIED"

    def __init__(self) -> None:
        super().__init__("metadata.x-tenant: the call's token belongs to another tenant")


class Quarantined(ServerError):
    """A request that was in the engine when processes ended uncleanly; ``place`` is its own in the call, from 0."""

    reason = "QUARANTINED"

    def __init__(self, place: int) -> None:
        super().__init__(
            f"input {place} of this call was being computed each time that the server's process ended uncleanly; it is "
            "not computed again with this version of the model"
        )
        self.place = place


class NoScorer(ServerError):
    """The served bundle cannot score, and so has no alignments either."""

    reason = "NO_SCORER"

    def __init__(self) -> None:
        super().__init__(
            "this model is served without a scorer: its bundle has none, and `seqserve export` of this version writes "
            "one, or the server was told not to open it"
        )


class QueueFull(ServerError):
    """No place for more requests, tokens or bytes (``limit_name``). ``retry_after`` is advice, in seconds."""

    reason = "QUEUE_FULL"

    def __init__(self, limit_name: str, wanted: int, free: int, limit: int, retry_after: float) -> None:
        super().__init__(f"{wanted} {limit_name} do not fit: {max(0, free)} of {limit} are free")
        self.limit_name, self.wanted, self.free, self.limit = limit_name, wanted, max(0, free), limit
        self.retry_after = retry_after


class Loading(ServerError):
    """The model is not loaded and warm yet."""

    reason = "MODEL_LOADING"

    def __init__(self) -> None:
        super().__init__("the model is still loading")


class EngineStopped(ServerError):
    """The engine ended with requests open; the answer may be had from another replica."""

    reason = "ENGINE_STOPPED"

    def __init__(self) -> None:
        super().__init__("the engine has stopped")


class Draining(ServerError):
    """The server was told to stop, and the time for those inside is over; the answer may be had from another one."""

    reason = "DRAINING"

    def __init__(self) -> None:
        super().__init__("the server stops, and there was no time left for this call")


class SlowReader(ServerError):
    """The caller of a stream did not take a message for too long."""

    reason = "SLOW_READER"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"a message was not read for {seconds:g} seconds")


class DeadlinePassed(ServerError):
    """The caller's deadline passed before its last token."""

    reason = "DEADLINE_EXCEEDED"

    def __init__(self, message: str = "the deadline passed before the last token") -> None:
        super().__init__(message)


class DeadlineInQueue(DeadlinePassed):
    """It passed, or could not be met any more, while the request waited; nothing was computed."""

    reason = "DEADLINE_IN_QUEUE"

    def __init__(self, queue_seconds: float) -> None:
        super().__init__(f"the deadline could not be met after {queue_seconds:.3f} s in the queue")
        self.queue_seconds = queue_seconds


class DeadlineUnreachable(DeadlinePassed):
    """It cannot be met, whatever comes; the request was not queued. Both are seconds from now."""

    reason = "DEADLINE_UNREACHABLE"

    def __init__(self, least_seconds: float, remaining_seconds: float) -> None:
        remaining = max(0.0, remaining_seconds)
        super().__init__(f"at least {least_seconds:.3f} s are needed, and the deadline is in {remaining:.3f} s")
        self.least_seconds, self.remaining_seconds = least_seconds, remaining


class EngineFailure(ServerError):
    """The engine could not compute this request."""

    reason = "ENGINE_FAILURE"


class StartupError(ServerError):
    """The server cannot start as configured; the message is one line for the operator."""

    reason = "STARTUP"


class ConfigError(StartupError):
    """A flag or variable is unknown or has a value that it cannot have: a matter of usage."""
