"""What stands before every request: who may ask, how much, and what browsers are told never to do.

There is no password, so whoever reaches the port may use the server behind it. What reaches a loopback port is, beside
programs of this machine, every web page in a browser of this machine. Three ways in are closed:

- a name of the attacker's that resolves to 127.0.0.1 (DNS rebinding): ``Host`` must be a loopback name;
- a form or script of another page: ``Origin`` must be our own, and ``Sec-Fetch-Site`` must not say "cross-site"; no
  CORS header is ever sent;
- markup that comes as text, from a user or a model: the policy lets no inline script run, and no string become markup.
"""

from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seqserve_client.channel import DEFAULT_MAX_MESSAGE_BYTES

MAX_BODY_BYTES = DEFAULT_MAX_MESSAGE_BYTES  # what the client would refuse to send on
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
SECURITY_HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",  # nothing of what was typed stays on the disk, and no old script after an update
}


class Guard:
    """ASGI middleware. Plain, because a wrapper of responses would hide from a stream that its reader left."""

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return  # no websockets, and nothing to do at start and end

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        found = refusal(scope["method"], Headers(scope=scope))
        if found is not None:
            status, text = found
            await JSONResponse(refused(text), status)(scope, receive, sending)
            return
        if scope["method"] == "POST":
            body = await _body(receive)
            if body is None:
                text = f"the request has over {MAX_BODY_BYTES} bytes, which is the limit"
                await JSONResponse(refused(text, "MESSAGE_TOO_LARGE"), 413)(scope, receive, sending)
                return
            receive = _replayed(body, receive)
        await self._inner(scope, receive, sending)


def refused(text: str, reason: str = "REFUSED") -> dict[str, object]:
    """An error of the playground's own, in the form that the page shows."""
    return {"error": {"code": "REFUSED", "reason": reason, "message": text}}


def refusal(method: str, headers: Headers) -> tuple[int, str] | None:
    """Status and text for a request that goes no further, or None."""
    host = headers.get("host", "")
    # Any port: one that ssh forwards has another number in the browser than here.
    name = host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]
    if name.lower() not in LOOPBACK_NAMES:
        return 421, "open this page by a loopback name: 127.0.0.1, localhost or [::1]"
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and method != "GET":
        return 403, "another page may not ask here"
    if method == "POST":
        if headers.get("origin", f"http://{host}").lower() != f"http://{host}".lower():
            return 403, "another page may not ask here"
        if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return 415, "content-type must be application/json"
    elif method not in ("GET", "HEAD"):
        return 405, f"{method[:16]} is not a method of this page"
    return None


async def _body(receive: Receive) -> bytes | None:
    """The whole body, or None over the limit. What is over it is read and dropped: a browser whose upload is cut off
    shows a broken connection in place of the answer."""
    parts: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":  # the caller left
            return b""
        length += len(message.get("body", b""))
        if length <= MAX_BODY_BYTES:
            parts.append(message.get("body", b""))
        elif length > 8 * MAX_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return b"".join(parts) if length <= MAX_BODY_BYTES else None


def _replayed(body: bytes, receive: Receive) -> Receive:
    told = False

    async def receiving() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receiving
