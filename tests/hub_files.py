"""Directories of Hugging Face classes as transformers saved them, with what it computed: tests/data/hub."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoint_edits import load
from seqserve.framing import Frame
from seqserve_export import reference
from seqserve_export.description import describe
from seqserve_export.families import LoadedCheckpoint
from seqserve_server.tokenizer import Tokenizer

GOLDEN = Path(__file__).parent / "data" / "hub"  # bench/peers/hub_parity.py --write
NAMES = ("bart", "pegasus", "mbart", "mbart50", "m2m100", "nllb", "nllb-legacy")


@dataclass(frozen=True)
class Case:
    """One pair of languages: complete sources and whole decoder rows as transformers has them, and its texts."""

    source_language: str | None
    target_language: str | None
    sources: list[list[int]]
    rows: list[list[int]]
    answers: list[str]


@dataclass(frozen=True)
class Golden:
    """One directory, loaded."""

    checkpoint: LoadedCheckpoint
    expected: dict[str, Any]

    @classmethod
    def read(cls, name: str) -> "Golden":
        return cls(load(GOLDEN / name), json.loads((GOLDEN / name / "expected.json").read_text()))

    @property
    def cases(self) -> Iterator[Case]:
        return (Case(**case) for case in self.expected["cases"])

    def frame(self, case: Case) -> Frame:
        framing = describe(self.checkpoint, "golden", "fp32").framing
        return framing.frame(case.source_language, case.target_language)

    def whole_row(self, frame: Frame, token_ids: list[int], finish_reason: str) -> list[int]:
        """What ``generate`` returns of an answer: the prompt in front, the end token behind where there is one."""
        ended = finish_reason == "eos" or self.checkpoint.forced_end
        return [*frame.prompt, *token_ids, *([self.checkpoint.model.config.eos_id] if ended else [])]

    def decode(self, case: Case) -> list[list[int]]:
        """Whole rows of every source of a case, by the canonical model."""
        checkpoint, frame = self.checkpoint, self.frame(case)
        decoded = reference.greedy(
            checkpoint.model, case.sources, checkpoint.default_max_new_tokens, checkpoint.default_min_new_tokens,
            prompts=[frame.prompt] * len(case.sources), forced_end=checkpoint.forced_end,
        )
        return [self.whole_row(frame, result.token_ids, result.finish_reason) for result in decoded]

    def tokenizer(self, directory: Path) -> Tokenizer:
        """As a bundle in this directory has it."""
        assert self.checkpoint.tokenizer is not None
        self.checkpoint.tokenizer.write(directory)
        opened = Tokenizer.open(directory, describe(self.checkpoint, "golden", "fp32"))
        assert opened is not None
        return opened


def copy(name: str, directory: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(GOLDEN / name, directory / name)
