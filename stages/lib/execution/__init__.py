"""Runs: what decides them, which train together, where, and where outcomes are kept."""
