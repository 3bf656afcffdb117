"""Phantoms of polyps: drawn pairs that need no download and no patient."""
