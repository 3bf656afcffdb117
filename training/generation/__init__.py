"""Painting pairs with a trained model."""
