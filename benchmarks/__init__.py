"""Measurements: ``python -m benchmarks.<name>``. Ratios are of medians of alternating runs in one process."""
