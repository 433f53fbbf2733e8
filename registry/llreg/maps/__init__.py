"""Maps of models: coordinates in the plane, kept as documents, drawn as pages, figures and tables."""
