"""What to run in the first minutes on a GPU: is the CUDA path right, how fast is it, figure 1.

docs/GPU.md has the calls. Every step runs in a process of its own, and what it tells is on the disk
at once, so that one that fails, hangs or is killed costs no more than itself.
"""
