"""Verifying rows: a sample of texts scored again, and compared."""
