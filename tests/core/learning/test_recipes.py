"""Notes on recipes and learning rates that are for another kind of base."""

from __future__ import annotations

import pytest

from siamese_core.architecture import SD15
from siamese_core.learning.recipes import Recipe, recipe_notes
from tests.support.small_models import ARCHITECTURE

BETTER = "suits this base better"


@pytest.mark.parametrize(
    ("recipe", "rate", "small", "trained", "notes"),
    [
        ("small base", 6e-4, True, False, []),
        ("small base", 1e-5, True, False, [f"a learning_rate near 0.0006 {BETTER}"]),
        ("paper", 1e-4, True, False, [f"recipe 'small base' with learning_rate 0.0006 {BETTER}"]),
        ("paper", 1e-4, True, True, []),
        ("small base", 1e-4, True, True, []),
        ("paper", 6e-4, True, True, [f"a learning_rate near 0.0001 {BETTER}"]),
        ("paper", 1e-5, False, False, []),
        ("paper", 1e-5, False, True, []),
        ("paper", 6e-4, False, False, [f"a learning_rate near 1e-05 {BETTER}"]),
        ("small base", 6e-4, False, False, [f"recipe 'paper' with learning_rate 1e-05 {BETTER}"]),
    ],
)
def test_a_recipe_or_rate_for_another_kind_of_base_is_noted(
    recipe: Recipe, rate: float, small: bool, trained: bool, notes: list[str]
) -> None:
    architecture = ARCHITECTURE if small else SD15
    assert recipe_notes(recipe, rate, architecture, is_trained=trained) == notes
