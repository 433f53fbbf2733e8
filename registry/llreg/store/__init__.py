"""What a registry is on disk: rows, their build, documents, versions."""
