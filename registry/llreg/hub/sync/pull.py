"""`pull`: bring a registry on this machine to a commit on the Hub; rows that are only here stay."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llreg import atomic
from llreg.hub.client.repo import MAIN, Progress, Repo, blob_oid, is_repo_id
from llreg.hub.sync.download import Download, download, download_directory
from llreg.hub.sync.state import (
    RemoteState,
    differing_part,
    has_rows,
    is_valid_document,
    list_state,
    readable,
    tables_to_download,
)
from llreg.store.build import Source, gather, put_build, row_sources, save_dropped_rows, write_build
from llreg.store.contents import Contents, open_folder
from llreg.store.init import prepare
from llreg.store.layout import CONFIG, RECIPE, RETRACTIONS, SUBSETS, TEXTS, VERSIONS, enclosing, version_file
from llreg.store.pin import Pin, read_pin, write_pin
from llreg.store.rowfile import row_path, to_zip
from llreg_schemas import RowRecord, version_id
from llreg_schemas.errors import HubNotFoundError, InputError, LlregWarning
from llreg_schemas.records import RegistryInfo

# The Hub may answer for a moment with what a branch was before its last commit.
_STALE_TRIES = 3  # where main lacks published rows that are here
_STALE_SECONDS = 1.0  # between the tries


@dataclass(frozen=True)
class PullResult:
    """What a pull did.

    Attributes
    ----------
    repo, revision, commit : str
    path : Path
        The registry.
    version : str
        Version id of the accepted rows that are here now, unpublished ones among them.
    rows : int
        How many these are.
    added, retracted : tuple of str
        Row ids that came and that were withdrawn.
    files, bytes : int
        What was downloaded.
    left_out : tuple of str
        Rows and documents that are bad on the Hub, "file: reason".
    """

    repo: str
    revision: str
    commit: str
    path: Path
    version: str
    rows: int
    added: tuple[str, ...]
    retracted: tuple[str, ...]
    files: int
    bytes: int
    left_out: tuple[str, ...] = ()


def pull(
    registry: Contents, repo: str | None = None, *, revision: str | None = None, progress: Progress | None = None
) -> PullResult:
    """Bring a local registry to the state of its repository on the Hub.

    A reader meanwhile sees the rows of before or of after. Rows that are not published stay as they are.

    Behind `Registry.pull`, which describes parameters, result and errors.
    """
    registry.check_changeable()
    return _pull(registry.path, registry, repo, revision, progress)


def clone(
    repo: str, path: str | Path | None = None, *, revision: str | None = None, progress: Progress | None = None
) -> PullResult:
    """Pull a registry into a directory that holds none yet; it becomes one when all has come.

    Parameters
    ----------
    repo : str
        ``org/name``.
    path : str or Path, optional
        By default the name of the repository, in the working directory.
    revision : str, optional
        Branch, tag or commit; by default what was pulled into `path` before, or main.
    progress : callable, optional
        Called with (files done, files in all).

    Returns
    -------
    PullResult
        Its ``path`` is the registry's directory; the rows that came, the commit and version, and what was downloaded.

    Raises
    ------
    InputError
        If `path` is a file, or a registry that was pulled from elsewhere, or has rows younger than the revision.
    HubNotFoundError, HubAccessError, HubUnreachableError
        There is no registry then; what was downloaded is kept for the next try.
    """
    root = Path(path if path is not None else Repo(repo).id.partition("/")[2]).expanduser().resolve()
    if root.exists() and not root.is_dir():
        raise InputError(f"{root} is a file; choose a directory for {repo}: llreg pull {repo} -r NEW_DIR")
    if (root / CONFIG).is_file():
        return pull(open_folder(root), repo, revision=revision, progress=progress)
    pin = read_pin(root)
    if pin is None or pin.repo != repo:
        # A directory that was begun for another repository holds nothing of it yet; a misspelt name makes none.
        resolve(Repo(repo), revision or MAIN)
        if pin is None:
            prepare(root)
        # With the pin a pull that is cut off is gone on with by the same command.
        write_pin(root, Pin(repo, revision or MAIN))
    return _pull(root, None, repo, revision, progress)


def directory_for(repo: str, option: str | None) -> Path:
    """Where `llreg pull REPO` puts a registry: what -r says, the enclosing registry if it came from there, or ./name."""
    if option is not None and not is_repo_id(option):
        return Path(option)
    for directory in enclosing():
        if (directory / CONFIG).is_file():
            pin = read_pin(directory)
            if pin is not None and pin.repo == repo:
                return directory
            break
    return Path(repo.rpartition("/")[2])


def _pull(
    root: Path, registry: Contents | None, repo: str | None, revision: str | None, progress: Progress | None
) -> PullResult:
    with atomic.lock(root, "hub"):
        pin = read_pin(root)
        if pin is None or (repo is not None and repo != pin.repo):
            if repo is None:
                raise InputError(f"{root} was not pulled from the Hub; say from where: llreg pull ORG/NAME")
            if pin is not None and pin.commit:
                raise InputError(f"{root} was pulled from {pin.repo}; pull {repo} into a directory of its own")
            pin = Pin(repo)
        if revision is not None:
            pin = replace(pin, revision=revision)
        target = Repo(pin.repo)
        tries = _STALE_TRIES if pin.revision == MAIN else 1
        while True:
            commit = resolve(target, pin.revision)
            local = None if registry is None else readable(registry)
            # Nothing to ask for where all of the commit came with the last pull, and is intact.
            is_pinned = registry is local and commit == pin.commit
            if registry is not None and is_pinned and has_rows(registry, pin.digests(), registry.retractions()):
                write_pin(root, pin)
                records = registry.records()
                return _result(pin, commit, root, records, records)
            remote = list_state(target, commit, pin)
            tables = tables_to_download(remote, root, pin)
            downloaded = download(target, remote, root, local, pin.digests(), tables, progress)
            try:
                result = apply(downloaded, root, local, pin)
                break
            except OlderRevisionError:
                tries -= 1
                if not tries:
                    raise
            time.sleep(_STALE_SECONDS)
        if registry is not None:
            registry.reload()
        return result


def resolve(repo: Repo, revision: str) -> str:
    """The commit of a revision; the hint where it is only a named version."""
    try:
        return repo.commit_of(revision)
    except HubNotFoundError:
        if revision != MAIN and any(
            entry.path == version_file(revision) for entry in repo.listing(repo.commit_of(MAIN), VERSIONS)
        ):
            raise HubNotFoundError(
                f"{revision} is a version of {repo.id} without a tag of the repository: llreg pull {repo.id}, "
                f"then read it with -r DIR@{revision}"
            ) from None
        raise


def apply(downloaded: Download, root: Path, registry: Contents | None, pin: Pin) -> PullResult:
    """Put what came into the registry; one rename makes its rows change for readers. The caller reloads it.

    Parameters
    ----------
    downloaded : Download
    root : Path
        Directory of the registry.
    registry : Contents or None
        It, if there is one already.
    pin : Pin
        What it was pinned to until now.
    """
    remote = downloaded.remote
    # Documents that are here and bad are replaced first: with them, nothing here can be read.
    for path in remote.documents:
        is_on_both_sides = (downloaded.root / path).is_file() and (root / path).is_file()
        if is_on_both_sides and not is_valid_document(root, path, downloaded.registry.info):
            _put(downloaded, root, path)
    check_compatible(downloaded, registry, pin)
    retracted = remote.document_names(RETRACTIONS)
    if registry is not None:
        retracted |= registry.retractions().keys()
    records = merged_records(downloaded, registry, retracted)
    previous = [] if registry is None else registry.records()
    with atomic.lock(root, "build"), atomic.staging_directory(root) as staging:
        info = merged_info(downloaded, registry, pin)
        if registry is not None:
            # First of all: who has read the old build's records finds the values of retracted rows in files.
            save_dropped_rows(registry, records.values())
        write_merged_build(downloaded, registry, records, info, retracted, staging)
        # Before the build, what its rows need; after it, what tells of rows that readers must have first.
        _put_documents(downloaded, root, SUBSETS)
        if registry is None:
            _put(downloaded, root, TEXTS)
        if (downloaded.root / RECIPE).is_file() and not (root / RECIPE).is_file():
            _put(downloaded, root, RECIPE)
        put_build(root, staging)
        if registry is not None:
            _prefer_published(downloaded, registry)
        for digest in downloaded.row_files.keys() - records.keys():  # retracted: kept as files
            _put(downloaded, root, downloaded.row_files[digest].relative_to(downloaded.root).as_posix())
        _put_documents(downloaded, root, RETRACTIONS)
        _put_documents(downloaded, root, VERSIONS)
        for path in remote.tables:
            if (downloaded.root / path).is_file():
                _put(downloaded, root, path)
        # registry.json last: of a new registry it says that all has come.
        if registry is None or info is not registry.info:
            _put(downloaded, root, CONFIG)
    write_pin(root, pin_at(pin, remote, remote.commit))
    shutil.rmtree(download_directory(root, remote.commit), ignore_errors=True)
    return _result(pin, remote.commit, root, list(records.values()), previous, downloaded)


def _put(downloaded: Download, root: Path, name: str) -> None:
    atomic.write_atomic(root, root / name, (downloaded.root / name).read_bytes())


def _put_documents(downloaded: Download, root: Path, folder: str) -> None:
    for path in downloaded.remote.documents:
        if path.startswith(f"{folder}/") and (downloaded.root / path).is_file():
            _put(downloaded, root, path)


def _result(
    pin: Pin,
    commit: str,
    root: Path,
    records: Sequence[RowRecord],
    previous: Sequence[RowRecord],
    downloaded: Download | None = None,
) -> PullResult:
    digests = {record.digest for record in records}
    previous_digests = {record.digest for record in previous}
    return PullResult(
        repo=pin.repo,
        revision=pin.revision,
        commit=commit,
        path=root,
        version=version_id(digests),
        rows=len(records),
        added=tuple(record.row_id for record in records if record.digest not in previous_digests),
        retracted=tuple(record.row_id for record in previous if record.digest not in digests),
        files=downloaded.num_files if downloaded else 0,
        bytes=downloaded.num_bytes if downloaded else 0,
        left_out=downloaded.left_out if downloaded else (),
    )


def pin_at(pin: Pin, remote: RemoteState, commit: str) -> Pin:
    """The pin of a registry that holds all of a commit."""
    tables = {path: entry.oid for path, entry in remote.tables.items()}
    return replace(pin, commit=commit, config=remote.root[CONFIG].oid, rows=dict(remote.row_folders), tables=tables)


def merged_records(downloaded: Download, registry: Contents | None, retracted: Collection[str]) -> dict[str, RowRecord]:
    """Records of the rows that are there or here and not retracted, by digest, in build order; the Hub's where both
    have one."""
    records = {} if registry is None else {record.digest: record for record in registry.records()}
    # Later entries win: the Hub's record replaces ours.
    accepted = [record for digest, record in {**records, **downloaded.records}.items() if digest not in retracted]
    return {record.digest: record for record in sorted(accepted, key=lambda record: record.sort_key)}


def write_merged_build(
    downloaded: Download,
    registry: Contents | None,
    records: Mapping[str, RowRecord],
    info: RegistryInfo,
    retracted: Collection[str],
    directory: Path,
) -> None:
    """Write the build of some rows, that are here or came, into an empty directory."""
    # Asked in this order: the downloaded rows, then those that are here.
    sources: list[Source] = [downloaded.rows, *([] if registry is None else row_sources(registry))]
    ordered = list(records.values())
    texts = downloaded.registry.text_index
    fine = downloaded.registry.fine_map
    write_build(directory, gather(ordered, sources, fine), ordered, texts, info, retracted, fine)


class OlderRevisionError(InputError):
    """A commit that lacks published rows that are here."""


def check_compatible(downloaded: Download, registry: Contents | None, pin: Pin) -> None:
    """Refuse another registry, and a commit that is older than published rows that are here.

    Raises
    ------
    InputError
    OlderRevisionError
    """
    if registry is None:
        return
    root = registry.path
    if difference := differing_part(registry.info, downloaded.registry.info):
        word, ours, theirs = difference
        raise InputError(
            f"{root} has the {word} {ours}, the registry on the Hub {theirs}: their rows do not compare; "
            "pull it into a directory of its own"
        )
    # Published rows are never taken back, so a commit without them is an older one.
    younger = (pin.digests() & registry.digests()) - downloaded.records.keys() - downloaded.remote.rows.keys()
    if younger:
        raise OlderRevisionError(
            f"{root} holds {len(younger):,} published rows that {pin.revision} has not; pull it into a directory of its own "
            "with -r NEW_DIR, or read a named version with -r DIR@TAG"
        )


def _prefer_published(downloaded: Download, registry: Contents) -> None:
    """Where the same values were measured here and published by somebody else, the published record counts."""
    for digest, path in registry.row_files(whole=True).items():
        record = downloaded.records.get(digest)
        if record is None or not registry.is_sound(path):
            continue
        ours = registry.file_record(path)
        if ours != record and ours.identity == record.identity:
            row = replace(registry.read_file(path), record=record)
            atomic.write_atomic(registry.path, registry.path / row_path(record), to_zip(row))


def merged_info(downloaded: Download, registry: Contents | None, pin: Pin) -> RegistryInfo:
    """registry.json after the pull: the Hub's, unless it was changed on this machine since the last one."""
    theirs = downloaded.registry.info
    if registry is None or not pin.config or theirs == registry.info:
        return theirs
    # Not changed here since the last pull: theirs is newer.
    if blob_oid((registry.path / CONFIG).read_bytes()) == pin.config:
        return theirs
    if downloaded.remote.root[CONFIG].oid != pin.config:
        warnings.warn(
            f"{CONFIG} was changed here and on the Hub; yours is kept, and your next push replaces theirs: to take theirs, "
            f"delete yours and run: llreg pull {pin.repo}",
            LlregWarning,
            stacklevel=4,
        )
    return registry.info
