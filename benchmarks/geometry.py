"""Distances, neighbours, maps and trees beside the tools that people would use instead, in one run.

    python benchmarks/geometry.py                        # 1,018 models x 10,000 texts
    python benchmarks/geometry.py --models 20000         # neighbours, KL matrix to disk, map
    python benchmarks/geometry.py --models 100000 --skip-matrix

Rivals compute the same thing where they can: SciPy's pdist and scikit-learn's pairwise_distances and TSNE on centred
rows, and the authors' way (METHOD: squared distances of double-centred rows by one float64 product, then TSNE). The bare
matrix product is the floor. Prints a Markdown table; each figure is the median of the rounds, run alternately.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _measure import machine, peak_memory
from _synthetic import make_big_registry

import llreg
from llreg.geometry.view import clip_at, double_centred

if TYPE_CHECKING:
    from numpy.typing import NDArray

Timed = tuple[str, str, Callable[[], Any]]
