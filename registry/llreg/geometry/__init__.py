"""The geometry of models: everything here is a function of rows that are stored; no model runs.

- ``view``: through which clip threshold, texts and weights rows are compared.
- ``kl``: KL divergences of pairs, with standard errors, noise floors and verdicts; near, by subset, as a matrix on disk.
- ``neighbors``, ``lineage``, ``families``: which rows are near, which are related, and what their records say of it.
- ``trajectory``: checkpoints or sizes of a family as a path.
- ``tree``: clustering and neighbour joining, with bootstrap support.
- ``predict``: benchmark scores from rows, and a screen for rows that have seen the texts.
- ``subset``: samples of the texts that new models may be scored on.

`llreg.registry.Registry` has the same verbs for the rows of a registry; most functions here take `Contents`, or arrays.
"""

from __future__ import annotations

from llreg.geometry.kl.distance import kl_matrix

__all__ = ["kl_matrix"]
