"""`push`: publish rows. With write rights one commit holds rows and build; without, a pull request holds rows."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from llreg import atomic
from llreg.hub.client.repo import MAIN, Progress, Repo, blob_oid
from llreg.hub.sync import outgoing
from llreg.hub.sync.holdings import is_whole
from llreg.hub.sync.incoming import Incoming, nothing_new
from llreg.hub.sync.outgoing import Outgoing
from llreg.hub.sync.published import ATTRIBUTES, Published, look
from llreg.hub.sync.pull import OlderRevisionError, apply, build_from, check_same, merged_records, pinned, settled
from llreg.hub.sync.receiving import receive
from llreg.hub.sync.request import propose
from llreg.hub.sync.sending import PushResult, UnknownOutcomeError, check_rows, send, title
from llreg.hub.sync.tables import sent_oids, to_send, to_take
from llreg.store.build import build, put_build, save_dropped_rows, stage_build
from llreg.store.card import make_card
from llreg.store.contents import Contents
from llreg.store.documents import read_manifest
from llreg.store.layout import CARD, CONFIG, STORE
from llreg.store.pin import Pin, read_pin, with_rows, write_pin
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
class _Wish:
    """What the caller asked for."""

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

    Parameters
    ----------
    registry : Contents
        On this machine.
    repo : str, optional
        ``org/name``; by default the one it was pulled from or pushed to. It is made if it is missing.
    create_pr : bool
        Make a pull request also where you may write. Without write rights one is made in any case; a later push adds to it
        while it is open.
    dry_run : bool
        Change nothing; say what would be sent.
    only : collection of str, optional
        Paths of row files and retractions that may be sent; by default all.
    tag : str, optional
        Name the version that this commit makes.
    message, description : str, optional
        Title and text of the commit or pull request; by default they say which rows.
    private : bool
        A repository that is made is private.
    progress : callable, optional
        Called with (files done, files in all) while rows of others are downloaded.

    Raises
    ------
    InvalidFileError
        If a row or document is not valid; nothing was sent.
    HubAccessError, HubConflictError, HubUnreachableError, HubNotFoundError
        Nothing, or (after no answer) the whole commit was published; the same command finds out and goes on.
    InputError
        If no repository is known, or it holds another registry.
    """
    registry.check_changeable()
    with atomic.lock(registry.path, "hub"):
        pin = _pin(registry, repo)
        target = Repo(pin.repo)
        there = _head(target) is not None
        if pin.commit and not there:
            raise HubNotFoundError(
                f"{pin.repo}, where this registry was published, is not on the Hub any more, or you may not see it: log in "
                "with: hf auth login; to publish it anew, delete .llreg/remote.json here and push to a repository of your own"
            )
        if pin.revision != MAIN:
            warnings.warn(f"this registry was at {pin.revision}; a push brings it to main", LlregWarning, stacklevel=2)
        if not create_pr and (not there or target.may_write()):
            wish = _Wish(
                only, None if tag is None else check_tag(tag), message, description, private, dry_run, progress
            )
            check_rows(registry, pin.digests(), only)
            return _publish(registry, target, pin, wish)
        if tag is not None:
            raise InputError("a version is named by those who may write; push without a tag")
        return propose(registry, target, pin, only=only, message=message, dry_run=dry_run)


def _pin(registry: Contents, repo: str | None) -> Pin:
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


def _head(target: Repo) -> str | None:
    """The commit that main is at; None where there is no repository."""
    try:
        return target.commit_of(MAIN)
    except HubNotFoundError:
        return None


def _publish(registry: Contents, target: Repo, pin: Pin, wish: _Wish) -> PushResult:
    """Try until the commit is made on what is there; find out whether one without an answer was."""
    before: Outgoing | None = None
    conflicts = failures = 0
    while True:
        pin = read_pin(registry.path) or pin
        plan = _Plan(registry, target, replace(pin, revision=MAIN), wish)
        try:
            result = plan.run()
            if before is not None and result.commit is None:  # the commit that gave no answer was made
                made = plan.result(before, plan.head)
                return replace(made, tags=result.tags, tries=conflicts + failures + 1)
            return replace(result, tries=conflicts + failures + 1)
        except HubConflictError:
            conflicts += 1
            if conflicts == _CONFLICTS:
                raise
        except UnknownOutcomeError as error:
            failures, before = failures + 1, error.sent
            if failures == _FAILURES:
                raise
        except OlderRevisionError:  # the Hub may answer for a moment with what main was before its last commit
            failures += 1
            if failures == _FAILURES:
                raise
        time.sleep(random.uniform(0, _WAIT_SECONDS))


class _Plan:
    """One try: on the commit that is there now."""

    def __init__(self, registry: Contents, target: Repo, pin: Pin, wish: _Wish) -> None:
        self.registry, self.target, self.pin, self.wish = registry, target, pin, wish
        self.head = ""

    def run(self) -> PushResult:
        """Look, take what others published, commit."""
        published = self._found()
        if published is None:
            return self._would_create()
        self.head = published.commit
        incoming = self._synchronised(published)
        with atomic.staging_directory(self.registry.path) as staging:
            sent = self._gather(incoming, staging)
            commit = None
            if not self.wish.dry_run and (sent.files or sent.deleted):
                commit = self._commit(incoming.published, sent)
                self._adopt(staging / "build")
        tags = (
            () if self.wish.dry_run else self._name_versions(commit or self.head, {*published.documents, *sent.files})
        )
        return replace(self.result(sent, commit), tags=tags)

    def result(self, sent: Outgoing, commit: str | None) -> PushResult:
        """What was, or would be, sent."""
        return PushResult(
            repo=self.target.id,
            commit=commit,
            url=self.target.url("commit", commit) if commit else self.target.url(),
            rows=tuple(record.row_id for record in sent.rows),
            files=sent.sizes,
            deleted=sent.deleted,
            dry_run=self.wish.dry_run,
        )

    def _synchronised(self, published: Published) -> Incoming:
        """What others published meanwhile, brought into the registry here; its build is then of all rows."""
        registry, bad = self.registry, frozenset[str]()
        if self.pin.commit != published.commit or not is_whole(published, registry):
            known, tables = self.pin.digests(), to_take(published, registry.path, self.pin)
            incoming = receive(self.target, published, registry.path, registry, known, tables, self.wish.progress)
            if self.wish.dry_run:
                check_same(incoming, registry, self.pin)
                return incoming
            apply(incoming, registry.path, registry, self.pin)
            registry.reload()
            self.pin = read_pin(registry.path) or self.pin
            published, bad = incoming.published, incoming.bad
        return nothing_new(published, registry, bad)

    def _found(self) -> Published | None:
        """What the repository holds; made, and made a registry, if need be. None for a dry run without one."""
        head = _head(self.target)
        if head is None:
            if self.wish.dry_run:
                return None
            self.target.create(private=self.wish.private)
        published = look(self.target, head or self.target.commit_of(MAIN), self.pin)
        if published.is_registry:
            return published
        foreign = sorted(set(published.root) - {ATTRIBUTES, CARD})
        if foreign:
            raise InputError(
                f"{self.target.id} on the Hub holds {', '.join(foreign[:5])} and no {CONFIG}: it is no registry; "
                "choose another name"
            )
        if self.wish.dry_run:
            return None
        commit = self._make_registry(published)
        return look(self.target, commit, self.pin)

    def _make_registry(self, published: Published) -> str:
        """The first commit: git attributes, registry.json, texts, and a card."""
        sent = outgoing.settings_files(self.registry, published, ours=True)
        sent[ATTRIBUTES] = self.registry.path / ATTRIBUTES
        with atomic.staging_directory(self.registry.path) as staging:
            (staging / CARD).write_text(make_card(self.registry.info, []), encoding="utf-8")
            sent[CARD] = staging / CARD
            return send(self.target, Outgoing(sent), "Make a registry", "", parent=published.commit)

    def _would_create(self) -> PushResult:
        registry, nothing = self.registry, Published("", {}, {}, {}, {}, {})
        with atomic.staging_directory(registry.path) as staging:
            records = outgoing.unpublished(registry, nothing, self.wish.only)
            sent = outgoing.row_files(registry, records, staging)
            sent |= outgoing.settings_files(registry, nothing, ours=True)
            stage_build(registry, built := staging / "build")
            sent |= outgoing.build_files(built, nothing)[0]
            sent |= to_send(nothing, registry.path, self.pin)
            return self.result(Outgoing.of(sent, records), None)

    def _gather(self, incoming: Incoming, staging: Path) -> Outgoing:
        """All files of the commit; the build among them is of what the repository will hold."""
        registry, published, only = self.registry, incoming.published, self.wish.only
        records = outgoing.unpublished(registry, published, only)
        sent = outgoing.row_files(registry, records, staging)
        sent |= outgoing.subsets_of(registry, records, published)
        withdrawn = outgoing.retractions(registry, published, records, only)
        retracted = published.names_in("retractions") | {Path(name).stem for name in withdrawn}
        there = set(published.rows) | set(incoming.records) | {record.digest for record in records}
        merged = merged_records(incoming, registry, retracted)
        kept = {digest: record for digest, record in merged.items() if digest in there}
        if lost := (published.rows.keys() | incoming.records.keys()) - set(retracted) - kept.keys() - incoming.bad:
            raise InputError(
                f"{len(lost):,} published rows of {self.target.id} would be missing from its build ({min(lost)[:12]}): "
                "nothing was sent; run llreg pull, then push again"
            )
        info = settled(incoming, registry, self.pin)
        ours = info == registry.info
        built = self._built(incoming, kept, info, retracted, staging)
        made, deleted = outgoing.build_files(built, published)
        sent |= {**withdrawn, **made, **outgoing.settings_files(registry, published, ours=ours)}
        if only is None:
            sent |= outgoing.versions(registry, published, there)
            sent |= to_send(published, registry.path, self.pin)
        if self.wish.tag is not None:
            sent |= self._version(kept, incoming, staging)
        return Outgoing.of(sent, records, deleted)

    def _built(
        self,
        incoming: Incoming,
        kept: Mapping[str, RowRecord],
        info: RegistryInfo,
        retracted: Collection[str],
        staging: Path,
    ) -> Path:
        """Where the build of the rows is that the repository will hold: here, or made beside."""
        registry, records = self.registry, list(kept.values())
        if not outgoing.is_built(registry, records, info, retracted):
            whole = retracted == registry.retractions().keys() and registry.digests() == kept.keys()
            if self.wish.dry_run or self.wish.only is not None or not whole:
                build_from(incoming, registry, kept, info, retracted, staging / "build")
                return staging / "build"
            build(registry)
        return registry.path

    def _adopt(self, built: Path) -> None:
        """Take a build that was made beside for the one here, if it is of the rows that are here."""
        registry = self.registry
        fresh = StoreReader(built / STORE)
        if fresh.exists() and set(fresh.digests()) == registry.digests():
            with atomic.lock(registry.path, "build"):
                save_dropped_rows(registry, registry.records())
                put_build(registry.path, built)

    def _version(self, kept: Mapping[str, RowRecord], incoming: Incoming, staging: Path) -> dict[str, Path]:
        tag = str(self.wish.tag)
        name = f"versions/{tag}.json"
        published = name in incoming.published.documents
        here = next((path for root in (self.registry.path, incoming.root) if (path := root / name).is_file()), None)
        if here is not None and read_manifest(tag, here.read_bytes(), name)["version"] == version_id(kept):
            return {} if published else {name: here}
        if published or here is not None:
            raise InputError(
                f"version {tag} of {self.target.id} names other rows; tags never move: choose another name"
            )
        manifest = version_manifest(tag, version_id(kept), now(), sorted(kept), self.registry.info.view)
        path = staging / name
        path.parent.mkdir()
        path.write_text(pretty_json(manifest), encoding="utf-8")
        return {name: path}

    def _commit(self, published: Published, sent: Outgoing) -> str:
        wish = self.wish
        commit = send(self.target, sent, wish.message or title(sent), wish.description or "", parent=published.commit)
        pin = with_rows(pinned(self.pin, published, commit), [name for name in sent.files if name.startswith("rows/")])
        if CONFIG in sent.files:
            pin = replace(pin, config=blob_oid(sent.files[CONFIG].read_bytes()))
        pin = replace(pin, tables={**pin.tables, **sent_oids(sent.files)})
        for name, path in sent.files.items():
            if name.startswith("versions/") and not (self.registry.path / name).exists():
                atomic.write_atomic(self.registry.path, self.registry.path / name, path.read_bytes())
        write_pin(self.registry.path, pin)
        return commit

    def _name_versions(self, commit: str, there: Collection[str]) -> tuple[str, ...]:
        """Give the repository a tag for each named version among its files that has none."""
        names = [
            manifest["tag"] for manifest in self.registry.versions() if f"versions/{manifest['tag']}.json" in there
        ]
        return self.target.tag_missing(names, commit) if names else ()
