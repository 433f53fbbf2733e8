"""The rows of a registry as what new rows are compared with: read once, in blocks, through the default view."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from llreg.geometry.kl.distance import kl_judged, kl_plain
from llreg.geometry.kl.noise import noise_floor
from llreg.geometry.kl.rows import Rows, view_rows
from llreg.geometry.neighbors import Neighbor, relation
from llreg.geometry.view.view import view_of
from llreg_schemas import version_id

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.store.contents import Contents
    from llreg_schemas import RowRecord

_BLOCK = 128  # rows at a time: 10 MB of float64 for 10,000 texts, which nearly stays in the cache
_CACHE_BYTES = 1 << 30  # 1 GiB: a registry of up to so much is kept in memory; a larger one is read again each time
_SAMPLE = 128  # rows whose distances to all say how far apart rows are here


@dataclass(frozen=True)
class Distances:
    """From new rows to those of a population.

    Attributes
    ----------
    bits : float64 array of shape (n_new, n_models), bits per byte
        KL divergences; NaN where two rows share too few texts, and of a row to itself.
    kl, floor : float64 arrays of shape (n_new, n_models), nats per text
        KL divergences, and what arithmetic alone puts between two runs of one model.
    num_texts : int64 array of shape (n_new, n_models)
        Texts used.
    """

    bits: NDArray[np.float64]
    kl: NDArray[np.float64]
    floor: NDArray[np.float64]
    num_texts: NDArray[np.int64]


class Population:
    """Rows that others are compared with.

    Parameters
    ----------
    registry : Contents
        All its accepted rows, through its default view.
    digests : collection of str, optional
        Only these of them.
    """

    def __init__(self, registry: Contents, digests: Collection[str] | None = None) -> None:
        self.registry, self.view = registry, view_of(registry)
        self._own = [record for record in registry.records() if digests is None or record.digest in digests]
        self.version = version_id(record.digest for record in self._own)
        self.retractions = registry.retractions()
        self._joined: list[Rows] = []

    @property
    def records(self) -> list[RowRecord]:
        """Records, in the order of the columns of all results."""
        return [*self._own, *(record for rows in self._joined for record in rows.records)]

    @cached_property
    def nats_per_bit(self) -> float:
        """Nats per text in a bit per byte, over the view's texts."""
        index = self.registry.text_index
        texts = self.view.texts(index)
        return float(np.average(index.bytes_per_text[texts], weights=self.view.text_weights(index)) * math.log(2))

    @property
    def num_own(self) -> int:
        """The registry's own rows, without those that joined."""
        return len(self._own)

    def __len__(self) -> int:
        return len(self._own) + sum(map(len, self._joined))

    def shared(self, new: Rows, distances: Distances) -> NDArray[np.int64]:
        """Texts that each new row shares with that of the registry's own rows with which it shares most.

        Rows that joined do not count: two that were made together can share what no other row has.
        """
        digests = np.array([record.digest for record in self._own], dtype=object)
        count = len(digests)
        # A row is not compared with itself: the registry may hold it already.
        comparable = ~np.isnan(distances.bits[:, :count]) & (_digests(new)[:, None] != digests[None, :])
        counts = np.where(comparable, distances.num_texts[:, :count], 0)  # (n_new, n_own)
        return np.asarray(counts.max(axis=1, initial=0))

    def join(self, rows: Rows) -> None:
        """Take more rows in, for later comparisons."""
        self._joined.append(rows)

    def leave(self) -> None:
        """Let go of the rows that joined last."""
        self._joined.pop()

    @cached_property
    def _cached_blocks(self) -> list[Rows] | None:
        """The registry's own rows; None where they are too many for memory."""
        small = 8 * len(self._own) * self.registry.num_texts <= _CACHE_BYTES
        return list(self._read_blocks()) if small else None

    def _read_blocks(self) -> Iterator[Rows]:
        for start in range(0, len(self._own), _BLOCK):
            yield view_rows(self.registry, self._own[start : start + _BLOCK], self.view, self.version)

    def _blocks(self) -> Iterator[Rows]:
        yield from self._read_blocks() if self._cached_blocks is None else self._cached_blocks
        yield from self._joined

    def distances(self, new: Rows) -> Distances:
        """Distances from some rows to all."""
        parts = []
        for block in self._blocks():
            divergences = kl_plain(new, block, se=False, tail_share=False)
            is_same_row = _digests(new)[:, None] == _digests(block)[None, :]  # (n_new, n_block)
            bits, kl = (np.where(is_same_row, np.nan, divergences[name].values) for name in ("kl_bits_per_byte", "kl"))
            parts.append((bits, kl, noise_floor(_noise(new), _noise(block)), divergences["num_texts"].values))
        if not parts:
            empty = np.empty((len(new), 0))
            return Distances(empty, empty, empty, empty.astype(np.int64))
        bits, kl, floor, count = (np.concatenate(columns, axis=1) for columns in zip(*parts, strict=True))
        return Distances(bits, kl, floor, count)

    def neighbors(self, new: Rows, i: int, distances: Distances, positions: Sequence[int]) -> list[Neighbor]:
        """What is known of the i-th new row and the rows at some positions, with standard errors."""
        if not positions:
            return []
        records = self.records
        divergences = kl_judged(new.take([i]), self.some(positions), tail_share=True)
        values = {name: divergences[name].values[0] for name in divergences}  # each (n_positions,)
        # Rank of each row by distance, from 1; NaN sorts last.
        ranks = np.argsort(np.argsort(distances.bits[i], kind="stable"), kind="stable") + 1
        return [
            Neighbor(
                row_id=records[k].row_id,
                model=records[k].identity.name,
                rank=int(ranks[k]),
                kl=float(values["kl_bits_per_byte"][j]),
                kl_se=float(values["kl_bits_per_byte_se"][j]),
                tail_share=float(values["tail_share"][j]),
                num_texts=int(values["num_texts"][j]),
                estimator="fine" if values["fine"][j] else "text",
                relation=relation(new.records[i], records[k]),
                verdict=values["verdict"][j],
                mark=values["mark"][j],
            )
            for j, k in enumerate(positions)
        ]

    def some(self, positions: Sequence[int]) -> Rows:
        """The rows at some positions; of a registry that is not kept in memory, read again."""
        if self._cached_blocks is not None:
            return _gathered([*self._cached_blocks, *self._joined], positions)
        # Only those of the registry's own rows that are asked for are read, which moves the rows that joined.
        count = len(self._own)
        needed = sorted({k for k in positions if k < count})
        blocks = [view_rows(self.registry, [self._own[k] for k in needed], self.view, self.version)] if needed else []
        moved = {k: j for j, k in enumerate(needed)}
        return _gathered([*blocks, *self._joined], [moved.get(k, k - count + len(needed)) for k in positions])

    @cached_property
    def levels(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean bits per byte of each of the registry's own rows, and its spread over texts; as `levels`."""
        parts = [levels(block) for block in self._blocks()]
        if not parts:
            return np.empty(0), np.empty(0)
        means, spreads = (np.concatenate(part)[: len(self._own)] for part in zip(*parts, strict=True))
        return means, spreads

    @cached_property
    def pairs(self) -> NDArray[np.float64]:
        """Distances of a sample of the registry's own rows to all of them, bits per byte, in ascending order."""
        if len(self._own) < 2:
            return np.empty(0)
        sample = np.linspace(0, len(self._own) - 1, min(_SAMPLE, len(self._own))).astype(int)
        bits = self.distances(self.some(sample.tolist())).bits[:, : len(self._own)]  # (n_sample, n_own)
        return np.sort(bits[~np.isnan(bits)])


def levels(rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How well models predict the texts, and how evenly.

    Returns
    -------
    mean, spread : float64 arrays of shape (n_models,), bits per byte
        Mean and standard deviation over the scored texts of minus the log-likelihood in bits a byte, each text counted by
        its bytes and weights; NaN where none was scored.
    """
    weights = np.ones_like(rows.values) if rows.weights is None else np.broadcast_to(rows.weights, rows.values.shape)
    # Of a row that was scored on a sample, each text stands for others, too.
    design_weights = [np.ones(rows.values.shape[1]) if design is None else design.weights for design in rows.designs]
    share = (
        np.where(np.isnan(rows.values), 0.0, weights * np.array(design_weights)) * rows.num_bytes
    )  # (n_models, n_texts)
    total = share.sum(axis=1)  # (n_models,)
    total[total == 0] = np.nan
    # Where a text has no value its share is 0, so any number will do.
    bits = np.nan_to_num(-rows.values / (math.log(2) * rows.num_bytes))
    mean = (bits * share).sum(axis=1) / total
    return mean, np.sqrt(((bits - mean[:, None]) ** 2 * share).sum(axis=1) / total)


def _digests(rows: Rows) -> NDArray[np.object_]:
    return np.array([record.digest for record in rows.records], dtype=object)


def _noise(rows: Rows) -> NDArray[np.float64]:
    return np.zeros(len(rows)) if rows.noise is None else rows.noise


def _gathered(blocks: Sequence[Rows], positions: Sequence[int]) -> Rows:
    """Rows at some positions of blocks laid end to end, as one."""
    # First position of each block, and the end of the last.
    starts = np.cumsum([0, *map(len, blocks)])
    rows = []
    for k in positions:
        block = int(np.searchsorted(starts, k, side="right")) - 1
        rows.append(blocks[block].take([k - int(starts[block])]))
    return replace(
        rows[0],
        records=[row.records[0] for row in rows],
        values=np.concatenate([row.values for row in rows]),
        unclipped=None if rows[0].unclipped is None else np.concatenate([row.raw for row in rows]),
        fine=None if rows[0].fine is None else np.concatenate([row.fine for row in rows if row.fine is not None]),
        designs=[row.designs[0] for row in rows],
        noise=np.concatenate([_noise(row) for row in rows]),
    )
