"""Generating a dataset with one or many workers, with resume."""
