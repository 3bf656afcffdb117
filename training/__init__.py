"""Headless commands: ``python -m training`` lists them, and each has a manual behind ``--help``."""

import os

# On a CPU that anything else is using too, OpenMP threads that spin while they wait for each other cost
# seconds per step. Must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
