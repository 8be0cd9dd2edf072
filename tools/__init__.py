"""What keeps the project in order, run as ``python -m tools.NAME``; no stage needs it."""
