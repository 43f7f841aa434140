"""The parts of the convolutional networks."""

from __future__ import annotations

import torch

from disttrain.models.layers import ReadOut


def test_pixels_that_are_equal_to_float_rounding_share_the_gradient() -> None:
    """Otherwise the rounding decides who gets it, and with it the number of workers decides the training."""
    torch.manual_seed(0)
    read_out = ReadOut(4, 2, dropout=0.0).double()
    features = torch.randn(1, 4, 3, 3, dtype=torch.float64)
    features[:, :, 1, 1] = features[:, :, 2, 0] = 3.0
    gradients: list[torch.Tensor] = []
    for difference in (1e-7, -1e-7):
        inputs = features.clone()
        inputs[:, :, 1, 1] += difference
        inputs.requires_grad_()
        read_out(inputs)[0, 0].backward()
        assert inputs.grad is not None
        gradients.append(inputs.grad)
    plus, minus = gradients
    assert torch.allclose(plus, minus, rtol=0, atol=1e-6 * float(plus.norm()))


def test_the_largest_pixel_counts_more_than_the_mean() -> None:
    torch.manual_seed(0)
    read_out = ReadOut(1, 1, dropout=0.0)
    torch.nn.init.zeros_(read_out.scores.bias)
    read_out.scores.weight.data = torch.tensor([[0.0, 1.0]])  # of mean and maximum
    even, peaked = torch.linspace(-1, 1, 25), torch.full((25,), -0.2)
    peaked[7] = 4.8
    scores = read_out(torch.stack([even, peaked]).reshape(2, 1, 5, 5))[:, 0]
    assert scores[1] > 2 * scores[0]
