"""Ablations: the plan, the comparison of parameter updates, and the summary."""
