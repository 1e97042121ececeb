"""The procedural world: scenes, bodies, places, captions, and what is held out of training."""
