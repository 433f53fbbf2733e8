"""The geometry of models: views, distances, neighbours, lineage, trees, prediction, subsets, trajectories.

Everything here is a function of rows that are already there; no model runs. `llreg.registry.Registry` has the
same verbs for the rows of a registry; the functions here take arrays.
"""

from __future__ import annotations

from llreg.geometry.kl.distance import kl_matrix

__all__ = ["kl_matrix"]
