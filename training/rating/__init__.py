"""Blinded rating studies: the page, the files of a study, its scores and its report."""
