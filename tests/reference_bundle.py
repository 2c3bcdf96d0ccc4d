"""A bundle that is the PyTorch model itself, for tests of the proof and the pipeline without graphs or runtime."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from seqserve_export import reference
from seqserve_export.model import Transformer


class ReferenceBundle:
    """Agrees with the model in every bit; tests derive from it and break one thing."""

    def __init__(self, model: Transformer) -> None:
        self.model = model
        self.closed = False

    def __enter__(self) -> "ReferenceBundle":
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def encoder_states(self, source_ids: Sequence[int], /) -> NDArray[np.float32]:
        return reference.encoder_states(self.model, [source_ids])[0]

    def step_logits(
        self, source_ids: Sequence[int], target_ids: Sequence[int], prompt: Sequence[int], last: int | None = None, /
    ) -> NDArray[np.float32]:
        return reference.step_logits(self.model, [source_ids], [target_ids], [prompt], last)[0]

    def generate(
        self, sources: Sequence[Sequence[int]], prompts: Sequence[Sequence[int]], /, *,
        max_new_tokens: int | None = None, min_new_tokens: int | None = None, arrivals: Sequence[int] | None = None,
    ) -> list[reference.Decoded]:
        limit = self.model.config.max_target_length if max_new_tokens is None else max_new_tokens
        return [
            reference.greedy(self.model, [source], limit, min_new_tokens or 0, prompts=[prompt])[0]
            for source, prompt in zip(sources, prompts, strict=True)
        ]

    @property
    def can_score(self) -> bool:
        return True

    def score_targets(
        self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], prompts: Sequence[Sequence[int]], /
    ) -> list[NDArray[np.float32]]:
        found = []
        for source, target, prompt in zip(sources, targets, prompts, strict=True):
            logits = torch.from_numpy(reference.step_logits(self.model, [source], [target], [prompt])[0])
            own = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(target)[:, None])
            found.append(own[:, 0].numpy())
        return found

    def text(self, token_ids: Sequence[int], /) -> str:
        return " ".join(map(str, token_ids))


def opener(bundle: ReferenceBundle) -> "Callable[..., ReferenceBundle]":
    """What the pipeline opens bundles with."""
    def open_bundle(directory: Path, /, *, verify: bool, scorer: bool) -> ReferenceBundle:
        assert directory.is_dir()
        assert not verify, "there is no manifest before the proof"
        return bundle

    return open_bundle
