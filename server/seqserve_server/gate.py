"""The door: who is inside, what they brought, and who is turned away at once, with what advice. Pure."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from seqserve_server.cost_model import CostModel, Load
from seqserve_server.errors import DeadlineUnreachable, QueueFull
from seqserve_server.request import Request, ScoreRequest

RETRY_LEAST_SECONDS, RETRY_MOST_SECONDS = 0.1, 5.0


@dataclass(frozen=True, slots=True)
class GateLimits:
    """Bounds of everything that waits or runs.

    Attributes:
        waiting: Requests beside those that rows are there for.
        rows: Most rows that run at once.
        tokens: Of sources, and the most that may be generated, by every hypothesis.
        bytes: Of the messages that requests came in.
    """

    waiting: int
    rows: int
    tokens: int = 1 << 62
    bytes: int = 1 << 62


Key = TypeVar("Key", bound=Hashable)
Line = tuple[type, str, int]
"""Kind, tenant and priority: those with the same go one after the other."""
Entered = tuple[Line, Load]


@dataclass(slots=True)
class Ledger:
    """What the gates of all models count together.

    Attributes:
        weight: Of all tenants that have something inside.
        told_to_return: Requests that were refused, less the places that became free since.
    """

    inside: Load = field(default_factory=Load)
    tenants: dict[str, Load] = field(default_factory=dict)
    weight: float = 0.0
    told_to_return: int = 0


class Gate:
    """Counts requests between the door and their terminal event, of all and of each tenant.

    While several tenants are inside, one that holds less than its share of a limit, by weights, may exceed the limit by
    an eighth: else the places of one who floods would be full whenever others come.

    Each model has a gate of its own, for what it knows of deadlines; ``beside`` makes one that counts with another.
    ``inside`` and ``estimated_wait`` may be read by any thread; all else belongs to the event loop's.

    Args:
        model: What is known of how long things take; by default nothing, so that no deadline is ever unreachable.
        weights: Shares of tenants; of those not named it is 1.
    """

    def __init__(
        self, limits: GateLimits, model: CostModel | None = None, weights: Mapping[str, float] | None = None
    ) -> None:
        self._limits, self._weights = limits, weights or {}
        self._model = model or CostModel()
        self._ledger = Ledger()
        self._own = Load()  # of what is inside, this model's
        self._lines: dict[Line, Load] = {}

    def beside(self, model: CostModel) -> "Gate":
        """A gate for another model, with the same limits for both together."""
        gate = Gate(self._limits, model, self._weights)
        gate._ledger = self._ledger
        return gate

    @property
    def inside(self) -> Load:
        """What entered and has not ended, of all models."""
        return self._ledger.inside

    @property
    def estimated_wait(self) -> float:
        """Seconds that a request with one hypothesis can expect to wait behind all of this model; 0 if unknown."""
        costs = self._model.costs
        return 0.0 if costs is None else costs.wait_seconds(self._own, Load(1, 1, 1), self._limits.rows)

    def check_room(self, count: int, size: int, tenant: str = "") -> None:
        """What is known of a call before its inputs are looked at: how many, in how many bytes, on whose account.

        Raises:
            QueueFull: they cannot be let in.
        """
        self._check(Load(requests=count, bytes=size), tenant)

    def enter(
        self, requests: Sequence[Request | ScoreRequest], size: int, now: float, *, refuse: bool = True
    ) -> list[Entered]:
        """Let requests of one call in together, or none; all of them, unless told to ``refuse``.

        Args:
            requests: Of one tenant, priority and kind, as those of a call are.
            size: Bytes of their message.

        Returns:
            For each, what ``leave`` is to be told.

        Raises:
            QueueFull: there is no place for all of them.
            DeadlineUnreachable: they cannot end in time. Never of an idle server: it has nothing to lose by trying,
                and learns.
        """
        if not requests:
            return []
        share = -(-size // len(requests))
        entered = [((type(each), each.tenant, each.priority), Load.of(each, share)) for each in requests]
        own = sum((load for _, load in entered), Load())
        if refuse:
            self._check(own, requests[0].tenant)
            self._check_deadline(requests, own, now)
        ledger, tenant = self._ledger, requests[0].tenant
        if tenant not in ledger.tenants:
            ledger.weight += self._weight_of(tenant)
        ledger.tenants[tenant] = ledger.tenants.get(tenant, Load()) + own
        for line, load in entered:
            self._lines[line] = self._lines.get(line, Load()) + load
        self._own += own
        ledger.inside += own
        return entered

    def leave(self, entered: Entered) -> None:
        """A request reached its terminal event."""
        line, load = entered
        ledger, tenant = self._ledger, line[1]
        _subtract(self._lines, line, load)
        _subtract(ledger.tenants, tenant, load)
        if tenant not in ledger.tenants:
            ledger.weight = ledger.weight - self._weight_of(tenant) if ledger.tenants else 0.0
        self._own -= load
        ledger.inside -= load
        ledger.told_to_return = max(0, ledger.told_to_return - 1)

    def _weight_of(self, tenant: str) -> float:
        return self._weights.get(tenant, 1.0)

    def _check(self, own: Load, tenant: str) -> None:
        ledger, limits = self._ledger, self._limits
        inside = ledger.inside
        if (
            inside.requests + own.requests <= limits.waiting + limits.rows
            and inside.tokens + own.tokens <= limits.tokens and inside.bytes + own.bytes <= limits.bytes
        ):
            return  # whatever anybody's share is
        weight, mine = self._weight_of(tenant), ledger.tenants.get(tenant)
        part = weight / (ledger.weight if mine is not None else ledger.weight + weight)
        held = Load() if mine is None else mine
        for name, wanted, used, of_mine, limit in (
            ("requests", own.requests, inside.requests, held.requests, limits.waiting + limits.rows),
            ("tokens", own.tokens, inside.tokens, held.tokens, limits.tokens),
            ("bytes", own.bytes, inside.bytes, held.bytes, limits.bytes),
        ):
            more = limit // 8 if used > of_mine and of_mine + wanted <= limit * part else 0
            if used + wanted > limit + more:
                ledger.told_to_return += own.requests
                raise QueueFull(name, wanted, limit - used, limit, self._retry_seconds())

    def _check_deadline(self, requests: Sequence[Request | ScoreRequest], own: Load, now: float) -> None:
        deadline = min((each.deadline for each in requests if each.deadline is not None), default=None)
        if deadline is None:
            return
        least, costs = 0.0, self._model.costs
        if costs is not None and self._own.requests:
            # Of other tenants and priorities some will go before, but nobody knows how many.
            ahead = self._lines.get((type(requests[0]), requests[0].tenant, requests[0].priority), Load())
            tokens = min((each.search.min_new_tokens for each in requests if isinstance(each, Request)), default=0)
            least = costs.least_seconds(ahead, own, self._limits.rows, tokens)
        if now + least >= deadline:
            raise DeadlineUnreachable(least, deadline - now)

    def _retry_seconds(self) -> float:
        """When a place is likely to be free for whoever is refused now, behind those who were refused before."""
        costs = self._model.costs
        if costs is None:
            return RETRY_LEAST_SECONDS
        each = costs.request_seconds(self._limits.rows)
        # Not all come back: what a flood leaves behind is no more than what the longest advice accounts for.
        ledger = self._ledger
        ledger.told_to_return = min(ledger.told_to_return, math.ceil(RETRY_MOST_SECONDS / max(each, 1e-6)))
        return min(max(ledger.told_to_return * each, RETRY_LEAST_SECONDS), RETRY_MOST_SECONDS)


def _subtract(loads: dict[Key, Load], key: Key, load: Load) -> None:
    left = loads[key] - load
    if left.requests:
        loads[key] = left
    else:
        del loads[key]
