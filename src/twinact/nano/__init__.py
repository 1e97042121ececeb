"""The embedded model: a small Stable Diffusion trained on the procedural world."""
