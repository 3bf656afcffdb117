"""Training a small base from scratch: where its networks start, its steps, and the critics of its VAE."""
