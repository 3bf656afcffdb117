"""Training inside the host, with the host's own network classes."""
