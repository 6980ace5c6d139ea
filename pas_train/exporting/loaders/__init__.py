"""Scripts that an exported folder carries as `load.py`: how its library loads it. They import nothing of ours."""
