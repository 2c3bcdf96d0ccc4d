"""The work that every system is given: seeded sources of one length, and a fixed number of new tokens."""

import random

SOURCE_TOKENS = 20  # as the encoder sees them: the end token is the last of them
NEW_TOKENS = 24
SIZES = (1, 8, 64)
THREADS = 2

VOCABULARY = 32_000
EOS_ID, UNK_ID, PAD_ID = 0, 1, VOCABULARY - 1  # as in the Marian vocabularies of OPUS-MT; decoding starts from pad
SEED = 2017


def contents(count: int) -> list[list[int]]:
    """Content ids of ``count`` sources, without the end token. The first n are the same for every ``count``."""
    generator = random.Random(SEED)
    return [[generator.randrange(UNK_ID + 1, PAD_ID) for _ in range(SOURCE_TOKENS - 1)] for _ in range(count)]


def complete(content: list[int]) -> list[int]:
    """A source as the encoder sees it."""
    return [*content, EOS_ID]
