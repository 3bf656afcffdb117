"""The ComfyUI nodes, thin wrappers around siamese_core, one per file. Only this package imports the host."""
