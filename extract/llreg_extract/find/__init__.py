"""From a name to a pinned model: found, described and hashed; nothing is loaded."""
