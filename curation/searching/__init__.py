"""Where images of the web are found: tables with embeddings, ready indexes, services."""
