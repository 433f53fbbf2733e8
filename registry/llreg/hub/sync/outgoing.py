"""What a push would send: which files of a registry the Hub lacks, or has otherwise."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llreg.hub.client.repo import same_content
from llreg.hub.sync.published import ATTRIBUTES, Published
from llreg.store.build import store_attributes
from llreg.store.card import make_card
from llreg.store.contents import Contents
from llreg.store.layout import BUILD, CARD, CONFIG, RECIPE, STORE, TABLE, TEXTS
from llreg.store.rowfile import row_path, to_zip
from llreg_schemas import RowRecord
from llreg_schemas.errors import InputError, InvalidFileError
from llreg_schemas.records import RegistryInfo


@dataclass(frozen=True)
class Outgoing:
    """Files that a commit adds or changes, and files that it deletes.

    Attributes
    ----------
    files : mapping of str to Path
        Path in the repository -> file on this machine.
    deleted : tuple of str
        Files of an older build that the new one has not.
    rows : tuple of RowRecord
        The rows among them.
    sizes : mapping of str to int
        Bytes of each file.
    """

    files: Mapping[str, Path]
    deleted: tuple[str, ...] = ()
    rows: tuple[RowRecord, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, files: Mapping[str, Path], rows: Sequence[RowRecord] = (), deleted: Sequence[str] = ()) -> Outgoing:
        """With the sizes of the files as they are now."""
        sizes = {name: path.stat().st_size for name, path in sorted(files.items())}
        return cls(files, tuple(deleted), tuple(rows), sizes)


def unpublished(registry: Contents, published: Published, only: Collection[str] | None) -> list[RowRecord]:
    """Records of accepted rows that the commit lacks, in build order.

    Parameters
    ----------
    registry : Contents
    published : Published
    only : collection of str or None
        Paths in the registry that may be sent; None for all.
    """
    records = [record for record in registry.records() if not published.holds(record)]
    return [record for record in records if only is None or row_path(record).as_posix() in only]


def row_files(registry: Contents, records: Sequence[RowRecord], directory: Path) -> dict[str, Path]:
    """Row files to send; those that only the build holds are written into `directory` first."""
    here = registry.row_files()
    found: dict[str, Path] = {}
    for record in records:
        name = row_path(record).as_posix()
        if record.digest in here:
            found[name] = here[record.digest]
            continue
        row = registry.store.intact_rows([record]).get(record.digest)
        if row is None:
            raise InvalidFileError(
                STORE, f"the values of {record.row_id} were changed; get it again from where it came"
            )
        found[name] = directory / name
        found[name].parent.mkdir(parents=True, exist_ok=True)
        found[name].write_bytes(to_zip(row))
    return found


def subsets_of(registry: Contents, records: Sequence[RowRecord], published: Published) -> dict[str, Path]:
    """Files of the text subsets that rows were scored on and the commit lacks."""
    ids = {record.identity.subset for record in records} - {None} - published.names_in("subsets")
    return {
        f"subsets/{subset}.json": registry.path / "subsets" / f"{subset}.json" for subset in sorted(filter(None, ids))
    }


def retractions(
    registry: Contents, published: Published, sent: Sequence[RowRecord], only: Collection[str] | None
) -> dict[str, Path]:
    """Retractions that the commit lacks, of rows that it holds."""
    there = set(published.rows) | {record.digest for record in sent}
    lacking = registry.retractions().keys() - published.names_in("retractions")
    names = [f"retractions/{digest}.json" for digest in sorted(lacking & there)]
    return {name: registry.path / name for name in names if only is None or name in only}


def versions(registry: Contents, published: Published, rows: Collection[str]) -> dict[str, Path]:
    """Named versions that the commit lacks and whose rows it will hold.

    Raises
    ------
    InputError
        If a name stands for another version there.
    """
    found = {}
    for manifest in registry.versions():
        name = f"versions/{manifest['tag']}.json"
        if name in published.documents:
            if not same_content(published.documents[name], registry.path / name):
                raise InputError(
                    f"version {manifest['tag']} names other rows on the Hub; tags never move: delete {name} here and choose another name"
                )
        elif rows and set(manifest["rows"]) <= set(rows):
            found[name] = registry.path / name
    return found


def is_built(registry: Contents, records: Sequence[RowRecord], info: RegistryInfo, retracted: Collection[str]) -> bool:
    """Whether a registry's build is that of some rows, under some registry.json."""
    root, store = registry.path, registry.store
    if not ((root / TABLE).is_file() and (root / CARD).is_file() and store.exists()):
        return False
    if store.records() != list(records) or store.retracted() != set(retracted):
        return False
    attributes = json.loads((root / STORE / "zarr.json").read_bytes())["attributes"]
    return bool(
        store_attributes(info, retracted).items() <= attributes.items()
        and (root / CARD).read_text(encoding="utf-8") == make_card(info, records)
    )


def build_files(directory: Path, published: Published) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Files of a build that the commit lacks or has otherwise, and those it has too many."""
    found = {}
    for part in BUILD:
        root = directory / part
        for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
            if path.is_file():
                found[path.relative_to(directory).as_posix()] = path
    there = {**published.store, **{name: entry for name, entry in published.root.items() if not entry.is_folder}}
    changed = {name: path for name, path in found.items() if name not in there or not same_content(there[name], path)}
    return changed, tuple(sorted(name for name in published.store if name not in found))


def settings_files(registry: Contents, published: Published, *, ours: bool) -> dict[str, Path]:
    """registry.json, if it is ours that counts and it differs; texts, recipe and git attributes where they are missing."""
    names = [TEXTS, ATTRIBUTES, *([RECIPE] if (registry.path / RECIPE).is_file() else [])]
    found = {name: registry.path / name for name in names if name not in published.root}
    config = registry.path / CONFIG
    if CONFIG not in published.root or (ours and not same_content(published.root[CONFIG], config)):
        found[CONFIG] = config
    return found
