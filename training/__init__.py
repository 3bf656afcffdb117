"""Headless commands: ``python -m training`` lists them, and ``--help`` shows each one's manual."""

import os

# On a busy CPU, OpenMP threads that spin while they wait for each other cost seconds per step. Must be set
# before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
