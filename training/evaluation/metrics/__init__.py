"""Metrics of synthetic images: features, distances between sets, paired scores, memorisation, adherence."""
