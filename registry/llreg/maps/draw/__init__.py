"""What a map or a tree is drawn as: pages, figures, tables."""
