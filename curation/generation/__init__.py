"""Images made from captions by a diffusers pipeline, written as shards."""
