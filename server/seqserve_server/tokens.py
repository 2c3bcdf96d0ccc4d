"""Bearer tokens: which there are, and whether one is among them.

A file has one token per line, with an optional name before it, and behind it an optional end and an optional tenant:

    # made with: openssl rand -base64 32
    batch-jobs:rVBiY5T0mYkqYs7dbT3DW3WN3H9k0pJ9 expires=2027-01-01T00:00:00Z tenant=research
    u7bCz2GvJkQ1p6fN8dXw4sYh5mLr3aTe
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from seqserve_server.errors import ConfigError, Unauthenticated

MIN_LENGTH = 16
MAX_TOKENS = 1024
_LINE = re.compile(
    r"(?:(?P<name>[A-Za-z0-9._-]{1,64}):)?(?P<token>[A-Za-z0-9._~+/-]{1,4096}=*)"
    r"(?P<settings>(?:\s+(?:expires=\S+|tenant=[A-Za-z0-9._-]{1,64}(?!\S)))*)"
)


@dataclass(frozen=True, slots=True)
class Token:
    """One token that is accepted. Only its digest is kept, so that a dump of the memory shows no token.

    Attributes:
        name: Of whoever has it; empty where the file gives none.
        expires: Seconds since 1970 from which it is refused, or None.
        tenant: On whose account its calls go; empty where that is what they say themselves.
    """

    digest: bytes
    name: str = ""
    expires: float | None = None
    tenant: str = ""


def parse_tokens(text: str, origin: str) -> tuple[Token, ...]:
    """The tokens of a file. Errors name the line and never show what is in it.

    Raises:
        ConfigError: a line that is none, a token twice, too short ones, none or too many.
    """
    found: dict[bytes, Token] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not (line := line.strip()) or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        words = [] if match is None else match["settings"].split()
        settings = dict(word.split("=", 1) for word in words)
        if match is None or len(settings) < len(words):
            raise ConfigError(f"{origin}: line {number} is not [NAME:]TOKEN [expires=TIME] [tenant=NAME], or has "
                              "characters that no token has")
        if len(match["token"]) < MIN_LENGTH:
            raise ConfigError(f"{origin}: the token of line {number} has less than {MIN_LENGTH} characters")
        digest = digest_of(match["token"])
        if digest in found:
            raise ConfigError(f"{origin}: the token of line {number} was there before")
        expires = _seconds(settings.get("expires"), origin, number)
        found[digest] = Token(digest, match["name"] or "", expires, settings.get("tenant", ""))
    if not 1 <= len(found) <= MAX_TOKENS:
        raise ConfigError(f"{origin}: {len(found)} tokens are outside 1..{MAX_TOKENS}")
    return tuple(found.values())


def digest_of(token: str) -> bytes:
    """Digests are compared, not tokens: all have one length, and nothing is learnt from where two differ."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()


def check_token(headers: Sequence[str | bytes], tokens: Sequence[Token], now: float) -> Token:
    """Which token a call has. Takes as long whatever is wrong with it: every token is compared, each in constant time.

    Args:
        headers: Every ``authorization`` of the call.
        now: Seconds since 1970: ends of tokens are dates, so a wrong clock moves them.

    Raises:
        Unauthenticated: none, several, of another kind, unknown or expired.
    """
    if len(headers) != 1:
        raise Unauthenticated("the call has no bearer token" if not headers else "the call has several authorizations")
    scheme, _, credentials = str(headers[0]).partition(" ")
    digest, known = digest_of(credentials.strip()), None
    for token in tokens:
        if hmac.compare_digest(token.digest, digest):
            known = token
    if scheme.lower() != "bearer":
        raise Unauthenticated("the call's authorization is not a bearer token")
    if known is None:
        raise Unauthenticated("the call's bearer token is not known")
    if known.expires is not None and now >= known.expires:
        raise Unauthenticated("the call's bearer token has expired")
    return known


def _seconds(expires: str | None, origin: str, number: int) -> float | None:
    if expires is None:
        return None
    try:
        moment = datetime.fromisoformat(expires)
    except ValueError:
        raise ConfigError(f"{origin}: the end of line {number} is no time such as 2027-01-01T00:00:00Z") from None
    if moment.tzinfo is None:
        raise ConfigError(f"{origin}: the end of line {number} has no time zone; Z is UTC")
    return moment.astimezone(UTC).timestamp()
