"""A registry on the Hub, read without a pull."""
