"""The work that every system is given: seeded sources of one length, and a fixed number of new tokens."""

import argparse
import random
from dataclasses import dataclass

SOURCE_TOKENS = 20  # as the encoder sees them: the end token is the last of them
NEW_TOKENS = 24
SIZES = (1, 8, 64)
THREADS = 2

VOCABULARY = 32_000
EOS_ID, UNK_ID, PAD_ID = 0, 1, VOCABULARY - 1  # as in the Marian vocabularies of OPUS-MT; decoding starts from pad
SEED = 2017


@dataclass(frozen=True)
class Job:
    """What a worker is told on its command line.

    Attributes:
        subject: The model's directory, or a server's address.
        precision: "float32", "int8" or "bfloat16".
        beam_size: 1 is greedy.
    """

    subject: str
    precision: str
    beam_size: int

    @classmethod
    def read(cls) -> "Job":
        """The worker's command line."""
        parser = argparse.ArgumentParser()
        parser.add_argument("subject")
        parser.add_argument("--precision", default="float32")
        parser.add_argument("--beam-size", type=int, default=1)
        given = parser.parse_args()
        return cls(given.subject, given.precision, given.beam_size)


def contents(count: int) -> list[list[int]]:
    """Content ids of ``count`` sources, without the end token. The first n are the same for every ``count``."""
    generator = random.Random(SEED)
    return [[generator.randrange(UNK_ID + 1, PAD_ID) for _ in range(SOURCE_TOKENS - 1)] for _ in range(count)]


def complete(content: list[int]) -> list[int]:
    """A source as the encoder sees it."""
    return [*content, EOS_ID]
