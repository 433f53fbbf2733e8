"""The files of models: which ones count, what they say, and fetching them from the Hub."""
