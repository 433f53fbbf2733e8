"""Reviewing pull requests, and merging the good ones."""
