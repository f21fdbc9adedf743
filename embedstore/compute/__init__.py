"""Computing in a store's latent space: what is asked of `embedstore.latent` with the store's own items."""
