"""What can be said of a row that comes from outside: `measure` compares it with the registry's rows, `rules` judges it."""
