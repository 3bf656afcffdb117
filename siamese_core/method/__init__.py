"""The method: hint blocks, noise schedule, training objective and DDIM, written on plain tensors."""
