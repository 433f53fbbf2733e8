"""Text sets: the fixed texts that rows are computed on, and how they are made and sampled.

A text set comes from the user's own file or from a recipe (docs/texts.md):

- `items`: a text or a (prompt, response) pair as a file's line or row holds it.
- `textset`: N items in a fixed order, with sizes, hashes and subsets; reading and writing their files.
- `recipe`: the document that says how a text set is made, and the presets.
- `sources`, `localfiles`: the documents that a recipe names, from a data set or from files.
- `build`: goes through the documents, cuts and draws; a stopped build goes on.
- `sampling`, `design`: random subsets of a text set, for rows that are scored on some texts only.

pyarrow and datasets are loaded only when a file or a data set is read.
"""
