"""What a map, a tree or two models' texts are drawn as: pages, figures, tables."""
