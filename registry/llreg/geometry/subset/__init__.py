"""Samples of the texts that tell models apart."""
