"""What turns pictures into latents, and latents back into pictures."""
