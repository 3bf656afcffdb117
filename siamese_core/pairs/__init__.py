"""Pairs of image and mask: finding, reading, writing, listing and exporting them."""
