"""W&B sweep files, run here without a server."""
