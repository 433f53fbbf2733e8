"""Registries on the Hub: reading them there, pulling, pushing, reviewing pull requests."""
