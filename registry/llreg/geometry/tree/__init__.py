"""Trees of rows by their KL divergences."""
