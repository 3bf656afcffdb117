"""Training inside the host: its own networks behind the method's objective, and the node."""
