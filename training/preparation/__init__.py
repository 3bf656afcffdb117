"""Reading published datasets, splitting, statistics and near-duplicates."""
