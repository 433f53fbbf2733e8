"""The client of the Hub: one dataset repository, and Markdown for its pages."""
