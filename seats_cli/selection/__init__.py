"""Selection methods as pure tensor functions: embeddings and attention in, keep masks out."""
