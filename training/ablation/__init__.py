"""Variants of the generative model trained on equal budgets: their plan, their updates and their summary."""
