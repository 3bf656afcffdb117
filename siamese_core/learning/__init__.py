"""Training the networks: the data of a step, the step, and the loop around it."""
