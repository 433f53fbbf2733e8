"""Samples of the text set that a row may be scored on: ``subsets/<id>.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llreg import atomic
from llreg_schemas import canonical_json, check, hash_json, parse
from llreg_schemas.errors import InputError, InvalidFileError
from llreg_schemas.records import FORMAT_VERSION, SUBSET_FORMAT

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llreg.geometry.view.view import View
    from llreg.registry import Registry
    from llreg.store.contents import Contents
    from llreg.texts.design import Design
    from llreg.texts.sampling import Method
    from llreg_schemas import RowRecord

DIRECTORY = "subsets"
_DRAWN = ("id", "texts", "counts")  # fields that follow from the others
_MAX_TICKETS = 1 << 62
_MAX_SEED = (1 << 53) - 1  # the largest integer that all JSON readers keep
_DRAWS_A_TEXT = 100


def make_subset(
    registry: Registry,
    size: int | None = None,
    *,
    draws: int | None = None,
    method: Method = "ls",
    floor: float | None = None,
    seed: int = 0,
    view: View | None = None,
) -> dict[str, Any]:
    """Draw a sample of the texts that new models may be scored on, at a fraction of the cost.

    Parameters
    ----------
    registry : Registry
    size : int
        Texts of the sample; drawn without replacement.
    draws : int
        Instead of `size`: draws with replacement, as P2 (arXiv 2505.15428) makes them.
    method : {"ls", "kl", "uniform"}
        What a text's chance is proportional to; see `llreg.texts.sampling.text_scores`.
    floor : float, optional
        Share of the draws that is uniform whatever the method, 0.5 if not given; 0 is P2's rule. See `text_chances`.
    seed : int
        Another seed draws another sample.
    view : View, optional
        Through which the rows are seen, and whose texts are drawn from; by default the registry's.

    Returns
    -------
    dict
        The subset file's document (``subset.schema.json``).

    Raises
    ------
    InputError
        If the numbers do not fit, or the method needs rows that are not there.

    Notes
    -----
    Without replacement every text drawn is new, and the more are drawn the less is left to chance: at 1,000 of 3,610
    texts the error is a fifth smaller than that of as many different texts drawn with replacement. Chances are the same.
    """
    from llreg.texts.sampling import FLOOR, METHODS

    if (size is None) == (draws is None):
        raise InputError("give the number of texts (size), or of draws with replacement (draws); not both")
    if method not in METHODS:
        raise InputError(f"method: expected one of {', '.join(METHODS)}; got {method!r}")
    if not 0 <= seed <= _MAX_SEED:
        raise InputError(f"seed: expected at least 0, and at most {_MAX_SEED}; got {seed}")
    wanted = size if size is not None else draws
    if draws is not None and draws > _DRAWS_A_TEXT * registry.num_texts:
        most = _DRAWS_A_TEXT * registry.num_texts
        raise InputError(f"draws: expected at most {most:,}, {_DRAWS_A_TEXT} a text of the set; got {draws:,}")
    seen = registry.view if view is None else view
    share = 1.0 if method == "uniform" else FLOOR if floor is None else floor
    chances, models = _chances(registry, seen, method, share)
    rules = {
        "format": SUBSET_FORMAT,
        "format_version": FORMAT_VERSION,
        "text_set": registry.info["text_set"]["id"],
        "num_texts": registry.num_texts,
        "method": method,
        "floor": float(share),
        "replacement": draws is not None,
        "seed": int(seed),
        "draws": int(wanted or 0),
        "chances": chances.tolist(),
        "view": seen.to_json(),
        "registry": registry.name,
        "version": registry.version,
        "models": models,
    }
    counts = _draw(rules)
    texts = counts.nonzero()[0]
    document = {**rules, "texts": texts.tolist(), "counts": counts[texts].tolist()}
    return _usable({**document, "id": hash_json(document)}, registry)


def _usable(document: dict[str, Any], registry: Registry) -> dict[str, Any]:
    """Return the document if `llreg add --subset` takes it, by the checks that it makes."""
    try:
        return check_subset(check("subset", document, "subset"), registry.info, "subset")
    except InvalidFileError as error:
        raise InputError(f"these options make no subset that rows can be scored on: {error}") from error


def _chances(registry: Registry, view: View, method: Method, floor: float) -> tuple[NDArray[np.int64], int]:
    """Chances of all texts of the set, 0 for those that the view leaves out, and the rows they are computed from."""
    import numpy as np

    from llreg.texts.sampling import text_chances, text_scores

    texts = view.texts(registry.text_index)
    weights = view.text_weights(registry.text_index)
    values = np.empty((0, len(texts)))
    if method != "uniform":
        values = full_rows(registry, view).values
        if len(values) < 2:
            raise InputError(
                f"method {method} needs two rows scored on all texts, to know which texts of the view tell models "
                f"apart; there are {len(values)}: add rows, or draw with method uniform"
            )
    chances = np.zeros(registry.num_texts, np.int64)
    chances[texts] = text_chances(text_scores(values, method), floor=floor, weights=weights)
    return chances, len(values)


def full_rows(registry: Registry, view: View) -> Any:
    """The rows that were scored on all texts and have any of the view's, as `llreg.geometry.kl.rows.Rows`."""
    import numpy as np

    rows = registry.rows(view=view)
    full = np.array([design is None for design in rows.designs], dtype=bool)
    return rows.take(np.flatnonzero(full & ~np.isnan(rows.values).all(axis=1)))


def _draw(rules: Mapping[str, Any]) -> NDArray[np.int64]:
    """Counts of the texts that the rules draw: the random numbers are made from the rules themselves.

    So anybody can check a sample, and two samples by different rules are independent.
    """
    import numpy as np

    from llreg.texts.sampling import draw_texts

    key = hash_json({name: value for name, value in rules.items() if name not in _DRAWN})
    chances = np.asarray(rules["chances"], dtype=np.int64)
    return draw_texts(chances, rules["draws"], replacement=rules["replacement"], key=key)


def describe_subset(registry: Registry, document: Mapping[str, Any]) -> dict[str, Any]:
    """What a subset costs.

    Returns
    -------
    dict
        Keys id, method, seed, draws, replacement, texts, text_share, bytes, byte_share.
    """
    import numpy as np

    sizes = registry.text_index.bytes_per_text
    size = float(sizes[np.asarray(document["texts"])].sum())
    return {
        **{name: document[name] for name in ("id", "method", "floor", "seed", "draws", "replacement", "models")},
        "texts": len(document["texts"]),
        "text_share": len(document["texts"]) / document["num_texts"],
        "bytes": int(size),
        "byte_share": size / float(sizes.sum()),
    }


def subset_errors(registry: Registry, document: Mapping[str, Any], *, curve: bool = False) -> list[dict[str, Any]]:
    """How far distances of a subset's rows are off, measured on the rows that are there.

    Parameters
    ----------
    registry : Registry
    document : mapping
    curve : bool
        For all methods, and sizes from 2 % to all of the texts; otherwise for this subset's only.

    Returns
    -------
    list of dict
        As `llreg.geometry.subset.curve.error_curve` gives them; empty where there are no two rows to measure on.

    Raises
    ------
    InputError
        If a curve is asked for, and there are no two different rows of all texts.
    """
    from llreg.geometry.subset.curve import error_curve
    from llreg.geometry.view.view import View
    from llreg.texts.sampling import FLOOR

    rows = full_rows(registry, View.from_json(document["view"]))
    common = {"floor": document["floor"], "replacement": document["replacement"], "seed": document["seed"]}
    try:
        if curve:
            floor = FLOOR if document["method"] == "uniform" else document["floor"]
            return error_curve(rows, **{**common, "floor": floor})
        return error_curve(rows, [document["draws"]], methods=[document["method"]], **common)
    except InputError:
        if curve:
            raise
        return []


def load_subset(registry: Registry, source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """A subset from its document, its file, or its id in the registry, checked.

    Raises
    ------
    InputError
        If there is no such file, it cannot be used, or it is of another text set.
    """
    try:
        if isinstance(source, Mapping):
            return check_subset(check("subset", dict(source), "subset"), registry.info, "subset")
        path = Path(source)
        if not path.is_file() and (there := subset_path(registry.path, str(source))).is_file():
            path = there
        return check_subset(parse("subset", path.read_bytes(), str(path)), registry.info, str(path))
    except OSError as error:
        raise InputError(
            f"{source}: expected a subset file ({error.strerror}); make one with: llreg subset --size N -o FILE"
        ) from error
    except InvalidFileError as error:
        raise InputError(f"{error}; make a subset with: llreg subset --size N -o FILE") from error


def subset_path(root: Path, subset: str) -> Path:
    """Where a registry keeps a subset."""
    return root / DIRECTORY / f"{subset}.json"


def store_subset(root: Path, document: Mapping[str, Any]) -> None:
    """Keep a subset in a registry; one that is there is left as it is.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    path = subset_path(root, document["id"])
    if not path.exists():
        atomic.write_atomic(root, path, dump_subset(document))


def dump_subset(document: Mapping[str, Any]) -> bytes:
    """A subset's file: canonical JSON, for it is mostly numbers."""
    return f"{canonical_json(document)}\n".encode()


def check_subset(document: dict[str, Any], info: Mapping[str, Any], shown: str) -> dict[str, Any]:
    """Return a subset's document if it is one of this registry, drawn as it says.

    Parameters
    ----------
    document : dict
        That ``subset.schema.json`` accepts.
    info : mapping
        registry.json.
    shown : str
        Name of the file in messages.

    Raises
    ------
    InvalidFileError
    """
    if document["text_set"] != info["text_set"]["id"] or document["num_texts"] != info["text_set"]["num_texts"]:
        raise InvalidFileError(
            shown, f"expected this registry's text set, {info['text_set']['id'][:12]}…", field="text_set"
        )
    if len(document["chances"]) != document["num_texts"]:
        raise InvalidFileError(shown, f"expected {document['num_texts']:,}, one a text", field="chances")
    if not 0 < sum(document["chances"]) * document["draws"] < _MAX_TICKETS:
        raise InvalidFileError(shown, "expected a sum above 0, and below 2**62 times the draws", field="chances")
    expected = hash_json({name: value for name, value in document.items() if name != "id"})
    if document["id"] != expected:
        raise InvalidFileError(
            shown, f"expected the hash of the other fields, {expected[:12]}…; it was edited by hand", field="id"
        )
    _check_draw(document, shown)
    return document


def _check_draw(document: Mapping[str, Any], shown: str) -> None:
    if document["draws"] > _DRAWS_A_TEXT * document["num_texts"]:
        raise InvalidFileError(shown, f"expected at most {_DRAWS_A_TEXT} a text of the set", field="draws")
    try:
        counts = _draw(document)
    except InputError as error:
        raise InvalidFileError(shown, str(error), field="draws") from error
    texts = counts.nonzero()[0]
    if document["texts"] != texts.tolist() or document["counts"] != counts[texts].tolist():
        raise InvalidFileError(
            shown, "expected the texts that its chances and seed draw: they were chosen by hand", field="texts"
        )


def read_subset(registry: Contents, subset: str) -> dict[str, Any]:
    """One of a registry's subsets by its id.

    Raises
    ------
    InvalidFileError
        If it is missing or damaged.
    """
    path = subset_path(registry.path, subset)
    registry.folder.fetch(path)
    try:
        status = path.stat()
    except OSError as error:
        raise InvalidFileError(
            registry.shown(path),
            f"cannot be read: {error.strerror}; rows were scored on this subset: get it from where they came",
        ) from error
    text_set = registry.info["text_set"]
    return _read(path, registry.shown(path), (status.st_mtime_ns, status.st_size), text_set["id"], registry.num_texts)


@lru_cache(maxsize=64)
def _read(path: Path, shown: str, _: tuple[int, int], text_set: str, num_texts: int) -> dict[str, Any]:
    """Read and check a subset file once while it stays the same."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidFileError(shown, f"cannot be read: {error.strerror}") from error
    document = check_subset(parse("subset", data, shown), {"text_set": {"id": text_set, "num_texts": num_texts}}, shown)
    if document["id"] != path.stem:
        raise InvalidFileError(shown, f"expected {path.stem}; got {document['id']}", field="id")
    return document


def list_subsets(registry: Contents) -> list[dict[str, Any]]:
    """The subsets of a registry, checked, by id."""
    return [
        read_subset(registry, name.removesuffix(".json"))
        for name in registry.folder.names(registry.path / DIRECTORY)
        if name.endswith(".json")
    ]


def read_designs(registry: Contents, records: Sequence[RowRecord]) -> list[Design | None]:
    """The design of each row; None for a row scored on the whole set.

    Raises
    ------
    InvalidFileError
        If the subset of a row is missing or damaged.
    """
    from llreg.texts.design import Design

    subsets = {record.identity.subset for record in records} - {None}
    designs = {subset: Design.from_json(read_subset(registry, subset)) for subset in sorted(filter(None, subsets))}
    return [designs.get(record.identity.subset or "") for record in records]
