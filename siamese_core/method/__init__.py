"""The method: hint blocks, noise schedule, training objective and DDIM, on tensors alone."""
