"""Mathematics of a latent space, on arrays: NumPy, and SciPy and scikit-learn where they are needed."""
