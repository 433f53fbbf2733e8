"""Faster ways to the same values: the head replayed where it is needed, and kernels for CPUs."""
