"""Trees of models: ``make`` grows them from distances, ``tree`` holds them."""
