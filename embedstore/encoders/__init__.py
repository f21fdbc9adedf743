"""Encoders: pictures to latents and back. One module per kind; `embedstore.registry` says which is where."""
