"""KL divergences between rows, with standard errors."""
