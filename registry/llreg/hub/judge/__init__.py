"""What can be said of a row that comes from outside: measured, and judged."""
