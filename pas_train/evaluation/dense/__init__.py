"""Protocols that judge a backbone on classes of pixels and on boxes."""
