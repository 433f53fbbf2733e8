"""From a pinned model to one that is ready for scoring: device, weights, adapter, self-check."""
