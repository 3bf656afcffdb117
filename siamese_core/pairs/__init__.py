"""Pairs of image and mask: finding, checking, reading, writing, listing and exporting them."""
