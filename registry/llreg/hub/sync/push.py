"""`push`: publish rows. With write rights one commit holds rows and build; without, a pull request holds rows."""

from __future__ import annotations

import hashlib
import random
import time
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from llreg import atomic
from llreg.hub.client.repo import MAIN, Progress, Repo, blob_oid
from llreg.hub.sync.download import Download, download
from llreg.hub.sync.pull import (
    OlderRevisionError,
    apply,
    check_compatible,
    merged_info,
    merged_records,
    pin_at,
    write_merged_build,
)
from llreg.hub.sync.request import propose
from llreg.hub.sync.state import ATTRIBUTES, RemoteState, has_rows, list_state, tables_to_download, tables_to_upload
from llreg.hub.sync.upload import (
    PushResult,
    UnknownOutcomeError,
    Upload,
    build_files,
    check_row_files,
    commit_title,
    is_built,
    make_commit,
    retraction_files,
    row_files,
    settings_files,
    subset_files,
    unpublished_records,
    version_files,
)
from llreg.store.build import build, put_build, save_dropped_rows, stage_build
from llreg.store.card import make_card
from llreg.store.contents import Contents
from llreg.store.documents import read_manifest
from llreg.store.layout import ANNOTATIONS, CARD, CONFIG, RETRACTIONS, ROWS, STORE, VERSIONS, version_file
from llreg.store.pin import Pin, read_pin, write_pin
from llreg.store.versions import check_tag
from llreg.store.zarr_read import StoreReader
from llreg_schemas import RowRecord, pretty_json, version_id
from llreg_schemas.errors import HubConflictError, HubNotFoundError, InputError, LlregWarning
from llreg_schemas.records import RegistryInfo, now, version_manifest

# Others push at the same time: each try takes what they published and builds anew. A push among N waits for at most
# N - 1 others, so this is beyond what a registry sees.
_CONFLICTS = 40
_FAILURES = 3  # tries after an answer that leaves open whether the commit was made
_WAIT_SECONDS = 2.0  # at most, between tries: random, so that writers do not stay in step


@dataclass(frozen=True)
class _Options:
    """Arguments of `push`."""

    only: Collection[str] | None
    tag: str | None
    message: str | None
    description: str | None
    private: bool
    dry_run: bool
    progress: Progress | None


def push(
    registry: Contents,
    repo: str | None = None,
    *,
    create_pr: bool = False,
    dry_run: bool = False,
    only: Collection[str] | None = None,
    tag: str | None = None,
    message: str | None = None,
    description: str | None = None,
    private: bool = False,
    progress: Progress | None = None,
) -> PushResult:
    """Publish what the Hub does not have yet.

    Behind `Registry.push`, which describes parameters, result and errors.
    """
    registry.check_changeable()
    with atomic.lock(registry.path, "hub"):
        pin = _pin_for(registry, repo)
        target = Repo(pin.repo)
        exists = _main_commit(target) is not None
        # A first push makes the repository; one that was there and is gone is not made anew unasked.
        if pin.commit and not exists:
            raise HubNotFoundError(
                f"{pin.repo}, where this registry was published, is not on the Hub any more, or you may not see it: log in "
                "with: hf auth login; to publish it anew, delete .llreg/remote.json here and push to a repository of your own"
            )
        if pin.revision != MAIN:
            warnings.warn(f"this registry was at {pin.revision}; a push brings it to main", LlregWarning, stacklevel=2)
        # Who may not write proposes the rows instead.
        if create_pr or (exists and not target.may_write()):
            if tag is not None:
                raise InputError("a version is named by those who may write; push without a tag")
            return propose(registry, target, pin, only=only, message=message, dry_run=dry_run)
        tag = None if tag is None else check_tag(tag)
        options = _Options(only, tag, message, description, private, dry_run, progress)
        check_row_files(registry, pin.digests(), only)
        return _publish(registry, target, pin, options)


def _pin_for(registry: Contents, repo: str | None) -> Pin:
    pin = read_pin(registry.path)
    if repo is None and pin is None:
        raise InputError(f"{registry.path} has no repository on the Hub yet; say which: llreg push ORG/NAME")
    if pin is not None and (repo is None or repo == pin.repo):
        return pin
    if pin is not None and pin.commit:
        raise InputError(
            f"{registry.path} belongs to {pin.repo}; to publish its rows as {repo}, delete .llreg/remote.json there first"
        )
    return Pin(str(repo))


def _main_commit(target: Repo) -> str | None:
    """The commit that main is at; None where there is no repository."""
    try:
        return target.commit_of(MAIN)
    except HubNotFoundError:
        return None


def _publish(registry: Contents, target: Repo, pin: Pin, options: _Options) -> PushResult:
    """Try until the commit is made on what the repository holds; find out whether one without an answer was."""
    unanswered: Upload | None = None
    conflicts = failures = 0
    while True:
        pin = read_pin(registry.path) or pin
        attempt = _Attempt(registry, target, replace(pin, revision=MAIN), options)
        try:
            result = attempt.run()
            if unanswered is not None and result.commit is None:  # the commit that gave no answer was made
                result = replace(attempt.result(unanswered, attempt.head), tags=result.tags)
            return replace(result, tries=conflicts + failures + 1)
        except HubConflictError:
            conflicts += 1
            if conflicts == _CONFLICTS:
                raise
        except (UnknownOutcomeError, OlderRevisionError) as error:
            # Older: the Hub may answer for a moment with what main was before its last commit.
            if isinstance(error, UnknownOutcomeError):
                unanswered = error.upload
            failures += 1
            if failures == _FAILURES:
                raise
        time.sleep(random.uniform(0, _WAIT_SECONDS))


class _Attempt:
    """One try to publish, on the commit that main is at now.

    Attributes
    ----------
    head : str
        That commit.
    """

    def __init__(self, registry: Contents, target: Repo, pin: Pin, options: _Options) -> None:
        self.registry, self.target, self.pin, self.options = registry, target, pin, options
        self.head = ""

    def run(self) -> PushResult:
        """List what the repository holds, take what others published, commit what it lacks."""
        registry = self.registry
        remote = self._remote_state()
        if remote is None:
            return self._first_result()
        self.head = remote.commit
        downloaded = self._take_published(remote)
        commit, tags = None, tuple[str, ...]()
        with atomic.staging_directory(registry.path) as staging:
            upload = self._stage(downloaded, staging)
            if not self.options.dry_run and (upload.files or upload.deleted):
                commit = self._commit(downloaded.remote, upload)
                # A build that was made beside becomes the one here, if it is of the rows that are here.
                build_beside = StoreReader(staging / "build" / STORE)
                if build_beside.exists() and set(build_beside.digests()) == registry.digests():
                    with atomic.lock(registry.path, "build"):
                        save_dropped_rows(registry, registry.records())
                        put_build(registry.path, staging / "build")
        if not self.options.dry_run:
            # The repository gets a tag for each named version among its files that has none.
            published = {*remote.documents, *upload.files}
            versions = [str(manifest["tag"]) for manifest in registry.versions()]
            versions = [tag for tag in versions if version_file(tag) in published]
            tags = self.target.tag_missing(versions, commit or self.head) if versions else ()
        return replace(self.result(upload, commit), tags=tags)

    def result(self, upload: Upload, commit: str | None) -> PushResult:
        """What was, or would be, sent."""
        return PushResult(
            repo=self.target.id,
            commit=commit,
            url=self.target.url("commit", commit) if commit else self.target.url(),
            rows=tuple(record.row_id for record in upload.rows),
            files=upload.sizes,
            deleted=tuple(upload.deleted),
            dry_run=self.options.dry_run,
        )

    # A repository that is no registry yet

    def _remote_state(self) -> RemoteState | None:
        """What the repository holds; made, and made a registry, if need be. None for a dry run without one."""
        head = _main_commit(self.target)
        if head is None:
            if self.options.dry_run:
                return None
            self.target.create(private=self.options.private)
        remote = list_state(self.target, head or self.target.commit_of(MAIN), self.pin)
        if remote.is_registry:
            return remote
        foreign = sorted(set(remote.root) - {ATTRIBUTES, CARD})
        if foreign:
            raise InputError(
                f"{self.target.id} on the Hub holds {', '.join(foreign[:5])} and no {CONFIG}: it is no registry; "
                "choose another name"
            )
        if self.options.dry_run:
            return None
        # The first commit: git attributes, registry.json, texts, and a card.
        with atomic.staging_directory(self.registry.path) as staging:
            (staging / CARD).write_text(make_card(self.registry.info, []), encoding="utf-8")
            files = settings_files(self.registry, remote, ours=True)
            files |= {ATTRIBUTES: self.registry.path / ATTRIBUTES, CARD: staging / CARD}
            commit = make_commit(self.target, Upload(files), "Make a registry", "", parent=remote.commit)
        made = list_state(self.target, str(commit.oid), self.pin)
        # All of it is here: nothing is downloaded, and the build here stays.
        self.pin = pin_at(self.pin, made, made.commit)
        return made

    def _first_result(self) -> PushResult:
        """What would be sent to a repository that is still to be made."""
        registry, remote = self.registry, RemoteState()
        with atomic.staging_directory(registry.path) as staging:
            records = unpublished_records(registry, remote, self.options.only)
            files = row_files(registry, records, staging)
            files |= settings_files(registry, remote, ours=True)
            stage_build(registry, staging / "build")
            files |= build_files(staging / "build", remote)[0]
            files |= tables_to_upload(remote, registry.path, self.pin)
            return self.result(Upload(files, records), None)

    # One that is

    def _take_published(self, remote: RemoteState) -> Download:
        """What others published meanwhile, brought into the registry here; its build is then of all rows."""
        registry, missing = self.registry, frozenset[str]()
        # Nothing to download where the registry holds all of this commit.
        is_current = (
            self.pin.commit == remote.commit
            and all((registry.path / path).is_file() for path in remote.documents)
            and has_rows(registry, remote.rows, remote.document_names(RETRACTIONS))
        )
        if not is_current:
            tables = tables_to_download(remote, registry.path, self.pin)
            digests, progress = self.pin.digests(), self.options.progress
            downloaded = download(self.target, remote, registry.path, registry, digests, tables, progress)
            # A dry run changes nothing here: it goes by the download alone.
            if self.options.dry_run:
                check_compatible(downloaded, registry, self.pin)
                return downloaded
            apply(downloaded, registry.path, registry, self.pin)
            registry.reload()
            self.pin = read_pin(registry.path) or self.pin
            remote, missing = downloaded.remote, downloaded.missing
        # All of the commit is here now, but for rows that are bad there.
        records = {digest: record for digest, record in registry.all_records().items() if digest in remote.rows}
        return Download(remote, registry, records, {}, frozenset(), missing)

    def _stage(self, downloaded: Download, staging: Path) -> Upload:
        """All files of the commit; the build among them is of what the repository will hold."""
        registry, remote, only = self.registry, downloaded.remote, self.options.only
        published = remote.rows.keys() | downloaded.records.keys()
        records = unpublished_records(registry, remote, only)
        files = row_files(registry, records, staging)
        files |= subset_files(registry, records, remote)
        retractions = retraction_files(registry, remote, records, only)
        retracted = remote.document_names(RETRACTIONS) | {Path(name).stem for name in retractions}

        # The rows of the build: those that are published or will be, without the retracted ones.
        rows = published | {record.digest for record in records}
        merged = merged_records(downloaded, registry, retracted)
        build_records = {digest: record for digest, record in merged.items() if digest in rows}
        if lost := published - retracted - build_records.keys() - downloaded.missing:
            raise InputError(
                f"{len(lost):,} published rows of {self.target.id} would be missing from its build ({min(lost)[:12]}): "
                "nothing was sent; run llreg pull, then push again"
            )
        info = merged_info(downloaded, registry, self.pin)
        directory = self._build(downloaded, build_records, info, retracted, staging)
        # Only files that differ are sent; of an older build, those that the new one has not are deleted.
        changed, deleted = build_files(directory, remote)
        files |= {**retractions, **changed, **settings_files(registry, remote, ours=info == registry.info)}
        # A review publishes what it was asked to, and nothing else of the reviewer's.
        if only is None:
            files |= version_files(registry, remote, rows)
            files |= tables_to_upload(remote, registry.path, self.pin)
        if self.options.tag is not None:
            files |= self._new_version(self.options.tag, build_records, downloaded, staging)
        return Upload(files, records, deleted)

    def _build(
        self,
        downloaded: Download,
        records: Mapping[str, RowRecord],
        info: RegistryInfo,
        retracted: Collection[str],
        staging: Path,
    ) -> Path:
        """Where the build of the rows is that the repository will hold: here, or made beside."""
        registry = self.registry
        if is_built(registry, list(records.values()), info, retracted):
            return registry.path
        # Where the build here is to be the same, it is made here; else beside, and the one here stays as it is.
        same_rows = retracted == registry.retractions().keys() and registry.digests() == records.keys()
        if same_rows and not self.options.dry_run and self.options.only is None:
            build(registry)
            return registry.path
        write_merged_build(downloaded, registry, records, info, retracted, staging / "build")
        return staging / "build"

    def _new_version(
        self, tag: str, records: Mapping[str, RowRecord], downloaded: Download, staging: Path
    ) -> dict[str, Path]:
        """The file that names these rows, if the repository lacks it."""
        name = version_file(tag)
        is_published = name in downloaded.remote.documents
        copies = [path for root in (self.registry.path, downloaded.root) if (path := root / name).is_file()]
        # The same rows under the same name: a push that is repeated after a failure.
        if copies and read_manifest(tag, copies[0].read_bytes(), name)["version"] == version_id(records):
            return {} if is_published else {name: copies[0]}
        if is_published or copies:
            raise InputError(
                f"version {tag} of {self.target.id} names other rows; tags never move: choose another name"
            )
        manifest = version_manifest(tag, version_id(records), now(), sorted(records), self.registry.info.view)
        path = staging / name
        path.parent.mkdir()
        path.write_text(pretty_json(manifest), encoding="utf-8")
        return {name: path}

    def _commit(self, remote: RemoteState, upload: Upload) -> str:
        """Make the commit and pin the registry to it; a new version's file is then here, too."""
        root, options = self.registry.path, self.options
        message = options.message or commit_title(upload)
        info = make_commit(self.target, upload, message, options.description or "", parent=remote.commit)
        commit = str(info.oid)
        # The commit holds what was listed before, and what it added.
        pin = pin_at(self.pin, remote, commit).with_rows(name for name in upload.files if name.startswith(f"{ROWS}/"))
        if CONFIG in upload.files:
            pin = replace(pin, config=blob_oid(upload.files[CONFIG].read_bytes()))
        tables = dict(pin.tables)
        for name, path in upload.files.items():
            if name.startswith(f"{ANNOTATIONS}/"):
                # A large file by the registry's .gitattributes, whatever its size.
                tables[name] = hashlib.sha256(path.read_bytes()).hexdigest()
            if name.startswith(f"{VERSIONS}/") and not (root / name).exists():
                atomic.write_atomic(root, root / name, path.read_bytes())
        write_pin(root, replace(pin, tables=tables))
        return commit
