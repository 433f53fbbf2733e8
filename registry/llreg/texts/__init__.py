"""Text sets from recipes: where the texts come from, how they are cut and sampled, and what must come out.

`recipe` is the document, `source` streams documents, `pieces` cuts them, `sampling` draws, `builder` puts it together,
`partial` keeps an unfinished build, `builtfile` is what is written, `restoring` brings the texts back to a registry that
must not publish them. Only the builder's side loads pyarrow or datasets.
"""
