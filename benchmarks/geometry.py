"""Distances, neighbours, maps and trees beside what people would use instead, in one run.

    python benchmarks/geometry.py                    # 1,018 models x 10,000 texts, with all rivals
    python benchmarks/geometry.py --models 20000     # neighbours, the matrix to disk, a map
    python benchmarks/geometry.py --models 100000 --blocks 20

Prints Markdown. The rivals compute the same numbers where they can: SciPy's pdist and scikit-learn's pairwise_distances
and TSNE on centred rows, and the authors' way, which is squared distances of double-centred rows by one float64 product
(Oyama et al. 2025), then scikit-learn's TSNE. The bare matrix product is the floor of any of them. Rows are synthetic: low
rank and noise, `_synthetic.py`.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _measure import machine, markdown, seconds, show_seconds
from _synthetic import make_registry

import llreg
from llreg.geometry.kl.distance import kl_matrix
from llreg.geometry.kl.matrix import BLOCK, write_kl
from llreg.geometry.view.view import View, double_centred

if TYPE_CHECKING:
    from numpy.typing import NDArray

LIBRARIES = ("numpy", "scipy", "scikit-learn", "openTSNE", "zarr", "dask")
TEXTS = 10_000
CLIP = -1400.0


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", type=int, default=1018)
    parser.add_argument("--rounds", type=int, default=3, help="of which medians are shown")
    parser.add_argument("--registry", type=Path, help="keep the synthetic registry here, and use it if it is there")
    parser.add_argument("--blocks", type=int, help="write only so many blocks of the large matrix")
    parser.add_argument("--dask", action="store_true", help="also through a local Dask cluster")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        path = options.registry or Path(temporary) / "registry"
        registry = llreg.open(path) if (path / "registry.json").exists() else make_registry(path, options.models, TEXTS)
        print(f"{len(registry.records()):,} models x {TEXTS:,} texts. {machine(*LIBRARIES)}.\n")
        if options.models <= 3000:
            small(registry, options.rounds)
        else:
            large(registry, Path(temporary), options.blocks, dask=options.dask)


def small(registry: llreg.Registry, rounds: int) -> None:
    """Everything in memory, beside the rivals."""
    raw = registry.values(registry.records())
    num_bytes = registry.text_index.bytes_per_text
    q = double_centred(np.maximum(raw.astype(np.float64), CLIP))
    print(markdown(["KL of all pairs", "time", "per bare product"], _matrices(raw, q, num_bytes, rounds)), "\n")
    print(
        markdown(
            ["near-duplicates: KL in bits/byte", "float64 differences", "llreg", "the authors' way", "scikit-learn"],
            _accuracy(raw, num_bytes),
        ),
        "\n",
    )
    print(markdown(["map and tree", "time"], _maps(registry, q)))


def _matrices(
    raw: NDArray[np.float32], q: NDArray[np.float64], num_bytes: NDArray[np.float64], rounds: int
) -> list[list[str]]:
    from scipy.spatial.distance import pdist
    from sklearn.metrics import pairwise_distances

    floor = seconds(lambda: q @ q.T, rounds)
    actions: list[tuple[str, Callable[[], Any], int]] = [
        ("bare float64 product Q Q^T (symmetric in numpy)", lambda: q @ q.T, rounds),
        ("llreg, KL", lambda: kl_matrix(raw, num_bytes, clip=CLIP, se=False, tail_share=False), rounds),
        ("llreg, KL and standard errors", lambda: kl_matrix(raw, num_bytes, clip=CLIP, tail_share=False), rounds),
        ("the authors' way (centre, product)", lambda: authors(raw), rounds),
        ("scikit-learn pairwise_distances, squared", lambda: pairwise_distances(q, metric="sqeuclidean"), rounds),
        ("SciPy pdist, squared (direct differences)", lambda: pdist(q, "sqeuclidean"), 1),
    ]
    lines = []
    for name, action, repeats in actions:
        taken = seconds(action, repeats)
        lines.append([name, show_seconds(taken), f"{taken / floor:.2f}"])
    return lines


def authors(raw: NDArray[np.float32]) -> NDArray[np.float64]:
    """KL in nats per text as the papers' scripts get it: clip, centre twice, squared distances by a product."""
    clipped = np.maximum(raw.astype(np.float64), CLIP)
    q = clipped - clipped.mean(axis=1, keepdims=True)
    q -= q.mean(axis=0, keepdims=True)
    norms = (q**2).sum(axis=1)
    return np.asarray((norms[:, None] + norms[None, :] - 2 * q @ q.T) / (2 * q.shape[1]))


def _accuracy(raw: NDArray[np.float32], num_bytes: NDArray[np.float64]) -> list[list[str]]:
    from sklearn.metrics import pairwise_distances

    rng = np.random.default_rng(0)
    values = raw[:64].astype(np.float64)
    for k, spread in enumerate((0.0, 1e-4, 1e-2, 1.0)):
        values[k + 1] = values[0] + rng.normal(0, spread, values.shape[1])
    values = np.minimum(values, 0).astype(np.float32).astype(np.float64)
    bits = num_bytes.mean() * np.log(2)
    ours = kl_matrix(values, num_bytes, clip=None, tail_share=False)["kl_bits_per_byte"].values
    theirs = _authors_raw(values) / bits
    learn = pairwise_distances(double_centred(values), metric="sqeuclidean") / 2 / values.shape[1] / bits
    lines = []
    for k, name in enumerate(("identical", "1e-4 nats apart", "0.01 nats apart", "1 nat apart")):
        exact = np.var((values[k + 1] - values[0]).astype(np.longdouble)) / 2 / bits
        lines.append(
            [name, *(f"{value[0, k + 1] if np.ndim(value) else value:.9g}" for value in (exact, ours, theirs, learn))]
        )
    return lines


def _authors_raw(values: NDArray[np.float64]) -> NDArray[np.float64]:
    q = double_centred(values)
    norms = (q**2).sum(axis=1)
    return np.asarray((norms[:, None] + norms[None, :] - 2 * q @ q.T) / (2 * q.shape[1]))


def _maps(registry: llreg.Registry, q: NDArray[np.float64]) -> list[list[str]]:
    from sklearn.manifold import TSNE

    view = View(clip=CLIP)
    some = registry.records()[0].row_id

    def rival(iterations: int) -> Any:
        return TSNE(
            metric="sqeuclidean", init="pca", perplexity=30, max_iter=iterations, random_state=42
        ).fit_transform(q)

    actions: list[tuple[str, Callable[[], Any]]] = [
        ("neighbours of one row, llreg (reads all rows)", lambda: registry.neighbors(some, view=view)),
        ("t-SNE map from the registry, llreg, 1,000 iterations", lambda: registry.map(view=view)),
        ("t-SNE of Q, scikit-learn, 1,000 iterations", lambda: rival(1000)),
        ("PCA map from the registry, llreg", lambda: registry.map(view=view, method="pca")),
        ("tree, average linkage, llreg", lambda: registry.tree(view=view)),
        ("tree, neighbour joining, llreg", lambda: registry.tree(view=view, method="nj")),
    ]
    return [[name, show_seconds(seconds(action, 1))] for name, action in actions]


def large(registry: llreg.Registry, folder: Path, blocks: int | None, *, dask: bool) -> None:
    """What must work where the rows and the matrix do not fit in memory."""
    view = View(clip=CLIP)
    some = registry.records()[0].row_id
    lines = [_measured("neighbours of one row", lambda: registry.neighbors(some, view=view))]
    lines.append(_measured("t-SNE map", lambda: registry.map(view=view)))
    count = len(registry.records())
    every = sum(1 for i in range(0, count, BLOCK) for _ in range(i, count, BLOCK))
    name = f"KL matrix to Zarr, {every if blocks is None else blocks:,} of {every:,} blocks"
    lines.append(_measured(name, lambda: _matrix(registry, folder / "kl.zarr", view, blocks, None)))
    if dask:
        lines.append(
            _measured(
                f"{name}, local Dask cluster", lambda: _matrix(registry, folder / "dask.zarr", view, blocks, "local")
            )
        )
        import xarray as xr

        one, other = (xr.open_zarr(folder / file)["kl"][:BLOCK] for file in ("kl.zarr", "dask.zarr"))
        print(f"the same values from Dask: {bool((one.values == other.values).all())}\n")
    print(markdown(["", "time", "peak memory so far"], lines))


class _Enough(Exception):
    """Ends a matrix after the wanted number of blocks."""


def _matrix(registry: llreg.Registry, path: Path, view: View, blocks: int | None, cluster: str | None) -> None:
    shutil.rmtree(path, ignore_errors=True)

    def count(done: int, total: int) -> None:
        if done == blocks and done < total:
            raise _Enough

    try:
        write_kl(registry, path, view=view, cluster=cluster, progress=count)
    except _Enough:
        pass


def _measured(name: str, action: Callable[[], Any]) -> list[str]:
    start = time.perf_counter()
    action()
    taken = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    return [name, show_seconds(taken), f"{peak:.2f} GiB"]


if __name__ == "__main__":
    main()
