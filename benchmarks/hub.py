"""A registry on the Hub against the obvious alternatives: requests, bytes and seconds of pull, push and one row.

Prints Markdown. The Hub is the tests' own on this machine, the client the real one; the rows are synthetic and the same
on every run:

    python benchmarks/hub.py --models 1018 --texts 10000

With ``--latency 50`` the server begins every answer 50 ms late. Needs git and aiohttp.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import _hubactions as actions
import numpy as np
import xarray as xr
from _hub import Cost, Lab, Step, chunks, laboratory
from _measure import machine, markdown, show_bytes, show_seconds
from _synthetic import Matrix, make_blocks, make_matrix, make_registry, make_rows

import llreg
from llreg.store.layout import BUILD
from llreg.store.rowfile import row_path, write_row

REGISTRY, FILES, NAIVE = "lab/registry", "lab/files", "lab/naive"
LLREG, NPY, ZARR = "llreg", ".npy files", "naive Zarr"
STORE = "matrix.zarr"
BATCHES = {"pull five": 5, "ten": 10, "one": 1, "hundred": 100, "not built": 5, "request": 1}  # rows added, in turn
LIBRARIES = ("huggingface_hub", "numpy", "zarr", "xarray", "fsspec", "pyarrow")

Line = tuple[str, str, Cost]  # what was done, with what, what it cost


@dataclass
class Bench:
    """Three registries of the same rows, here and on the Hub."""

    lab: Lab
    root: Path
    n_models: int
    n_texts: int

    @property
    def maintainer(self) -> Path:
        return self.root / "maintainer"

    @property
    def reader(self) -> Path:
        return self.root / "reader"

    @property
    def files(self) -> Path:
        return self.root / "files"

    @property
    def naive(self) -> Path:
        return self.root / "naive"

    @cached_property
    def registry(self) -> llreg.Registry:
        return llreg.open(self.maintainer)

    @cached_property
    def matrix(self) -> Matrix:
        """The rows that are there from the start."""
        blocks = list(make_blocks(self.n_models, self.n_texts))
        values, tokens = (
            np.concatenate([getattr(block, name) for block in blocks]) for name in ("log_likelihood", "num_tokens")
        )
        return Matrix([name for block in blocks for name in block.names], values, tokens)

    @cached_property
    def more(self) -> dict[str, Matrix]:
        """The rows that are added, by batch."""
        made = make_matrix(sum(BATCHES.values()), self.n_texts, seed=1)
        names = [f"more/model-{k:03d}" for k in range(len(made.names))]
        found, start = {}, 0
        for batch, count in BATCHES.items():
            part = slice(start, start := start + count)
            found[batch] = Matrix(names[part], made.log_likelihood[part], made.num_tokens[part])
        return found

    def write_rows(self, batch: str, path: Path) -> list[str]:
        """Add a batch to a registry here, as row files; their names."""
        first = self.n_models + sum(list(BATCHES.values())[: list(BATCHES).index(batch)])
        rows = list(make_rows(llreg.open(path), self.more[batch], first))
        for row in rows:
            write_row(path, row)
        return [row_path(row.record).as_posix() for row in rows]


def write_files(folder: Path, matrix: Matrix) -> list[str]:
    """One .npy file a model, of its log-likelihoods; their names."""
    folder.mkdir(exist_ok=True)
    names = [name.replace("/", "--") + ".npy" for name in matrix.names]
    for name, values in zip(names, matrix.log_likelihood, strict=True):
        np.save(folder / name, values)
    return names


def write_naive(folder: Path, matrix: Matrix) -> list[str]:
    """One Zarr array of log-likelihoods with a chunk a row, else as xarray writes it, or rows appended to it; names of
    the files that changed."""
    store = folder / STORE
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    names = np.array(matrix.names, dtype=object)
    data = xr.Dataset({"log_likelihood": (("model", "text"), matrix.log_likelihood)}, {"model": names})
    if before:
        data.to_zarr(store, append_dim="model")
    else:
        chunk = {"log_likelihood": {"chunks": (1, matrix.log_likelihood.shape[1])}}
        data.to_zarr(store, zarr_format=3, encoding=chunk)
    after = (path for path in sorted(store.rglob("*")) if path.is_file())
    return [path.relative_to(folder).as_posix() for path in after if before.get(path) != path.read_bytes()]


# The lines of the table: llreg


def llreg_reads(b: Bench) -> Iterator[Line]:
    """Publishing, and what a reader of it does."""
    make_registry(b.maintainer, b.n_models, b.n_texts)
    count = f"{b.n_models:,}"
    yield f"publish {count} rows", LLREG, b.lab.cost("alice", actions.publish, b.maintainer, REGISTRY)
    yield "first pull", LLREG, b.lab.cost("bob", actions.first_pull, REGISTRY, b.reader)
    yield "pull, nothing new", LLREG, b.lab.cost("bob", actions.next_pull, b.reader)
    records = b.registry.records()
    wanted = [records[len(records) // k].row_id for k in (2, 3)]
    home = b.root / "registry-home"
    opened, another = b.lab.run("bob", actions.open_rows, REGISTRY, wanted, home=home)
    check_row(b, opened, len(records) // 2)
    yield "open, one row", "llreg.open", opened.cost
    yield "one more row", "llreg.open", another.cost
    again = b.lab.cost("bob", actions.open_rows, REGISTRY, [records[0].row_id], home=home)
    yield "open again in a later process, another row", "llreg.open", again
    (step,) = b.lab.run("bob", actions.plain_row, REGISTRY, "store.zarr", wanted[0])
    check_row(b, step, len(records) // 2)
    yield "open, one row", "llreg's store.zarr, plain xarray", step.cost


def check_row(b: Bench, step: Step, position: int) -> None:
    """Refuse figures of a read that got anything else than the row."""
    if not np.array_equal(step.value, b.matrix.log_likelihood[position], equal_nan=True):
        raise RuntimeError("the row that was read is not the one that was published")


def llreg_changes(b: Bench) -> Iterator[Line]:
    """Rows that arrive, and pulls of them."""
    for batch, what in (("pull five", "5 new rows, in the build"), ("ten", "10 new rows, in the build")):
        b.write_rows(batch, b.maintainer)
        b.lab.run("alice", actions.publish, b.maintainer)
        yield f"pull {what}", LLREG, b.lab.cost("bob", actions.next_pull, b.reader)
    for batch, what in (("one", "push 1 row"), ("hundred", "push 100 rows")):
        b.write_rows(batch, b.maintainer)
        yield what, LLREG, b.lab.cost("alice", actions.publish, b.maintainer)
    b.lab.run("bob", actions.next_pull, b.reader)
    names = b.write_rows("not built", b.maintainer)
    b.lab.run("alice", actions.commit, REGISTRY, b.maintainer, names)
    yield "pull 5 new rows, not in the build yet", LLREG, b.lab.cost("bob", actions.next_pull, b.reader)
    b.write_rows("request", b.reader)
    yield "1 row as a pull request", LLREG, b.lab.cost("bob", actions.publish, b.reader)


def new_chunks(b: Bench) -> tuple[int, int]:
    """Bytes of the build that one more row changes, and of its chunks that were in no file of the build before."""

    def build() -> list[Path]:
        files = (path for part in BUILD for path in (b.maintainer / part, *(b.maintainer / part).rglob("*")))
        return [path for path in files if path.is_file()]

    before = {path: path.read_bytes() for path in build()}
    there = chunks(before)
    b.write_rows("request", b.maintainer)
    b.registry.build()
    changed = [path for path in build() if before.get(path) != path.read_bytes()]
    new = {digest: size for digest, size in chunks(changed).items() if digest not in there}
    return sum(path.stat().st_size for path in changed), sum(new.values())


# The lines of the table: without llreg


def file_lines(b: Bench) -> Iterator[Line]:
    """One .npy file a model."""
    names, home = write_files(b.files, b.matrix), b.root / "files-home"
    yield f"publish {b.n_models:,} rows", NPY, b.lab.cost("alice", actions.upload, FILES, b.files)
    yield "first pull", NPY, b.lab.cost("bob", actions.snapshot, FILES, home=home)
    yield "pull, nothing new", NPY, b.lab.cost("bob", actions.snapshot, FILES, home=home)
    opened, another = b.lab.run("bob", actions.file_row, FILES, [names[b.n_models // k] for k in (2, 3)])
    check_row(b, opened, b.n_models // 2)
    yield "open, one row", NPY, opened.cost
    yield "one more row", NPY, another.cost
    b.lab.run("alice", actions.commit, FILES, b.files, write_files(b.files, b.more["ten"]))
    yield "pull 10 new rows", NPY, b.lab.cost("bob", actions.snapshot, FILES, home=home)
    for batch, what in (("one", "push 1 row"), ("hundred", "push 100 rows"), ("request", "1 row as a pull request")):
        names, request = write_files(b.files, b.more[batch]), batch == "request"
        user = "bob" if request else "alice"
        yield what, NPY, b.lab.cost(user, actions.commit, FILES, b.files, names, request)


def naive_lines(b: Bench) -> Iterator[Line]:
    """One chunk a row."""
    home = b.root / "naive-home"
    write_naive(b.naive, b.matrix)
    yield f"publish {b.n_models:,} rows", ZARR, b.lab.cost("alice", actions.upload, NAIVE, b.naive)
    yield "first pull", ZARR, b.lab.cost("bob", actions.snapshot, NAIVE, home=home)
    yield "pull, nothing new", ZARR, b.lab.cost("bob", actions.snapshot, NAIVE, home=home)
    (step,) = b.lab.run("bob", actions.plain_row, NAIVE, STORE, b.matrix.names[b.n_models // 2])
    check_row(b, step, b.n_models // 2)
    yield "open, one row", f"{ZARR}, plain xarray", step.cost
    b.lab.run("alice", actions.commit, NAIVE, b.naive, write_naive(b.naive, b.more["ten"]))
    yield "pull 10 new rows", ZARR, b.lab.cost("bob", actions.snapshot, NAIVE, home=home)
    for batch, what in (("one", "push 1 row"), ("hundred", "push 100 rows")):
        names = write_naive(b.naive, b.more[batch])
        yield what, ZARR, b.lab.cost("alice", actions.commit, NAIVE, b.naive, names)


# The run

ORDER = (
    "publish", "first pull", "pull, nothing", "pull 5 new rows, in", "pull 5 new rows, not", "pull 10",
    "open, one", "one more", "open again", "push 1 row", "push 100", "1 row as",
)  # fmt: skip


def hub_table(lines: Sequence[Line]) -> str:
    """All lines, those of one action together."""

    def place(line: Line) -> int:
        return next(k for k, start in enumerate(ORDER) if line[0].startswith(start))

    header = ("", "with", "requests", "of them API calls", "received", "sent", "time")
    return markdown(header, [(what, who, *shown(cost)) for what, who, cost in sorted(lines, key=place)])


def shown(cost: Cost) -> tuple[str, ...]:
    """The cells of a cost."""
    sizes = show_bytes(cost.received), show_bytes(cost.sent)
    return f"{cost.requests:,}", f"{cost.calls:,}", *sizes, show_seconds(cost.seconds)


def header(b: Bench, latency: float) -> str:
    """What was measured, where and how."""
    late = f"begins each answer {1e3 * latency:.0f} ms late" if latency else "has no latency"
    return (
        f"{b.n_models:,} synthetic rows x {b.n_texts:,} texts. One run; each line is a process of its own with an empty "
        "cache, its libraries imported before the clock starts; only pulls after the first have what the pull before "
        "left. Requests: all in the server's log, redirects and hops to the CDN counted; API calls: paths under /api. "
        f"Bytes: of the bodies. The server is local and {late}.\n\n{machine(*LIBRARIES)}."
    )


def run(root: Path, n_models: int, n_texts: int, latency: float) -> None:
    """Publish under a directory, measure, print."""
    with laboratory(root, latency) as lab:
        b = Bench(lab, root, n_models, n_texts)
        lines = [*llreg_reads(b), *llreg_changes(b), *file_lines(b), *naive_lines(b)]
        print(header(b, latency), "\n")
        print(hub_table(lines), "\n")
        changed, new = new_chunks(b)
        print(
            f"One more row changes {show_bytes(changed)} of the build, of which {show_bytes(new)} are in chunks that it "
            "did not have before (content-defined, 64 KiB on average, as Xet makes them)."
        )


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=1018, help="rows (default 1018)")
    parser.add_argument("--texts", type=int, default=10_000, help="texts (default 10,000)")
    parser.add_argument("--latency", type=float, default=0, metavar="MS", help="ms before each answer (default 0)")
    parser.add_argument("--directory", type=Path, help="keep the files there (default: a temporary directory)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # zarr's, of metadata that is not in the specification yet
    os.environ |= {"PYTHONWARNINGS": "ignore", "HF_HUB_VERBOSITY": "error"}
    if options.directory:
        options.directory.mkdir(parents=True)
        run(options.directory, options.models, options.texts, options.latency / 1e3)
    else:
        with tempfile.TemporaryDirectory() as directory:
            run(Path(directory), options.models, options.texts, options.latency / 1e3)


if __name__ == "__main__":
    main()
