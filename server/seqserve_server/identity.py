"""Who calls, as far as authentication tells."""

from contextvars import ContextVar

# Set by the interceptor in the call's own task, so every handler sees its own caller.
caller_name: ContextVar[str] = ContextVar("caller_name", default="")
caller_tenant: ContextVar[str] = ContextVar("caller_tenant", default="")  # of its token; empty where that names none
