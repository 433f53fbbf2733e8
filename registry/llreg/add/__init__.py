"""Adding rows: from what the user asks for to a written row."""
