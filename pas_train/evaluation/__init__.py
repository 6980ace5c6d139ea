"""Protocols that judge a backbone, on labelled data sets."""
