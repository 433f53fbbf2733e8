"""Uploading: which files of the registry a repository lacks or has otherwise, and the one commit that sends them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llreg.hub.client.repo import MAIN, Repo, same_content
from llreg.hub.sync.state import ATTRIBUTES, RemoteState
from llreg.store.build import store_attributes
from llreg.store.card import make_card
from llreg.store.contents import Contents
from llreg.store.folder import files_below
from llreg.store.layout import (
    BUILD,
    CARD,
    CONFIG,
    RECIPE,
    RETRACTIONS,
    STORE,
    SUBSETS,
    TABLE,
    TEXTS,
    VERSIONS,
    retraction_file,
    subset_file,
    version_file,
)
from llreg.store.rowfile import row_path, to_zip
from llreg.store.validate import validate
from llreg_schemas import RowRecord
from llreg_schemas.errors import HubUnreachableError, InputError, InvalidFileError
from llreg_schemas.records import RegistryInfo

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

_TITLE_MODELS = 3  # models named in a title
_TITLE_CHARS = 200  # the Hub's limit for a pull request


@dataclass(frozen=True)
class Upload:
    """Files that a commit adds or changes, and files that it deletes.

    Attributes
    ----------
    files : mapping of str to Path
        Path in the repository -> file on this machine.
    rows : sequence of RowRecord
        The rows among them.
    deleted : sequence of str
        Files of an older build that the new one has not.
    sizes : mapping of str to int
        Bytes of each file when the upload was put together.
    """

    files: Mapping[str, Path]
    rows: Sequence[RowRecord] = ()
    deleted: Sequence[str] = ()
    sizes: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        # Now, as many of the files are in a staging directory that is deleted after the commit.
        object.__setattr__(self, "sizes", {name: path.stat().st_size for name, path in sorted(self.files.items())})


@dataclass(frozen=True)
class PushResult:
    """What a push did, or (`dry_run`) would do.

    Attributes
    ----------
    repo : str
    commit : str or None
        The commit made; None where there was nothing to publish.
    url : str
        Page of the commit, pull request or repository.
    pull_request : int or None
        Its number, where rows went to a pull request.
    rows : tuple of str
        Row ids that were published.
    files : mapping of str to int
        Files sent and their bytes.
    deleted : tuple of str
        Files of the older build that were taken out.
    tags : tuple of str
        Versions that were named.
    tries : int
        How often it was begun: more than once where others published meanwhile.
    dry_run : bool
    """

    repo: str
    commit: str | None
    url: str
    pull_request: int | None = None
    rows: tuple[str, ...] = ()
    files: Mapping[str, int] = field(default_factory=dict)
    deleted: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    tries: int = 1
    dry_run: bool = False


class UnknownOutcomeError(HubUnreachableError):
    """No answer to a commit: it may have been made.

    Parameters
    ----------
    message : str
    upload : Upload
        What it holds.
    revision : str
        Branch or pull request that it was for.
    """

    def __init__(self, message: str, upload: Upload, revision: str) -> None:
        super().__init__(message)
        self.upload, self.revision = upload, revision


# Files to upload


def check_row_files(registry: Contents, published: Collection[str], only: Collection[str] | None) -> None:
    """Run the validator on all row files that may be about to be published.

    Parameters
    ----------
    registry : Contents
    published : collection of str
        Digests of rows that are published.
    only : collection of str or None
        Paths in the registry that may be sent; None for all.

    Raises
    ------
    InvalidFileError
        Names the first problem.
    """
    # Of all files, not of `records()`, which leaves out what cannot be read.
    excluded = registry.retractions().keys() | published
    paths = [path for digest, path in registry.row_files(whole=True).items() if digest not in excluded]
    paths = [path for path in paths if only is None or path.relative_to(registry.path).as_posix() in only]
    problems = validate(registry, paths) if paths else []
    if problems:
        more = f" (and {len(problems) - 1} more files; see: llreg validate)" if len(problems) > 1 else ""
        raise InvalidFileError(problems[0].file, f"{problems[0].message}; nothing was published{more}")


def unpublished_records(registry: Contents, remote: RemoteState, only: Collection[str] | None) -> list[RowRecord]:
    """Records of accepted rows whose files the commit lacks, in build order.

    Parameters
    ----------
    registry : Contents
    remote : RemoteState
    only : collection of str or None
        Paths in the registry that may be sent; None for all.
    """
    records = [record for record in registry.records() if not remote.has_file_of(record)]
    return [record for record in records if only is None or row_path(record).as_posix() in only]


def row_files(registry: Contents, records: Sequence[RowRecord], staging: Path) -> dict[str, Path]:
    """Row files to send; those that only the build holds are written into the staging directory first."""
    local = registry.row_files(whole=True)
    files: dict[str, Path] = {}
    for record in records:
        name = row_path(record).as_posix()
        if record.digest in local:
            files[name] = local[record.digest]
            continue
        # Only the build has the row: its file, whose bytes follow from it, is made again.
        row = registry.store.intact_rows([record]).get(record.digest)
        if row is None:
            raise InvalidFileError(
                STORE, f"the values of {record.row_id} were changed; get it again from where it came"
            )
        if record.is_fine:
            raise InputError(
                f"the segments of {record.row_id} are not here: a build has none, and its row file stayed where the row was "
                "pulled from; score the model again, or push from a registry that has the file"
            )
        files[name] = staging / name
        files[name].parent.mkdir(parents=True, exist_ok=True)
        files[name].write_bytes(to_zip(row))
    return files


def subset_files(registry: Contents, records: Sequence[RowRecord], remote: RemoteState) -> dict[str, Path]:
    """Files of the text subsets that rows were scored on and the commit lacks."""
    ids = {record.identity.subset for record in records if record.identity.subset}
    names = [subset_file(subset) for subset in sorted(ids - remote.document_names(SUBSETS))]
    return {name: registry.path / name for name in names}


def retraction_files(
    registry: Contents, remote: RemoteState, records: Sequence[RowRecord], only: Collection[str] | None
) -> dict[str, Path]:
    """Retractions that the commit lacks, of rows that it holds or, among `records`, will hold."""
    rows = remote.rows.keys() | {record.digest for record in records}
    lacking = registry.retractions().keys() - remote.document_names(RETRACTIONS)
    names = [retraction_file(digest) for digest in sorted(lacking & rows)]
    return {name: registry.path / name for name in names if only is None or name in only}


def version_files(registry: Contents, remote: RemoteState, rows: Collection[str]) -> dict[str, Path]:
    """Named versions that the commit lacks and whose rows it will hold.

    Raises
    ------
    InputError
        If a name stands for another version there.
    """
    files = {}
    for manifest in registry.versions():
        name = version_file(manifest["tag"])
        if name in remote.documents:
            if not same_content(remote.documents[name], registry.path / name):
                raise InputError(
                    f"version {manifest['tag']} names other rows on the Hub; tags never move: delete {name} here and choose another name"
                )
        elif rows and set(manifest["rows"]) <= set(rows):
            files[name] = registry.path / name
    return files


def is_built(registry: Contents, records: Sequence[RowRecord], info: RegistryInfo, retracted: Collection[str]) -> bool:
    """Whether a registry's build is that of some rows, under some registry.json."""
    root, store = registry.path, registry.store
    if not ((root / TABLE).is_file() and (root / CARD).is_file() and store.exists()):
        return False
    # By content; the bytes of the build may be those of another library version.
    if store.records() != list(records) or store.retracted() != set(retracted):
        return False
    # The store's attributes and the card say what registry.json said when they were made.
    attributes = json.loads((root / STORE / "zarr.json").read_bytes())["attributes"]
    return bool(
        store_attributes(info, retracted).items() <= attributes.items()
        and (root / CARD).read_text(encoding="utf-8") == make_card(info, records)
    )


def build_files(directory: Path, remote: RemoteState) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Files of a build that the commit lacks or has otherwise, and those it has too many."""
    files = {}
    # One part is a directory, the others are files.
    for part in BUILD:
        root = directory / part
        for path in sorted(files_below(root)) if root.is_dir() else [root]:
            if path.is_file():
                files[path.relative_to(directory).as_posix()] = path
    entries = {**remote.store, **{name: entry for name, entry in remote.root.items() if not entry.is_folder}}
    changed = {n: path for n, path in files.items() if n not in entries or not same_content(entries[n], path)}
    return changed, tuple(sorted(remote.store.keys() - files.keys()))


def settings_files(registry: Contents, remote: RemoteState, *, ours: bool) -> dict[str, Path]:
    """registry.json, if it is ours that counts and it differs; texts, recipe and git attributes where they are missing."""
    names = [TEXTS, ATTRIBUTES, *([RECIPE] if (registry.path / RECIPE).is_file() else [])]
    files = {name: registry.path / name for name in names if name not in remote.root}
    config = registry.path / CONFIG
    if CONFIG not in remote.root or (ours and not same_content(remote.root[CONFIG], config)):
        files[CONFIG] = config
    return files


# The commit


def commit_title(upload: Upload) -> str:
    """What a commit does, in a line."""
    if upload.rows:
        models = list(dict.fromkeys(record.identity.name for record in upload.rows))
        more = ", …" if len(models) > _TITLE_MODELS else ""
        count = len(upload.rows)
        title = f"Add {count} row{'s' * (count > 1)}: {', '.join(models[:_TITLE_MODELS])}{more}"
    else:
        retracted = sum(name.startswith(f"{RETRACTIONS}/") for name in upload.files)
        tags = [Path(name).stem for name in upload.files if name.startswith(f"{VERSIONS}/")]
        parts = [f"Retract {retracted} row{'s' * (retracted > 1)}"] if retracted else []
        parts += [f"Name version {', '.join(tags)}"] if tags else []
        title = "; ".join(parts) or "Build"
    return title if len(title) <= _TITLE_CHARS else title[: _TITLE_CHARS - 1] + "…"


def make_commit(
    target: Repo,
    upload: Upload,
    message: str,
    description: str,
    *,
    parent: str,
    revision: str = MAIN,
    create_pr: bool = False,
) -> CommitInfo:
    """Make one commit on a branch or pull request that is at `parent`, or on a new pull request.

    Raises
    ------
    HubConflictError
        If the branch is not at `parent` any more.
    UnknownOutcomeError
        If there was no answer.
    HubAccessError, HubUnreachableError, HubError
        Nothing was published.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    # The client uploads large files first; the commit itself is one request.
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(name, str(path)) for name, path in sorted(upload.files.items())
    ]
    operations += [CommitOperationDelete(name) for name in upload.deleted]
    try:
        with target.errors(revision):
            return target.api.create_commit(
                target.id,
                operations,
                commit_message=message,
                commit_description=description,
                repo_type="dataset",
                revision=revision,
                create_pr=create_pr,
                parent_commit=parent,
            )
    except HubUnreachableError as error:
        # The request may have been carried out and only its answer lost.
        raise UnknownOutcomeError(str(error), upload, revision) from error
    except RuntimeError as error:
        # The client hides what goes wrong with an upload, before the commit, in an error of its own.
        if not isinstance(error.__cause__, Exception):
            raise
        try:
            with target.errors():
                raise error.__cause__
        except HubUnreachableError as cause:
            raise HubUnreachableError(f"{cause}; nothing was published") from error
