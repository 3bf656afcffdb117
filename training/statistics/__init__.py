"""Intervals of means and of other statistics, over images and over runs."""
