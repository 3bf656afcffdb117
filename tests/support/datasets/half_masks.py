"""A mask whose left half is foreground."""

from __future__ import annotations

import numpy as np

SHAPE = (10, 12)
LEFT = np.zeros(SHAPE, bool)
LEFT[:, :5] = True
