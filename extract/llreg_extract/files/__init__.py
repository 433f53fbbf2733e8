"""The files of models: on the Hub, on disk, and what they say."""
