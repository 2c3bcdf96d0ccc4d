"""Where requests that crashed the process are refused: at the door, before anything is made of them."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from seqserve_server.crash_journal import CrashJournal, open_journal
from seqserve_server.custody import Watch
from seqserve_server.errors import Quarantined
from seqserve_server.fingerprint import Fingerprint
from seqserve_server.request import Request, ScoreRequest
from seqserve_server.suspects import Suspects

logger = logging.getLogger(__name__)
Queued = TypeVar("Queued", Request, ScoreRequest)


class Quarantine:
    """Of one server; without a journal nothing is refused, and nothing noted.

    Attributes:
        watch: What loops are given.
    """

    def __init__(self, journal: CrashJournal | None = None) -> None:
        self._journal = journal
        self._told: set[bytes] = set()
        self.watch = None if journal is None else Watch(Suspects(journal.records), journal)

    def close(self, *, clean: bool) -> None:
        """The process ends; ``clean`` if no request is the reason."""
        if self._journal is not None:
            self._journal.close(clean=clean)

    @property
    def suspected(self) -> int:
        """Digests that run one at a time."""
        return 0 if self.watch is None else self.watch.suspects.suspected

    @property
    def refused(self) -> int:
        """Digests that do not run."""
        return 0 if self.watch is None else self.watch.suspects.refused

    def door(self, model: str, version: str) -> "QuarantineDoor":
        """For the requests of one version of a model."""
        fingerprint = None if self._journal is None else Fingerprint(self._journal.salt, model, version)
        return QuarantineDoor(self, fingerprint)

    def refuse(self, digest: bytes, place: int) -> None:
        """Turn away the call whose request at this place, from 0, has a digest that is refused.

        Raises:
            Quarantined: it is.
        """
        if self.watch is None or not self.watch.suspects.is_refused(digest):
            return
        if digest not in self._told:
            self._told.add(digest)
            logger.error("request %s is refused: it was in the engine when processes ended uncleanly", digest.hex())
        raise Quarantined(place)


class QuarantineDoor:
    """Knows the requests of one version of one model. Belongs to the event loop's thread."""

    def __init__(self, quarantine: Quarantine | None = None, fingerprint: Fingerprint | None = None) -> None:
        self._quarantine, self._fingerprint = quarantine, fingerprint

    def marked(self, requests: Sequence[Queued]) -> Sequence[Queued]:
        """The requests of one call with their digests, where there is a journal.

        Raises:
            Quarantined: one of them is refused, and so all are.
        """
        if self._quarantine is None or self._fingerprint is None:
            return requests
        marked = [replace(request, digest=self._fingerprint.of(request)) for request in requests]
        for place, request in enumerate(marked):
            self._quarantine.refuse(request.digest, place)
        return marked


@contextlib.contextmanager
def open_quarantine(path: Path | None) -> Iterator[Quarantine]:
    """With a journal at this path, or without one. What is in the engine when the block is left without ``close`` was
    there at an unclean end.

    Raises:
        StartupError: as ``open_journal``.
    """
    if path is None:
        yield Quarantine()
        return
    with open_journal(path) as journal:
        yield Quarantine(journal)
