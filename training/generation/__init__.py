"""Generating pairs with a trained model."""
