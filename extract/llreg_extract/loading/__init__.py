"""Loading a pinned model."""
