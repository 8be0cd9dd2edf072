"""Data sets: the container, where they come from, and how images are read."""
