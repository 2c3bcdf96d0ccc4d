"""``generate`` of transformers as workers call it: of its own models, and of Optimum's, which have the same method."""

from collections.abc import Callable
from typing import Any

import torch

from worker import Sources
from workload import Job


def translating(model: Any, job: Job) -> Callable[[Sources], Sources]:
    """A closed batch at a time, padded on the right."""
    task = job.task
    # Where answers end by themselves nothing is said of a least length, which would cost a processor of logits.
    lengths = {"max_new_tokens": task.most} | ({} if task.natural else {"min_new_tokens": task.least})

    @torch.inference_mode()
    def translate(sources: Sources) -> Sources:
        complete = [task.complete(source) for source in sources]
        longest = max(map(len, complete))
        ids = torch.tensor([[*row, *[task.pad_id] * (longest - len(row))] for row in complete])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in complete])
        outputs = model.generate(
            input_ids=ids, attention_mask=mask, num_beams=job.beam_size, do_sample=False, **lengths
        )
        # The first column is the decoder's start token.
        return [task.content(row[1:]) for row in outputs.tolist()]

    return translate
