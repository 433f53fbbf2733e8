"""From texts to log-likelihoods."""
