"""Masks: their files, random transforms of them, and their connected components."""
