"""The autoencoder, its objective, its training and its files."""
