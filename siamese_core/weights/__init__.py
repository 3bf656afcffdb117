"""Files of weights: reading, writing and naming what is in them, whoever wrote them."""
