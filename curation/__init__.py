"""The road from two strings to a curated data set: stages, scores, selection, report."""
