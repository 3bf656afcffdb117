"""Weights of networks that others trained: found, fetched and read without unpickling."""
