"""The fast training operations against the plain ones of PyTorch."""

import pytest
import torch
from torch.nn import functional

from fast import ByteDropout, smoothed_loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradients_equal_cross_entropy(smoothing: float) -> None:
    torch.manual_seed(0)
    states = torch.randn(700, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(99, 16, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 99, (700,))
    parameters = (states, weight)
    fast = smoothed_loss(states, weight, targets, smoothing)
    plain = functional.cross_entropy(states @ weight.T, targets, label_smoothing=smoothing)
    torch.testing.assert_close(fast, plain)
    torch.testing.assert_close(torch.autograd.grad(fast, parameters), torch.autograd.grad(plain, parameters))


def test_dropout_keeps_the_expectation_and_is_off_when_evaluating() -> None:
    torch.manual_seed(0)
    dropout, ones = ByteDropout(0.3), torch.ones(1001, 999)
    dropped = dropout(ones)
    assert dropped.mean().item() == pytest.approx(1.0, abs=5e-3)
    assert (dropped == 0).float().mean().item() == pytest.approx(77 / 256, abs=5e-3)
    assert dropout.eval()(ones) is ones
