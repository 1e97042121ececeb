"""Judges: networks that measure which pose, actor and place a picture of the world shows."""
