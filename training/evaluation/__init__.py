"""Evaluating synthetic images against real ones: measuring, cases and reports."""
