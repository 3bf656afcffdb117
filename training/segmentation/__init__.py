"""Comparing training sets by the segmentation networks trained on them."""
