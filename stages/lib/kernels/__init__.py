"""Triton's kernels for stacks on CUDA, and whether they can be used."""
