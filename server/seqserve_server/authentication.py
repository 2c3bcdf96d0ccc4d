"""Every call needs a token: one interceptor over all methods, those of services that nobody thought of included."""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import grpc

from seqserve_server.errors import ConfigError, Unauthenticated
from seqserve_server.identity import caller_name, caller_tenant
from seqserve_server.refusals import kind_of, refusing
from seqserve_server.tokens import Token, check_token, parse_tokens
from seqserve_server.watched_files import WatchedFiles, read_bytes

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
HEALTH_METHODS = ("/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", "/grpc.health.v1.Health/List")


def watched_tokens(path: Path) -> WatchedFiles[tuple[Token, ...]]:
    """The tokens of a file, renewed when it changes.

    Raises:
        StartupError: it cannot be read, or holds something else.
    """
    flag = "--auth-tokens-file"

    def read() -> tuple[Token, ...]:
        try:
            text = read_bytes(path, flag).decode()
        except UnicodeDecodeError:
            raise ConfigError(f"{flag}: {path} is not UTF-8") from None
        return parse_tokens(text, f"{flag}: {path}")

    return WatchedFiles("the tokens", [path], read)


class AuthenticationInterceptor(grpc.aio.ServerInterceptor):
    """Lets a call through that has a valid token; denies by default. What is exempt is a list of names, not a rule."""

    def __init__(
        self, tokens: WatchedFiles[tuple[Token, ...]], *, exempt: tuple[str, ...] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tokens, self._exempt = tokens, frozenset(exempt)
        self._clock = clock  # the time of day: what a token's end is compared with

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """The method's handler, or one that refuses. Methods that there are not stay so, with a token and without."""
        handler: Any = await continuation(handler_call_details)
        if handler is None or handler_call_details.method in self._exempt:
            return handler  # type: ignore[no-any-return]
        headers = [
            value for key, value in handler_call_details.invocation_metadata or () if key.lower() == "authorization"
        ]
        try:
            token = check_token(headers, self._tokens.current(), self._clock())
        except Unauthenticated as error:
            return refusing(kind_of(handler), error)
        caller_name.set(token.name)
        caller_tenant.set(token.tenant)
        return handler  # type: ignore[no-any-return]
