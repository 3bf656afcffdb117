"""Datasets as they are published, split, checked and counted."""
