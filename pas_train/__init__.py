"""Precision at Scale: training, evaluation, tracking and the command line."""
