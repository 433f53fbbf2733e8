"""Tables of values, as ``.npz``, CSV and Parquet files hold them, and how their texts are found (docs/format.md)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llreg.importers.bounded import read_bounded
from llreg.importers.rows import ImportResult, Measurement, Origin, import_rows, make_declared, order_note
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.store.contents import Contents

Kind = Literal["npz", "csv", "parquet"]
VALUES = "log_likelihood"
MODEL = ("model_id", "model", "models", "model_name", "name")  # in an export `model` is the row's id
ABOUT = (
    "revision",
    "weight_dtype",
    "quantization",
    "base_model",
    "relation",
    "licence",
    "architecture",
    "num_parameters",
    "created",
)
TEXT = ("text_sha256", "text", "text_index")
STAMP = ("text_set", "protocol", "values")  # what an export of llreg says that it is of
_SHA256 = re.compile(r"[0-9a-f]{64}")
MISSING = {"", "nan", "na", "n/a", "none", "null"}


@dataclass(frozen=True, eq=False)
class Table:
    """A table as it was read.

    Attributes
    ----------
    models : sequence of str
    values : sequence of array
        One a model, of shape (n_texts,), nats.
    texts : sequence of str or None
        Index or sha256 of the text of each value; None where they are in the registry's order.
    about : mapping of str to sequence
        Columns of `ABOUT`.
    stamp : mapping of str to str
        Of `STAMP`, where the file says it: ids, perhaps cut short, and "raw" or "view".
    """

    models: Sequence[str]
    values: Sequence[NDArray[Any]]
    texts: Sequence[str] | None
    about: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    stamp: Mapping[str, str] = field(default_factory=dict)

    def of(self, name: str, k: int) -> Any:
        """What a column says of a model; None where it says nothing."""
        value = self.about[name][k] if name in self.about else None
        return None if isinstance(value, str) and value.strip().lower() in MISSING else value


def import_table(
    registry: Contents,
    path: Path,
    kind: Kind,
    *,
    dtype: str | None = None,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ImportResult:
    """Import rows from a table.

    Parameters
    ----------
    registry : Contents
    path : Path
    kind : {"npz", "csv", "parquet"}
    dtype : str, optional
        dtype that the models' weights had, where the file does not say.
    dry_run : bool
        Check everything and write nothing.
    progress : callable, optional
        Called with (rows written, rows to write).

    Raises
    ------
    InputError, InvalidFileError
        If the file or any model in it is refused; nothing was written.
    StorageError
    """
    registry.check_changeable("import into it")
    data = read_bounded(path)
    table = _read(kind, data, str(path))
    _check_stamp(registry, table.stamp, str(path))
    places = _places(registry, table.texts, str(path))
    measurements = [_measurement(registry, table, k, places, dtype, str(path)) for k in range(len(table.models))]
    result = import_rows(registry, measurements, Origin.of(kind, path, data), dry_run=dry_run, progress=progress)
    if places is None:
        result.notes.append(order_note(registry))
    return result


def _read(kind: Kind, data: bytes, shown: str) -> Table:
    if kind == "npz":
        from llreg.importers.npz import read_npz

        return read_npz(data, shown)
    if kind == "csv":
        from llreg.importers.csvfile import read_csv

        return read_csv(data, shown)
    from llreg.importers.parquet import read_parquet

    return read_parquet(data, shown)


def _check_stamp(registry: Contents, stamp: Mapping[str, str], shown: str) -> None:
    """Refuse an export of another text set or protocol, or of what a view shows."""
    for name in ("text_set", "protocol"):
        told, here = stamp.get(name), registry.info[name]["id"]
        if told and not here.startswith(told):
            raise InputError(f"{shown}: it is of the {name} {told[:12]}; this registry's is {here[:12]}")
    if stamp.get("values") == "view":
        raise InputError(
            f"{shown}: its values are those of a view, clipped perhaps; rows are stored raw: export them raw"
        )


def _places(registry: Contents, texts: Sequence[str] | None, shown: str) -> NDArray[np.int64] | None:
    """Index of each named text in the registry's set; None where texts are not named."""
    if texts is None:
        return None
    if all(_SHA256.fullmatch(text) for text in texts):
        index = {digest: k for k, digest in enumerate(registry.text_index.sha256)}
    else:
        index = {str(k): k for k in range(registry.num_texts)}
    strange = [text for text in texts if text not in index]
    if strange:
        raise InputError(
            f"{shown}: expected texts of {registry.info['text_set']['name']}, by index (0 to {registry.num_texts - 1}) "
            f"or sha256; {len(strange):,} are not of it, as {strange[0][:70]!r}"
        )
    if len(set(texts)) < len(texts):
        raise InputError(f"{shown}: a text is named twice")
    return np.array([index[text] for text in texts], dtype=np.int64)


def named_by_titles(titles: Sequence[str]) -> list[str] | None:
    """Texts that column titles name, by sha256 or by all numbers from 0; None if they name none."""
    lowered = [title.lower() for title in titles]
    by_hash = all(_SHA256.fullmatch(title) for title in lowered)
    by_index = sorted(lowered) == sorted(map(str, range(len(lowered))))
    return lowered if lowered and (by_hash or by_index) else None


def text_columns(titles: Sequence[str]) -> tuple[list[int], list[str] | None]:
    """Which columns hold values, and the texts that they name.

    Those titled ``t`` and an index, as in an export of llreg; else all that say nothing else.
    """
    exported = [k for k, title in enumerate(titles) if re.fullmatch(r"t\d+", title)]
    if exported:
        return exported, [titles[k][1:] for k in exported]
    others = {*MODEL, *ABOUT, *STAMP}
    columns = [k for k, title in enumerate(titles) if title.lower() not in others]
    return columns, named_by_titles([titles[k] for k in columns])


def _measurement(
    registry: Contents, table: Table, k: int, places: NDArray[np.int64] | None, dtype: str | None, shown: str
) -> Measurement:
    values, place = table.values[k], f"{shown}: {table.models[k]}"
    if places is not None:
        if values.shape != places.shape:
            raise InputError(f"{place}: expected {len(places):,} values, one a text; got shape {values.shape}")
        placed = np.full(registry.num_texts, np.nan)
        placed[places] = values
        values = placed
    declared = {name: table.of(name, k) for name in ABOUT}
    bases = declared["base_model"]
    declared["base_model"] = re.split(r"[,\s]+", bases.strip()) if isinstance(bases, str) else bases
    declared["num_parameters"] = _integer(declared["num_parameters"], f"{place}: num_parameters")
    return Measurement(
        model=table.models[k],
        log_likelihood=values,
        place=place,
        weight_dtype=table.of("weight_dtype", k) or dtype,
        revision=table.of("revision", k),
        quantization=table.of("quantization", k),
        declared=make_declared(**declared),
    )


def _integer(value: Any, place: str) -> int | None:
    try:
        number = float("nan" if value is None else value)
        if np.isnan(number) or number < 0:
            return None
        if number == int(number):
            return int(number)
    except (ValueError, TypeError, OverflowError):
        pass
    raise InputError(f"{place}: expected a whole number; got {str(value)[:60]!r}")
