"""Samples of the text set that a row may be scored on: ``subsets/<id>.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llreg import atomic
from llreg.store.folder import RegistryFiles
from llreg.store.layout import SUBSETS, subset_file
from llreg_schemas import canonical_json, check, hash_json, parse
from llreg_schemas.errors import InputError, InvalidFileError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llreg.texts.design import Design
    from llreg_schemas import RowRecord

_DRAWN = ("id", "texts", "counts")  # fields that follow from the others
_MAX_TICKETS = 1 << 62
DRAWS_A_TEXT = 100


def draw_subset(rules: Mapping[str, Any]) -> NDArray[np.int64]:
    """Counts of the texts that the rules draw: the random numbers are made from the rules themselves.

    So anybody can check a sample, and two samples by different rules are independent.
    """
    import numpy as np

    from llreg.texts.sampling import draw_texts

    key = hash_json({name: value for name, value in rules.items() if name not in _DRAWN})
    chances = np.asarray(rules["chances"], dtype=np.int64)
    return draw_texts(chances, rules["draws"], replacement=rules["replacement"], key=key)


def load_subset(registry: RegistryFiles, source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
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
        # A file goes before an id, which no file is likely to be called.
        if not path.is_file() and (by_id := registry.path / subset_file(str(source))).is_file():
            path = by_id
        return check_subset(parse("subset", path.read_bytes(), str(path)), registry.info, str(path))
    except OSError as error:
        raise InputError(
            f"{source}: expected a subset file ({error.strerror}); make one with: llreg subset --size N -o FILE"
        ) from error
    except InvalidFileError as error:
        raise InputError(f"{error}; make a subset with: llreg subset --size N -o FILE") from error


def store_subset(root: Path, document: Mapping[str, Any]) -> None:
    """Keep a subset in a registry; one that is there is left as it is.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    path = root / subset_file(document["id"])
    if not path.exists():
        atomic.write_atomic(root, path, dump_subset(document))


def dump_subset(document: Mapping[str, Any]) -> bytes:
    """A subset's file: canonical JSON, for it is mostly numbers."""
    return f"{canonical_json(document)}\n".encode()


def check_subset(document: dict[str, Any], info: Mapping[str, Any], label: str) -> dict[str, Any]:
    """Return a subset's document if it is one of this registry, drawn as it says.

    Parameters
    ----------
    document : dict
        That ``subset.schema.json`` accepts.
    info : mapping
        registry.json.
    label : str
        Name of the file in messages.

    Raises
    ------
    InvalidFileError
    """
    if document["text_set"] != info["text_set"]["id"] or document["num_texts"] != info["text_set"]["num_texts"]:
        raise InvalidFileError(
            label, f"expected this registry's text set, {info['text_set']['id'][:12]}…", field="text_set"
        )
    if len(document["chances"]) != document["num_texts"]:
        raise InvalidFileError(label, f"expected {document['num_texts']:,}, one a text", field="chances")
    if not 0 < sum(document["chances"]) * document["draws"] < _MAX_TICKETS:
        raise InvalidFileError(label, "expected a sum above 0, and below 2**62 times the draws", field="chances")
    expected = hash_json({name: value for name, value in document.items() if name != "id"})
    if document["id"] != expected:
        raise InvalidFileError(
            label, f"expected the hash of the other fields, {expected[:12]}…; it was edited by hand", field="id"
        )
    # The texts must be those that the rules draw: a sample that somebody chose by hand would pass for a random one.
    if document["draws"] > DRAWS_A_TEXT * document["num_texts"]:
        raise InvalidFileError(label, f"expected at most {DRAWS_A_TEXT} a text of the set", field="draws")
    try:
        counts = draw_subset(document)  # (n_texts,)
    except InputError as error:
        raise InvalidFileError(label, str(error), field="draws") from error
    texts = counts.nonzero()[0]
    if document["texts"] != texts.tolist() or document["counts"] != counts[texts].tolist():
        raise InvalidFileError(
            label, "expected the texts that its chances and seed draw: they were chosen by hand", field="texts"
        )
    return document


def read_subset(registry: RegistryFiles, subset: str) -> dict[str, Any]:
    """One of a registry's subsets by its id.

    Raises
    ------
    InvalidFileError
        If it is missing or damaged.
    """
    label = subset_file(subset)
    path = registry.path / label
    registry.folder.fetch(path)
    try:
        status = path.stat()
    except OSError as error:
        raise InvalidFileError(
            label,
            f"cannot be read: {error.strerror}; rows were scored on this subset: get it from where they came",
        ) from error
    text_set = registry.info.text_set
    return _read(path, label, (status.st_mtime_ns, status.st_size), text_set.id, text_set.num_texts)


# A sample is drawn again to check it, which takes a while; rows of one subset ask for it again and again.
@lru_cache(maxsize=64)
def _read(path: Path, label: str, _: tuple[int, int], text_set: str, num_texts: int) -> dict[str, Any]:
    """Read and check a subset file once while it stays the same."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidFileError(label, f"cannot be read: {error.strerror}") from error
    document = check_subset(parse("subset", data, label), {"text_set": {"id": text_set, "num_texts": num_texts}}, label)
    if document["id"] != path.stem:
        raise InvalidFileError(label, f"expected {path.stem}; got {document['id']}", field="id")
    return document


def list_subsets(registry: RegistryFiles) -> list[dict[str, Any]]:
    """The subsets of a registry, checked, by id."""
    return [
        read_subset(registry, name.removesuffix(".json"))
        for name in registry.folder.names(registry.path / SUBSETS)
        if name.endswith(".json")
    ]


def read_designs(registry: RegistryFiles, records: Sequence[RowRecord]) -> list[Design | None]:
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
