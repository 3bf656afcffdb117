"""The ComfyUI side of the pack: every line that knows the host. One node a file, thin over siamese_core."""
