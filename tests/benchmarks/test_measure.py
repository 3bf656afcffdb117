"""What the benchmarks measure with."""

from __future__ import annotations

import pytest
import torch

from benchmarks.measure import count_flops
from benchmarks.training_step import rate_figures


def test_operations_of_convolutions_and_of_products_are_counted_apart() -> None:
    pixels, kernel = torch.zeros(2, 3, 8, 8), torch.zeros(5, 3, 3, 3)
    matrix, heads = torch.zeros(7, 7), torch.zeros(1, 2, 4, 8)

    _, flops = count_flops(lambda: (torch.conv2d(pixels, kernel, padding=1), matrix @ matrix))
    assert flops == {"convolution": 2 * (2 * 5 * 8 * 8) * (3 * 9), "product": 2 * 7**3}

    _, flops = count_flops(lambda: torch.nn.functional.scaled_dot_product_attention(heads, heads, heads))
    assert flops == {"convolution": 0, "product": 2 * 2 * (2 * 4 * 4 * 8)}


def test_shares_are_those_of_the_machines_rates() -> None:
    counts = {"convolution": 100, "product": 100}
    rates = {"convolution": 50.0, "product": 100.0}  # at best 3 s
    found = rate_figures({"plain": 6.0, "augmented": 6.0}, {"plain": counts, "augmented": counts}, rates)

    assert found["flops"] == {"plain": 200, "augmented": 200, "run": pytest.approx(200)}
    assert found["peak_share"] == pytest.approx(200 / 6.0 / 100.0)
    assert found["kinds_share"] == pytest.approx(3.0 / 6.0)
