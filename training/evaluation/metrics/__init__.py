"""How near synthetic images are to real ones: features, distances between sets, paired scores, copies."""
