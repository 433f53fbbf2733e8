"""KL divergences between models, estimated from their log-likelihoods.

- ``rows``: rows as a view shows them; ``stream``: the same, a block at a time.
- ``distance``: `kl_matrix`, and the same for rows; ``variance``: its moments, standard error and tail share.
- ``patterns``: which texts a pair shares, and with which weights; ``noise``: what arithmetic alone may show.
- ``pairs``: the table of `llreg dist`; ``matrix``: all pairs, on disk.
- ``contrast``: in which subsets and texts two rows differ; ``spans``: in which parts of the texts.
- ``points``: squared distances for methods that see rows as points.
"""
