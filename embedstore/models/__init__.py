"""Neural networks, torch only: the autoencoder, its training, its checkpoints."""
