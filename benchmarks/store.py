"""llreg's store against the obvious alternatives, and the chunk and shard shapes behind its settings.

Prints Markdown. The measurements are synthetic and the same on every run:

    python benchmarks/store.py --models 1018 --texts 10000

Rows over HTTP need fsspec and aiohttp; without them those lines are left out, and the output says so.
"""

from __future__ import annotations

import argparse
import pickle
import shutil
import tempfile
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
import zarr
from _measure import Action, machine, markdown, seconds, show_bytes, show_seconds, size, written
from _rangeserver import Server, serving
from _shapes import shapes_table
from _synthetic import Matrix, make_matrix, make_rows, write_texts

import llreg
from llreg.store.layout import STORE, TABLE
from llreg.store.rowfile import row_path, write_row

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLUMNS = ("llreg", "its store.zarr, plain xarray", "naive Zarr, xarray", ".npy", "pickle of dicts")
NONE = "-"
LIBRARIES = ("numpy", "zarr", "numcodecs", "xarray", "pyarrow", "fsspec", "aiohttp")

Line = tuple[str, ...]  # what is measured, then a cell a column


@dataclass(frozen=True)
class Bench:
    """Everything that is compared, written under one directory.

    `matrix` and `rows` hold one row more than is written: the one to append.
    """

    root: Path
    matrix: Matrix
    rows: list[llreg.Row]
    repeats: int

    @property
    def registry(self) -> Path:
        return self.root / "registry"

    @property
    def store(self) -> Path:
        return self.registry / STORE

    @property
    def naive(self) -> Path:
        return self.root / "naive.zarr"

    @property
    def npy(self) -> Path:
        return self.root / "matrix.npy"

    @property
    def pickle(self) -> Path:
        return self.root / "models.pickle"

    @property
    def wanted(self) -> int:
        """Position of the row that is read where one row is read."""
        return len(self.rows) // 2

    @property
    def name(self) -> str:
        """Its model name, the label in the naive Zarr and the pickle."""
        return self.matrix.names[self.wanted]

    @property
    def row_id(self) -> str:
        """Its row id, the label in llreg's datasets."""
        return self.rows[self.wanted].record.row_id

    def time(self, what: str, *actions: Action | None) -> Line:
        """A line of median times, a column an action."""
        return what, *(show_seconds(seconds(action, self.repeats)) if action else NONE for action in actions)


def write_everything(root: Path, n_models: int, n_texts: int, repeats: int) -> Bench:
    """Write every contender with the same values."""
    matrix = make_matrix(n_models + 1, n_texts)
    write_texts(root / "texts.jsonl", n_texts)
    registry = llreg.init(root / "registry", texts=root / "texts.jsonl", name="synthetic")
    bench = Bench(root, matrix, list(make_rows(registry, matrix)), repeats)
    for row in bench.rows[:-1]:
        write_row(registry.path, row)
    registry.build()
    chunks = {"log_likelihood": {"chunks": (1, n_texts)}}
    naive_dataset(matrix, slice(0, n_models)).to_zarr(bench.naive, zarr_format=3, encoding=chunks)
    np.save(bench.npy, matrix.log_likelihood[:-1])
    dump(bench.pickle, dict(zip(matrix.names, matrix.log_likelihood[:-1].astype(np.float64), strict=False)))
    return bench


# The contenders


def naive_dataset(matrix: Matrix, rows: slice) -> xr.Dataset:
    """Values and model names, nothing else."""
    names = np.array(matrix.names[rows], dtype=object)
    return xr.Dataset({"log_likelihood": (("model", "text"), matrix.log_likelihood[rows])}, {"model": names})


def open_zarr(path: Path | str) -> xr.Dataset:
    """Plain xarray, lazy and without dask."""
    data: xr.Dataset = xr.open_zarr(path, chunks=None, zarr_format=3)
    return data


def open_llreg(path: Path) -> xr.Dataset:
    """llreg's own lazy dataset."""
    data: xr.Dataset = llreg.open(path).dataset()
    return data


def all_rows(opened: Callable[[], xr.Dataset]) -> Any:
    """Every log-likelihood."""
    return opened()["log_likelihood"].values


def one_row(opened: Callable[[], xr.Dataset], label: str) -> Any:
    """Values of the row with that label."""
    return opened()["log_likelihood"].sel(model=label).values


def load(path: Path) -> dict[str, NDArray[np.float64]]:
    """The dict of vectors."""
    found: dict[str, NDArray[np.float64]] = pickle.loads(path.read_bytes())
    return found


def dump(path: Path, vectors: dict[str, NDArray[np.float64]]) -> None:
    """Write the dict of vectors; each an array of its own, as one model after another gave them."""
    path.write_bytes(pickle.dumps({name: vector.copy() for name, vector in vectors.items()}))


# The lines of the first table


def reading(b: Bench) -> Iterator[Line]:
    """Opening, and reading all rows and one."""
    ours, theirs, naive = partial(open_llreg, b.registry), partial(open_zarr, b.store), partial(open_zarr, b.naive)
    mapped = partial(np.load, b.npy, mmap_mode="r")
    yield b.time("open", ours, theirs, naive, mapped, partial(load, b.pickle))
    yield b.time(
        "open, read all rows into one array",
        *(partial(all_rows, opened) for opened in (ours, theirs, naive)),
        partial(np.load, b.npy),
        lambda: np.array(list(load(b.pickle).values())),
    )
    yield b.time(
        "open, read one row",
        lambda: llreg.open(b.registry).row(b.row_id),
        partial(one_row, theirs, b.row_id),
        partial(one_row, naive, b.name),
        lambda: np.array(mapped()[b.wanted]),
        lambda: load(b.pickle)[b.name],
    )
    held = [opened() for opened in (ours, theirs, naive)]
    array, vectors = mapped(), load(b.pickle)
    labels = (b.row_id, b.row_id, b.name)
    yield b.time(
        "read one row, already open",
        *(partial(one_row, partial(_same, data), label) for data, label in zip(held, labels, strict=True)),
        lambda: np.array(array[b.wanted]),
        lambda: np.array(vectors[b.name]),
    )


def _same(data: xr.Dataset) -> xr.Dataset:
    return data


def appending(b: Bench) -> Iterator[Line]:
    """One row more: llreg writes a row file, naive Zarr resizes, the others are loaded and written again."""
    work = b.root / "append"
    contenders: list[tuple[Path, Action, Action] | None] = [
        (b.registry, partial(write_row, b.registry, b.rows[-1]), partial(remove_last, b)),
        None,
        (work, partial(append_naive, b, work), partial(copy, b.naive, work)),
        (work, partial(append_npy, b, work), partial(copy, b.npy, work)),
        (work, partial(append_pickle, b, work), partial(copy, b.pickle, work)),
    ]
    times, trees = ["append one row"], ["append one row: what is written"]
    for contender in contenders:
        if contender is None:
            times.append(NONE)
            trees.append(NONE)
            continue
        path, action, prepare = contender
        times.append(show_seconds(seconds(action, b.repeats, prepare=prepare)))
        prepare()
        trees.append(str(written(path, action)))
    remove_last(b)
    yield tuple(times)
    yield tuple(trees)


def remove_last(b: Bench) -> None:
    """Take the appended row's file away again."""
    (b.registry / row_path(b.rows[-1].record)).unlink(missing_ok=True)


def append_naive(b: Bench, path: Path) -> None:
    """Resize and write, as xarray does it."""
    naive_dataset(b.matrix, slice(-1, None)).to_zarr(path, append_dim="model")


def append_npy(b: Bench, path: Path) -> None:
    """Load, stack, write."""
    values = np.vstack([np.load(path), b.matrix.log_likelihood[-1:]])
    with path.open("wb") as file:
        np.save(file, values)


def append_pickle(b: Bench, path: Path) -> None:
    """Load, add, write."""
    vectors = load(path)
    vectors[b.matrix.names[-1]] = b.matrix.log_likelihood[-1].astype(np.float64)
    path.write_bytes(pickle.dumps(vectors))


def copy(source: Path, target: Path) -> None:
    """A fresh copy of a file or directory."""
    if target.is_dir():
        shutil.rmtree(target)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def building(b: Bench) -> Iterator[Line]:
    """The build, from what a contributor and from what a puller has."""
    registry = llreg.open(b.registry)
    others = (NONE,) * (len(COLUMNS) - 1)

    def timed(what: str, prepare: Action | None = None) -> Line:
        return what, show_seconds(seconds(registry.build, b.repeats, prepare=prepare)), *others

    yield timed("build from all row files, no old build", partial(shutil.rmtree, b.store))
    kept = b.root / "build"
    shutil.copytree(b.store, kept)
    write_row(b.registry, b.rows[-1])
    yield timed("build, all row files, old build and 1 new row", partial(copy, kept, b.store))
    copy(b.registry / "rows", b.root / "rows")
    shutil.rmtree(b.registry / "rows")
    write_row(b.registry, b.rows[-1])
    yield timed("build as after a pull: old build and 1 new row", partial(copy, kept, b.store))
    shutil.rmtree(b.registry / "rows")
    (b.root / "rows").rename(b.registry / "rows")
    remove_last(b)
    registry.build()


def sizes(b: Bench) -> Iterator[Line]:
    """What lies on the disk."""
    row_files, table, everything = size(b.registry / "rows"), size(b.registry / TABLE), size(b.registry)
    yield "size", str(everything), *(str(size(path)) for path in (b.store, b.naive, b.npy, b.pickle))
    others = (NONE,) * (len(COLUMNS) - 1)
    yield "size: row files", str(row_files), *others
    yield f"size: {TABLE}", str(table), *others


def over_http(b: Bench, server: Server) -> Iterator[Line]:
    """One row from a local server that answers ranges; every action starts from nothing."""
    store, naive = (f"{server.url}/{path.relative_to(b.root)}" for path in (b.store, b.naive))

    def download(path: Path) -> None:
        urllib.request.urlretrieve(f"{server.url}/{path.relative_to(b.root)}", b.root / "download")

    def numpy_row() -> Any:
        download(b.npy)
        return np.array(np.load(b.root / "download", mmap_mode="r")[b.wanted])

    def pickle_row() -> Any:
        download(b.pickle)
        return load(b.root / "download")[b.name]

    actions: list[Action] = [
        partial(one_row, partial(open_zarr, store), b.row_id),
        partial(one_row, partial(open_zarr, naive), b.name),
        numpy_row,
        pickle_row,
    ]
    yield http_line(b, server, "open, read one row over HTTP", actions)
    actions[:2] = [partial(position_row, url, b.wanted) for url in (store, naive)]
    yield http_line(b, server, "the same by zarr alone, position known", [*actions[:2], None, None])


def position_row(url: str, position: int) -> Any:
    """One row with zarr and nothing more: metadata, then its chunk."""
    array: Any = zarr.open_group(url, mode="r", zarr_format=3)["log_likelihood"]
    return array[position]


def http_line(b: Bench, server: Server, what: str, actions: Sequence[Action | None]) -> Line:
    """Requests, bytes and seconds, a column an action; nothing of llreg's own reads over HTTP."""
    cells = [NONE]
    for action in actions:
        if action is None:
            cells.append(NONE)
            continue
        time = seconds(action, b.repeats)
        server.counts()
        action()
        counts = server.counts()
        plural = "s" * (counts.requests != 1)
        cells.append(f"{counts.requests} request{plural}, {show_bytes(counts.bytes)}, {show_seconds(time)}")
    return what, *cells


# The run


def store_table(b: Bench) -> str:
    """The first table."""
    lines = [*reading(b), *appending(b), *building(b), *sizes(b)]
    if find_spec("fsspec") and find_spec("aiohttp"):
        with serving(b.root) as server:
            lines += over_http(b, server)
    else:
        lines.append(("one row over HTTP: skipped, pip install fsspec aiohttp", *[NONE] * len(COLUMNS)))
    return markdown(("", *COLUMNS), lines)


def header(b: Bench) -> str:
    """What was measured, where and how."""
    models, texts = len(b.rows) - 1, b.matrix.log_likelihood.shape[1]
    return (
        f"{models:,} synthetic rows x {texts:,} texts, float32. Medians of {b.repeats} runs with a warm cache "
        f"(one run before them is not counted), all in one process that has its libraries loaded; local HTTP.\n\n"
        f"{machine(*LIBRARIES)}."
    )


def run(directory: Path, n_models: int, n_texts: int, repeats: int) -> None:
    """Write the contenders under a directory, measure, print."""
    bench = write_everything(directory, n_models, n_texts, repeats)
    print(header(bench), "\n")
    print(store_table(bench), "\n")
    print(shapes_table(bench.matrix.log_likelihood[:-1], directory / "shapes.zarr", repeats))


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=1018, help="rows (default 1018)")
    parser.add_argument("--texts", type=int, default=10_000, help="texts (default 10,000)")
    parser.add_argument("--repeats", type=int, default=3, help="runs a median is taken over (default 3)")
    parser.add_argument("--directory", type=Path, help="keep the files there (default: a temporary directory)")
    options = parser.parse_args()
    # Consolidated metadata is not yet in the v3 specification, but every reader over HTTP needs it.
    warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
    if options.directory:
        options.directory.mkdir(parents=True)
        run(options.directory, options.models, options.texts, options.repeats)
    else:
        with tempfile.TemporaryDirectory() as directory:
            run(Path(directory), options.models, options.texts, options.repeats)


if __name__ == "__main__":
    main()
