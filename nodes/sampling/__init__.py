"""Sampling with the host: noise of stochastic samplers, and generation into backgrounds."""
