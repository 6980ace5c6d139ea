"""Backbones in the formats of other libraries, each verified before it is announced: the command `export`."""
