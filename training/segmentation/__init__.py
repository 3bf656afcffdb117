"""Segmentation networks, and how training sets are compared by the networks they train."""
