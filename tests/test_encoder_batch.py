"""How sources lie in an encoder batch."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seqserve_server.encoder_batch import pack


def test_two_sources_by_hand() -> None:
    batch = pack([[7, 8, 9], [5]], multiple=4)
    assert batch.tokens.tolist() == [7, 8, 9, 5]
    assert batch.positions.tolist() == [0, 1, 2, 0]
    assert batch.lengths.tolist() == [3, 1]
    assert batch.pad_index.tolist() == [[0, 1, 2, 0], [3, 0, 0, 0]]
    assert batch.pack_index.tolist() == [0, 1, 2, 4]
    assert batch.starts == [0, 3, 4]


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=40), min_size=1, max_size=8))
def test_padding_and_packing_are_inverse(sources: list[list[int]]) -> None:
    batch = pack(sources)
    padded = batch.tokens[batch.pad_index]
    assert padded.shape[1] % 16 == 0
    assert padded.shape[1] - max(map(len, sources)) < 16
    assert (padded.reshape(-1)[batch.pack_index] == batch.tokens).all()
    for row, source in enumerate(sources):
        assert padded[row, : len(source)].tolist() == source
        assert batch.tokens[batch.starts[row] : batch.starts[row + 1]].tolist() == source
        assert batch.positions[batch.starts[row] : batch.starts[row + 1]].tolist() == list(range(len(source)))


def test_types_are_those_of_the_graph() -> None:
    batch = pack([[1]])
    assert {array.dtype for array in (batch.tokens, batch.pad_index, batch.pack_index)} == {np.dtype(np.int64)}
    assert {array.dtype for array in (batch.positions, batch.lengths)} == {np.dtype(np.int32)}
