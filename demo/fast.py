"""Two training operations that PyTorch does slowly on a CPU: dropout, and the loss over a large vocabulary."""

from typing import Any

import torch
from torch import Tensor, nn

ROWS = 512


class ByteDropout(nn.Module):
    """Dropout whose mask takes one random byte per element: eight elements per draw of the generator.

    ``bernoulli_`` draws a number per element on one thread and was a fifth of an update. The rate is rounded to
    n / 256 and the scale follows the rounded rate, so the expectation is exact.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.dropped = round(rate * 256)
        self.scale = 256 / (256 - self.dropped)

    def forward(self, states: Tensor) -> Tensor:
        """Any shape; the identity when evaluating."""
        if not self.training or self.dropped == 0:
            return states
        count = states.numel()
        words = torch.empty((count + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.uint8)[:count].view(states.shape) >= self.dropped
        return states * (kept.to(states.dtype) * self.scale)


def use_byte_dropout(model: nn.Module) -> None:
    """Replace every ``nn.Dropout`` inside ``model``; neither has parameters, so checkpoints do not change."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Dropout):
                setattr(module, name, ByteDropout(child.p))


class SmoothedLoss(torch.autograd.Function):
    """Label-smoothed cross entropy of ``states @ weight.T``, whose logits never exist all at once.

    The gradient of the logits is softmax minus the smoothed target, known as soon as the logits are, so the forward
    pass finishes both gradients block by block while a block is in cache. The uniform part of the smoothed target is
    the same in every row and column; it is taken out of the blocks and added in closed form.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        """Mean loss, a scalar.

        Args:
            ctx: keeps the two gradients.
            states: [tokens, width].
            weight: [vocabulary, width].
            targets: [tokens], ids.
            smoothing: probability mass spread over the whole vocabulary.
        """
        tokens, mean_weight = states.shape[0], weight.mean(0)
        grad_states, grad_weight = torch.empty_like(states), torch.zeros_like(weight)
        total = torch.zeros((), dtype=torch.float64)
        for first in range(0, tokens, ROWS):
            block, column = states[first : first + ROWS], targets[first : first + ROWS, None]
            logits = block @ weight.T
            chosen = logits.gather(1, column)
            probabilities = torch.softmax(logits, 1, out=logits)
            # The clamp only bounds the reported loss: a target of probability zero still gets its whole gradient.
            surprise = -probabilities.gather(1, column).clamp_min(torch.finfo(logits.dtype).tiny).log()
            average = block @ mean_weight
            total += (surprise + smoothing * (chosen - average[:, None])).sum()
            probabilities.scatter_add_(1, column, torch.full_like(chosen, smoothing - 1.0))
            torch.mm(probabilities, weight, out=grad_states[first : first + ROWS])
            grad_weight.addmm_(probabilities.T, block)
        grad_states.sub_(mean_weight * smoothing).div_(tokens)
        grad_weight.sub_(states.sum(0) * (smoothing / weight.shape[0])).div_(tokens)
        ctx.save_for_backward(grad_states, grad_weight)
        return (total / tokens).to(states.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Scale the gradients that forward computed."""
        grad_states, grad_weight = ctx.saved_tensors
        return grad_states * grads[0], grad_weight * grads[0], None, None


def smoothed_loss(states: Tensor, weight: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Typed entry of ``SmoothedLoss``; same arguments."""
    loss: Tensor = SmoothedLoss.apply(states, weight, targets, smoothing)  # type: ignore[no-untyped-call]
    return loss
