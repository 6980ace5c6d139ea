"""Fetching images of the web with img2dataset, in a process and an environment of its own."""
