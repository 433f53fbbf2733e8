"""Rows that others have computed, from the files they come in."""
