"""Faster ways to the same values, and the check that they are the same."""
