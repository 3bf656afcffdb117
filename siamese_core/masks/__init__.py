"""Masks: reading files, random transforms, resizing and connected components."""
