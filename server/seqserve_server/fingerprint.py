"""By what a crash journal knows a request: a digest of what native code sees of it.

There is no text in it; but whoever has the journal, and with it the salt, can find out whether a guess is right.
"""

import hashlib
from array import array
from collections.abc import Sequence

from seqserve import __version__
from seqserve_server.request import Request, ScoreRequest

DIGEST_BYTES = 16


class Fingerprint:
    """Of the requests of one version of one model; another version, and another release of this server, has others.

    What counts is the kind of request, its ids, how many rows it may hold and for how many tokens: operators are run
    over this. Seeds, penalties and bans are applied to what they return; they, deadlines, priorities, tenants and
    whether it is a stream may differ from one attempt to the next, and would hide that it is the same request.

    Args:
        salt: Random bytes of the journal, so that digests of two journals cannot be compared.
    """

    def __init__(self, salt: bytes, model: str, version: str) -> None:
        names = "\0".join((model, version, __version__)).encode()
        self._base = hashlib.sha256(salt + len(names).to_bytes(4, "little") + names)

    def of(self, request: Request | ScoreRequest) -> bytes:
        """``DIGEST_BYTES`` of SHA-256."""
        digest = self._base.copy()
        if isinstance(request, Request):
            search = request.search
            digest.update(_numbers((0, search.rows, search.max_new_tokens, len(request.prompt))))
            digest.update(_numbers(request.prompt))
            digest.update(_numbers(request.source))
        else:
            pair, heads = request.pair, request.pair.heads
            layer, head = (-1, None) if heads is None else (heads.layer, heads.head)
            digest.update(_numbers((1, pair.prompt, layer, -1 if head is None else head, len(pair.target))))
            digest.update(_numbers(pair.target))
            digest.update(_numbers(pair.source))
        return digest.digest()[:DIGEST_BYTES]


def _numbers(values: Sequence[int]) -> bytes:
    return array("q", values).tobytes()
