"""Training a small base from scratch: initialisation, training steps, and the VAE's perceptual critics."""
