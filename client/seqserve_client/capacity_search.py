"""The search for the highest rate that a server bears: which rate to try next. Pure."""

from collections.abc import Mapping

PRECISION = 1.1  # the rates on both sides of the answer are at most 10 % apart
MOST_TRIES = 16
LOWEST_PART = 1 / 16  # of the first rate: below it there is none, for the same requests take ever longer to send
GOOD_PART = 0.99


def is_borne(result: Mapping[str, float]) -> bool:
    """Whether a result, with goodput, shows a server that bears its rate: 99 % of all requests were good."""
    requests = result["completed"] + result["failed"]
    return bool(requests) and result["request_goodput"] * result["duration"] >= GOOD_PART * requests - 1e-6


def next_rate(tried: Mapping[float, bool], first: float) -> float | None:
    """The rate to try next, or None where enough is known.

    Doubles or halves until there is a rate on either side, then goes between the two. Load tests are noisy: a rate that
    was borne though a lower one was not is passed over, so that the answer errs to the safe side.

    Args:
        tried: Whether each rate so far was borne.
        first: Where to begin.
    """
    if not tried:
        return first
    if len(tried) >= MOST_TRIES:
        return None
    failed = min((rate for rate, borne in tried.items() if not borne), default=None)
    borne = capacity(tried)
    if failed is None:
        return max(tried) * 2
    if borne is None:
        return failed / 2 if failed > first * LOWEST_PART else None
    return None if failed / borne <= PRECISION else float(f"{(failed * borne) ** 0.5:.3g}")


def capacity(tried: Mapping[float, bool]) -> float | None:
    """The highest rate that was borne and below which none was not; None where there is none."""
    failed = min((rate for rate, borne in tried.items() if not borne), default=float("inf"))
    return max((rate for rate, borne in tried.items() if borne and rate < failed), default=None)
