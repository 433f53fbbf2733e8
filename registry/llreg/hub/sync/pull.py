"""`pull`: bring a registry on this machine to a commit on the Hub; rows that are only here stay."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from llreg import atomic
from llreg.hub.client.repo import MAIN, Progress, Repo, blob_oid, is_repo_id
from llreg.hub.sync.holdings import holds, incomparable, is_sound_document, usable
from llreg.hub.sync.incoming import Incoming, staging
from llreg.hub.sync.published import Published, look
from llreg.hub.sync.receiving import receive
from llreg.hub.sync.tables import to_take
from llreg.store.build import Source, gather, put_build, row_sources, save_dropped_rows, write_build
from llreg.store.contents import Contents, open_folder
from llreg.store.init import prepare
from llreg.store.layout import CONFIG, RECIPE, TEXTS, enclosing
from llreg.store.pin import Pin, read_pin, write_pin
from llreg.store.rowfile import row_path, to_zip
from llreg_schemas import RowRecord, version_id
from llreg_schemas.errors import HubNotFoundError, InputError, LlregWarning
from llreg_schemas.records import RegistryInfo

_STALE = 2  # times to ask again where main lacks published rows that are here
_STALE_SECONDS = 1.0


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

    Parameters
    ----------
    registry : Contents
    repo : str, optional
        ``org/name``; by default the one it was pulled from.
    revision : str, optional
        Branch, tag or commit; by default what it was pulled at, or main.
    progress : callable, optional
        Called with (files done, files in all).

    Raises
    ------
    InputError
        If no repository is known, it is another registry, or rows here are younger than the revision.
    HubNotFoundError, HubAccessError, HubUnreachableError
        Nothing has changed; what was downloaded is kept for the next try.
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
    revision, progress
        As in `pull`.
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
        write_pin(root, Pin(repo, revision or MAIN))
    return _pull(root, None, repo, revision, progress)


def directory_for(repo: str, given: str | None) -> Path:
    """Where `llreg pull REPO` puts a registry: what -r says, the enclosing registry if it came from there, or ./name."""
    if given is not None and not is_repo_id(given):
        return Path(given)
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
        pin = _pin_to(root, repo, revision)
        target = Repo(pin.repo)
        for _ in range(_STALE):
            with suppress(OlderRevisionError):
                return _pull_at(target, resolve(target, pin.revision), root, registry, pin, progress)
            if pin.revision != MAIN:
                break
            # The Hub may answer for a moment with what a branch was before its last commit.
            time.sleep(_STALE_SECONDS)
        return _pull_at(target, resolve(target, pin.revision), root, registry, pin, progress)


def _pull_at(
    target: Repo, commit: str, root: Path, registry: Contents | None, pin: Pin, progress: Progress | None
) -> PullResult:
    local = None if registry is None else usable(registry)
    if registry is not None and registry is local and commit == pin.commit and _is_whole(registry, pin):
        write_pin(root, pin)
        return _result(pin, commit, root, registry.records())
    published = look(target, commit, pin)
    incoming = receive(target, published, root, local, pin.digests(), to_take(published, root, pin), progress)
    result = apply(incoming, root, local, pin)
    if registry is not None:
        registry.reload()
    return result


def _is_whole(registry: Contents, pin: Pin) -> bool:
    """Whether the accepted rows that were published at the pinned commit are all here, intact."""
    return holds(registry, pin.digests(), registry.retractions())


def _pin_to(root: Path, repo: str | None, revision: str | None) -> Pin:
    pin = read_pin(root)
    if pin is None or (repo is not None and repo != pin.repo):
        if repo is None:
            raise InputError(f"{root} was not pulled from the Hub; say from where: llreg pull ORG/NAME")
        if pin is not None and pin.commit:
            raise InputError(f"{root} was pulled from {pin.repo}; pull {repo} into a directory of its own")
        pin = Pin(repo)
    return pin if revision is None else replace(pin, revision=revision)


def resolve(repo: Repo, revision: str) -> str:
    """The commit of a revision; the hint where it is only a named version."""
    try:
        return repo.commit_of(revision)
    except HubNotFoundError:
        if revision != MAIN and any(
            entry.name == f"{revision}.json" for entry in repo.listing(repo.commit_of(MAIN), "versions")
        ):
            raise HubNotFoundError(
                f"{revision} is a version of {repo.id} without a tag of the repository: llreg pull {repo.id}, "
                f"then read it with -r DIR@{revision}"
            ) from None
        raise


def apply(incoming: Incoming, root: Path, registry: Contents | None, pin: Pin) -> PullResult:
    """Put what came into the registry; one rename makes its rows change for readers. The caller reloads it."""
    _mend_documents(incoming, root)
    check_same(incoming, registry, pin)
    retracted = retracted_rows(incoming, registry)
    records = merged_records(incoming, registry, retracted)
    before = {} if registry is None else {record.digest: record for record in registry.records()}
    with atomic.lock(root, "build"), atomic.staging_directory(root) as fresh:
        info = settled(incoming, registry, pin)
        if registry is not None:
            # First of all: who has read the old build's records finds the values of retracted rows in files.
            save_dropped_rows(registry, records.values())
        build_from(incoming, registry, records, info, retracted, fresh)
        _put_documents(incoming, root, "subsets")
        if registry is None:
            _put(incoming.root / TEXTS, root, TEXTS)
        if (incoming.root / RECIPE).is_file() and not (root / RECIPE).is_file():
            _put(incoming.root / RECIPE, root, RECIPE)
        put_build(root, fresh)
        _prefer_published(incoming, registry)
        for digest in incoming.files.keys() - records.keys():  # retracted: kept as files
            _put(incoming.files[digest], root, str(incoming.files[digest].relative_to(incoming.root)))
        _put_documents(incoming, root, "retractions")
        _put_documents(incoming, root, "versions")
        for path in incoming.published.tables:
            if (incoming.root / path).is_file():
                _put(incoming.root / path, root, path)
        if registry is None or info is not registry.info:
            _put(incoming.root / CONFIG, root, CONFIG)
    published = incoming.published
    write_pin(root, pinned(pin, published, published.commit))
    shutil.rmtree(staging(root, published.commit), ignore_errors=True)
    return _result(pin, published.commit, root, list(records.values()), before, incoming.downloaded, incoming.left_out)


def _result(
    pin: Pin,
    commit: str,
    root: Path,
    records: Sequence[RowRecord],
    before: Mapping[str, RowRecord] | None = None,
    downloaded: tuple[int, int] = (0, 0),
    left_out: tuple[str, ...] = (),
) -> PullResult:
    here = {record.digest for record in records}
    was = {digest: None for digest in here} if before is None else before
    return PullResult(
        repo=pin.repo,
        revision=pin.revision,
        commit=commit,
        path=root,
        version=version_id(here),
        rows=len(records),
        added=tuple(record.row_id for record in records if record.digest not in was),
        retracted=tuple(r.row_id for digest, r in was.items() if r is not None and digest not in here),
        files=downloaded[0],
        bytes=downloaded[1],
        left_out=left_out,
    )


def pinned(pin: Pin, published: Published, commit: str) -> Pin:
    """The pin of a registry that holds all of a commit."""
    tables = {path: entry.oid for path, entry in published.tables.items()}
    return replace(pin, commit=commit, config=published.root[CONFIG].oid, rows=dict(published.folders), tables=tables)


def retracted_rows(incoming: Incoming, registry: Contents | None) -> set[str]:
    """Digests retracted there or here."""
    there = incoming.published.names_in("retractions")
    return there if registry is None else there | registry.retractions().keys()


def merged_records(incoming: Incoming, registry: Contents | None, retracted: Collection[str]) -> dict[str, RowRecord]:
    """Records of the rows that are there or here and not retracted, by digest, in build order; the Hub's where both
    have one."""
    here = {} if registry is None else {record.digest: record for record in registry.records()}
    kept = [record for digest, record in {**here, **incoming.records}.items() if digest not in retracted]
    return {record.digest: record for record in sorted(kept, key=lambda record: record.sort_key)}


def build_from(
    incoming: Incoming,
    registry: Contents | None,
    records: Mapping[str, RowRecord],
    info: RegistryInfo,
    retracted: Collection[str],
    directory: Path,
) -> None:
    """Write the build of some rows, that are here or came, into an empty directory."""
    sources: list[Source] = [incoming.rows, *([] if registry is None else row_sources(registry))]
    ordered = list(records.values())
    texts = incoming.registry.text_index
    write_build(directory, gather(ordered, sources), ordered, texts, info, retracted)


class OlderRevisionError(InputError):
    """A commit that lacks published rows that are here."""


def check_same(incoming: Incoming, registry: Contents | None, pin: Pin) -> None:
    """Refuse another registry, and a commit that is older than published rows that are here.

    Raises
    ------
    InputError
    OlderRevisionError
    """
    if registry is None:
        return
    root = registry.path
    if differing := incomparable(registry.info, incoming.registry.info):
        word, ours, theirs = differing
        raise InputError(
            f"{root} has the {word} {ours}, the registry on the Hub {theirs}: their rows do not compare; "
            "pull it into a directory of its own"
        )
    there = set(incoming.records) | set(incoming.published.rows)
    younger = (pin.digests() & registry.digests()) - there
    if younger:
        raise OlderRevisionError(
            f"{root} holds {len(younger):,} published rows that {pin.revision} has not; pull it into a directory of its own "
            "with -r NEW_DIR, or read a named version with -r DIR@TAG"
        )


def _prefer_published(incoming: Incoming, registry: Contents | None) -> None:
    """Where the same values were measured here and published by somebody else, the published record counts."""
    if registry is None:
        return
    for digest, path in registry.row_files().items():
        record = incoming.records.get(digest)
        if record is None or not registry.is_sound(path):
            continue
        ours = registry.file_record(path)
        if ours != record and ours.identity == record.identity:
            (row,) = gather([record], [incoming.rows, *row_sources(registry)])
            atomic.write_atomic(registry.path, registry.path / row_path(record), to_zip(row))


def settled(incoming: Incoming, registry: Contents | None, pin: Pin) -> RegistryInfo:
    """registry.json after the pull: the Hub's, unless it was changed on this machine since the last one."""
    theirs = incoming.registry.info
    if registry is None or not pin.config or theirs == registry.info:
        return theirs
    if blob_oid((registry.path / CONFIG).read_bytes()) == pin.config:
        return theirs
    if incoming.published.root[CONFIG].oid != pin.config:
        warnings.warn(
            f"{CONFIG} was changed here and on the Hub; yours is kept, and your next push replaces theirs: to take theirs, "
            f"delete yours and run: llreg pull {pin.repo}",
            LlregWarning,
            stacklevel=4,
        )
    return registry.info


def _mend_documents(incoming: Incoming, root: Path) -> None:
    """Replace documents that are here and bad by the Hub's: with them, nothing here can be read."""
    for path in incoming.published.documents:
        came, here = incoming.root / path, root / path
        if came.is_file() and here.is_file() and not is_sound_document(root, path, incoming.registry.info):
            _put(came, root, path)


def _put_documents(incoming: Incoming, root: Path, folder: str) -> None:
    for path in incoming.published.documents:
        if path.startswith(folder + "/") and (incoming.root / path).is_file():
            _put(incoming.root / path, root, path)


def _put(source: Path, root: Path, name: str) -> None:
    atomic.write_atomic(root, root / name, source.read_bytes())
