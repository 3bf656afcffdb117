"""How near synthetic images are to real ones: the cases shown and the report."""
