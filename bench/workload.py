"""The work that every system is given: seeded sources and forced lengths, or sentences whose answers end themselves."""

import argparse
import random
from dataclasses import dataclass

SOURCE_TOKENS = 20  # as the encoder sees them: the end token is the last of them
NEW_TOKENS = 24
SIZES = (1, 8, 16, 64)
THREADS = 2

VOCABULARY = 32_000
EOS_ID, UNK_ID, PAD_ID = 0, 1, VOCABULARY - 1  # as in the Marian vocabularies of OPUS-MT; decoding starts from pad
SEED = 2017


@dataclass(frozen=True)
class Task:
    """How a model's sources end and how long its answers are. ``least`` and ``most`` count new tokens."""

    name: str
    eos_id: int
    pad_id: int
    least: int
    most: int

    @property
    def natural(self) -> bool:
        """Whether answers end by themselves."""
        return self.least < self.most

    def complete(self, content: list[int]) -> list[int]:
        """A source as the encoder sees it."""
        return [*content, self.eos_id]

    def content(self, generated: list[int]) -> list[int]:
        """New tokens without the end token and what is behind it. Where lengths are forced there is none."""
        return generated[: generated.index(self.eos_id)] if self.eos_id in generated else generated


RANDOM = Task("random", EOS_ID, PAD_ID, NEW_TOKENS, NEW_TOKENS)
DEMO = Task("demo", 1, 0, 0, 100)  # ids of demo/en-de; its longest answer to test_2016 has under 60 tokens
TASKS = {task.name: task for task in (RANDOM, DEMO)}


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
    task: Task

    @classmethod
    def read(cls) -> "Job":
        """The worker's command line."""
        parser = argparse.ArgumentParser()
        parser.add_argument("subject")
        parser.add_argument("--precision", default="float32")
        parser.add_argument("--beam-size", type=int, default=1)
        parser.add_argument("--task", choices=sorted(TASKS), default=RANDOM.name)
        given = parser.parse_args()
        return cls(given.subject, given.precision, given.beam_size, TASKS[given.task])


def contents(count: int) -> list[list[int]]:
    """Content ids of ``count`` sources, without the end token. The first n are the same for every ``count``."""
    generator = random.Random(SEED)
    return [[generator.randrange(UNK_ID + 1, PAD_ID) for _ in range(SOURCE_TOKENS - 1)] for _ in range(count)]


def complete(content: list[int]) -> list[int]:
    """A source of the random model as the encoder sees it."""
    return RANDOM.complete(content)
