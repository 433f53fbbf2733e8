"""The client of the Hub: one repository, its errors as sentences, and Markdown for its pages."""
