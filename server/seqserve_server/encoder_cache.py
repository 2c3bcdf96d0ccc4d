"""What the encoder made of sources that came before. One engine's own, and so of one version of one model.

Keyed by the complete ids themselves, which a dictionary compares after their hashes: no two sources are ever taken for
one another. Results are those of any batch, bit for bit, so that an answer does not tell whether they were kept.
"""

from collections import OrderedDict
from collections.abc import Mapping

from seqserve_server.state_buffers import Array

Ids = tuple[int, ...]
Encoded = Mapping[str, Array]  # by state, [count, *shape] of one source


class EncoderCache:
    """The results of latest use, as many as fit.

    Attributes:
        hits, misses: Sources that were found, and that were not.
        bytes_used: Of the results; keys count for little beside them.
    """

    def __init__(self, most_bytes: int) -> None:
        """Keep at most so many bytes; 0 keeps nothing."""
        self._most = most_bytes
        self._kept: OrderedDict[Ids, Encoded] = OrderedDict()
        self.hits = self.misses = self.bytes_used = 0

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, source: Ids) -> Encoded | None:
        """What was kept of a source, which is then the last to go."""
        found = self._kept.get(source)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(source)
        return found

    def keep(self, source: Ids, encoded: Encoded) -> None:
        """Keep copies of a result, unless it alone is over the bound; the longest unused make room."""
        size = sum(array.nbytes for array in encoded.values())
        if size > self._most or source in self._kept:
            return
        self.bytes_used += size
        while self.bytes_used > self._most:
            _, gone = self._kept.popitem(last=False)
            self.bytes_used -= sum(array.nbytes for array in gone.values())
        self._kept[source] = {name: array.copy() for name, array in encoded.items()}
