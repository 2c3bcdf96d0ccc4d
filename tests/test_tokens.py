"""Tokens: what a file of them may hold, and which calls they let in."""

import contextlib
import hmac
from datetime import UTC, datetime
from typing import Any

import pytest

from seqserve_server import tokens
from seqserve_server.errors import StartupError, Unauthenticated
from seqserve_server.tokens import Token, check_token, digest_of, parse_tokens

FIRST, SECOND, THIRD = "a-token-of-24-characters", "another+token/with=", "batch0123456789ABCDEF"
FILE = f"""
# comments and empty lines are left out

{FIRST}
  jobs.2:{SECOND}   expires=2027-01-01T00:00:00Z
jobs.2:{THIRD} tenant=gold-1.a_B expires=2027-01-01T02:00:00+02:00
"""


def test_a_file_has_one_token_per_line_with_name_end_and_tenant() -> None:
    end = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    assert parse_tokens(FILE, "f") == (
        Token(digest_of(FIRST)), Token(digest_of(SECOND), "jobs.2", end),
        Token(digest_of(THIRD), "jobs.2", end, "gold-1.a_B"),
    )


def test_only_digests_are_kept() -> None:
    assert not any(secret in repr(parse_tokens(FILE, "f")) for secret in (FIRST, SECOND, THIRD))


@pytest.mark.parametrize(("text", "said"), [
    ("", "0 tokens are outside 1..1024"),
    ("# nothing\n\n", "0 tokens are outside"),
    ("\n".join(f"{number:016}" for number in range(1025)), "1025 tokens are outside"),
    (f"{FIRST}\nshort", "the token of line 2 has less than 16 characters"),
    (f"{FIRST}\nname:{FIRST}", "the token of line 2 was there before"),
    (f"{FIRST} {SECOND}", "line 1 is not"),
    (f"{FIRST} expired=2027-01-01T00:00:00Z", "line 1 is not"),
    (f"{FIRST} tenant=", "line 1 is not"),
    (f"{FIRST} tenant=a/b", "line 1 is not"),
    (f"{FIRST} tenant={'t' * 65}", "line 1 is not"),
    (f"{FIRST} tenant=a tenant=b", "line 1 is not"),
    (f"{FIRST} tenant=a expires=2027-01-01T00:00:00Z expires=2028-01-01T00:00:00Z", "line 1 is not"),
    ("ünïcödé-tökens-are-nöne", "line 1 is not"),
    ("a:b:cccccccccccccccccc", "line 1 is not"),
    (f"bad name:{FIRST}", "line 1 is not"),
    (f"{'n' * 65}:{FIRST}", "line 1 is not"),
    ("t" * 4097, "line 1 is not"),
    (f"{FIRST} expires=tomorrow", "the end of line 1 is no time"),
    (f"{FIRST} expires=2027-13-01T00:00:00Z", "the end of line 1 is no time"),
    (f"{FIRST} expires=2027-01-01T00:00:00", "the end of line 1 has no time zone"),
])
def test_what_is_wrong_is_named_by_line_and_never_shown(text: str, said: str) -> None:
    with pytest.raises(StartupError) as caught:
        parse_tokens(text, "the file")
    assert str(caught.value).startswith("the file: ")
    assert said in str(caught.value)
    assert not any(word in str(caught.value) for word in (FIRST, "short", "ccccc", "tttt", "tökens"))


def test_which_token_it_was_is_told() -> None:
    known = parse_tokens(FILE, "f")
    now = datetime(2026, 12, 31, tzinfo=UTC).timestamp()
    assert check_token([f"Bearer {FIRST}"], known, now) is known[0]
    assert check_token([f"bearer {SECOND}"], known, now) is known[1]
    assert check_token([f"BEARER  {THIRD} "], known, now) is known[2]


@pytest.mark.parametrize(("headers", "said"), [
    ([], "has no bearer token"),
    ([f"Bearer {FIRST}", f"Bearer {FIRST}"], "has several authorizations"),
    ([""], "is not a bearer token"),
    ([FIRST], "is not a bearer token"),
    ([f"Basic {FIRST}"], "is not a bearer token"),
    (["Bearer"], "is not known"),
    (["Bearer "], "is not known"),
    ([f"Bearer {FIRST}x"], "is not known"),
    ([f"Bearer {FIRST[:-1]}"], "is not known"),
    ([f"Bearer {FIRST.upper()}"], "is not known"),
    ([f"Bearer {FIRST} {SECOND}"], "is not known"),
    (["Bearer \udcff\udcfe"], "is not known"),
    ([b"Bearer " + FIRST.encode()], "is not a bearer token"),
    ([f"Bearer {SECOND}"], "has expired"),
])
def test_a_call_without_a_valid_token_is_refused(headers: Any, said: str) -> None:
    with pytest.raises(Unauthenticated, match=said) as caught:
        check_token(headers, parse_tokens(FILE, "f"), datetime(2027, 1, 1, tzinfo=UTC).timestamp())
    assert FIRST[:-1] not in str(caught.value)


def comparisons(check: Any, monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """How many digests are compared: for the first token, the last, an unknown one, and another scheme."""
    counts = set()
    known = parse_tokens(FILE, "f")
    for header in (f"Bearer {FIRST}", f"Bearer {THIRD}", "Bearer unknown", f"Basic {FIRST}"):
        compared: list[bytes] = []

        def counted(first: bytes, second: bytes, compared: list[bytes] = compared) -> bool:
            compared.append(second)
            return first == second

        monkeypatch.setattr(hmac, "compare_digest", counted)
        with contextlib.suppress(Unauthenticated):
            check([header], known, 0.0)
        counts.add(len(compared))
    return counts


def test_every_token_is_compared_whichever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert comparisons(check_token, monkeypatch) == {3}


def test_a_check_that_stops_at_the_first_match_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def hasty(headers: list[str], known: tuple[Token, ...], now: float) -> str:
        digest = tokens.digest_of(headers[0].partition(" ")[2])
        return next((token.name for token in known if hmac.compare_digest(token.digest, digest)), "")

    assert len(comparisons(hasty, monkeypatch)) > 1
