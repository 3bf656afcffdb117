"""Confidence intervals over images, runs and raters."""
