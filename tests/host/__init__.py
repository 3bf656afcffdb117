"""Tests inside a real ComfyUI, driven over its HTTP API as its browser page drives it.

A package, unlike the folder above: its ``conftest`` must not take that name from the one there.
"""
