"""The pipeline's stages: one thin module each, run as ``python -m stages.NAME``."""
