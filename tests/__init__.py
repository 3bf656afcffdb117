"""The tests. A package, as an installed one may have the same name."""
