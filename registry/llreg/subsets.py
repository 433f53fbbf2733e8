"""Samples of the text set that a row may be scored on: ``subsets/<id>.json``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llreg.geometry.design import Design
    from llreg.registry import Registry
    from llreg_schemas import RowRecord


def read_designs(registry: Registry, records: Sequence[RowRecord]) -> list[Design | None]:
    """The design of each row; None for a row scored on the whole set."""
    return [None for _ in records]
