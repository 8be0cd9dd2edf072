"""Diluted sets: which image shows which label."""
