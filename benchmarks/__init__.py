"""Measurements: ``python -m benchmarks.<name>``. Ratios of medians, of things run in turns in one process."""
