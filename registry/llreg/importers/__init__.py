"""Rows that others have computed, from the files they come in (docs/format.md, "Imported rows").

- `modelmap`, `lmeval`: the authors' published matrices, and samples of lm-evaluation-harness.
- `formats`: tables of values; it lists their readers, one module a format (`npz`, `csvfile`, `parquet`).
- `measurement`, `rows`: what all of them hand over, and how it is checked and written.
- `unpickle`: reads a pickle without running it.
"""
