"""What everything rests on: errors, paths, files, the machine, processes, randomness."""
