"""What image data sets hold, side by side: sizes, concepts, embeddings, coverage, prototypes."""
