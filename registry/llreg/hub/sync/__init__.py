"""Pulling from the Hub and pushing to it."""
