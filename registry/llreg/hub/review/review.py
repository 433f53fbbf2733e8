"""`review`: check the pull requests of a registry's repository, say what was found, and merge the good ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llreg.atomic import staging_directory, write_atomic
from llreg.geometry.kl.rows import Rows, view_rows
from llreg.hub.client.repo import Repo
from llreg.hub.judge.plausibility import judge, judge_count, measure
from llreg.hub.judge.population import Population
from llreg.hub.judge.verdict import Verdict
from llreg.hub.review.comments import merged_comment, there_comment
from llreg.hub.review.diff import History, TooManyFilesError, Trees, pull_request_heads
from llreg.hub.review.discussions import close, open_requests, requests_of, reviewer, tell
from llreg.hub.review.proposal import Proposal, Sorted, sort_changes
from llreg.hub.review.recompute import recompute_some
from llreg.hub.sync.push import push
from llreg.store.pin import read_pin
from llreg.store.versions import check_tag
from llreg_schemas.errors import HubAccessError, HubError, InputError, LlregWarning

if TYPE_CHECKING:
    from llreg.store.contents import Contents

Progress = Callable[[Verdict], None]


def review(
    registry: Contents,
    repo: Repo | str | None = None,
    numbers: Sequence[int] | None = None,
    *,
    all_open: bool = False,
    merge: bool = False,
    tag: str | None = None,
    recompute: int = 0,
    comment: bool = True,
    progress: Progress | None = None,
) -> list[Verdict]:
    """Review pull requests, and merge good ones.

    Parameters
    ----------
    registry : Contents
        Pulled from the repository a moment ago (`llreg.hub.sync.pull.pull`): new rows are compared with its rows.
    repo : Repo or str, optional
        By default the one it was pulled from.
    numbers : sequence of int, optional
        Which pull requests.
    all_open : bool
        All open ones, besides.
    merge : bool
        Take over what is good; of those where a person should look, the ones that `numbers` names. Pull requests with
        nothing new in them are closed, and a build that is not current (as after a merge on the Hub) is made anew.
    tag : str, optional
        Name of the version that the merge makes; by default the date.
    recompute : int
        Score so many texts of new rows again, of up to five rows of each pull request.
    comment : bool
        Write each verdict under its pull request, unless the last one there said the same of the same commit. Only who may
        write to the repository speaks for it: of others, nothing is written, with a warning.
    progress : callable, optional
        Called with each verdict when it is there.

    Returns
    -------
    list of Verdict
        In the order of the numbers.

    Raises
    ------
    InputError
        If no repository is known, a number is no open pull request, or the tag is taken.
    HubError
        If the Hub refuses or cannot be reached; nothing, or the whole merge, was published. Rows that were to be merged
        may then be in the local registry; the same command goes on from there.
    MissingExtraError
        If `recompute` is asked for without torch and transformers.

    Notes
    -----
    The Hub's own merge is not used: it takes whatever the pull request holds at that moment, which may be another commit
    than the reviewed one, and it cannot be told not to. Here the bytes that were validated are copied into the registry, and
    one push commits them with the new build and ``versions/<tag>.json``, on the condition that main is where it was.
    """
    registry.check_changeable()
    target = _repo(registry, repo)
    me = reviewer(target) if comment else ""
    may_write = target.may_write() if comment or merge else False
    if recompute:
        _check_extract()
    if merge:
        _check_may_merge(target, may_write)
        tag = _tag(registry, tag)
    if comment and not may_write:
        comment = False
        warnings.warn(f"no comments are written: you may not write to {target.id}", LlregWarning, stacklevel=2)
    wanted = requests_of(target, numbers or ())
    named = {request.num for request in wanted}
    if all_open:
        wanted += [request for request in open_requests(target) if request.num not in named]
    if not wanted and not merge:
        return []
    with staging_directory(registry.path) as staging:
        run = _Run(registry, target, staging, recompute)
        for request in sorted(wanted, key=lambda request: int(request.num)):
            reviewed = run.review(request)
            if merge and (reviewed.verdict.state == "good" or (request.num in named and _may_merge(reviewed.verdict))):
                run.take(reviewed)
            if progress:
                progress(reviewed.verdict)
        if comment:
            run.comment(me, merging=merge)
        if merge:
            run.merge(tag)
            run.close_empty()
    return [one.verdict for one in run.reviewed]


def _repo(registry: Contents, repo: Repo | str | None) -> Repo:
    if isinstance(repo, Repo):
        return repo
    pin = read_pin(registry.path)
    if repo is None and pin is None:
        raise InputError(f"{registry.path} was not pulled from the Hub; a review needs that: llreg pull ORG/NAME")
    return Repo(repo or (pin.repo if pin else ""))


def _check_extract() -> None:
    from llreg_extract.libraries import require

    require("torch", "transformers", "safetensors")


def _check_may_merge(target: Repo, may_write: bool) -> None:
    if not may_write:
        raise HubAccessError(
            f"only who may write to {target.id} can merge: log in with: hf auth login; or leave out --merge"
        )


def _tag(registry: Contents, tag: str | None) -> str:
    """The name of the new version: as given, or the date, with a number where it is taken."""
    taken = {manifest["tag"] for manifest in registry.versions()}
    if tag is not None:
        if check_tag(tag) in taken:
            raise InputError(f"tag {tag} names a version already; tags never move: choose another name")
        return tag
    today = datetime.now(UTC).date().isoformat()
    if today not in taken:
        return today
    number = 2
    while f"{today}.{number}" in taken:
        number += 1
    return f"{today}.{number}"


def _may_merge(verdict: Verdict) -> bool:
    return not verdict.has("refused") and bool(verdict.paths)


@dataclass
class _Reviewed:
    """A verdict, with what it takes to merge."""

    verdict: Verdict
    proposal: Proposal | None = None
    found: Sorted = field(default_factory=Sorted)
    rows: Rows | None = None
    taken: bool = False


class _Run:
    """One review of some pull requests."""

    def __init__(self, registry: Contents, repo: Repo, staging: Path, recompute: int) -> None:
        self.registry, self.repo, self.staging, self.recompute = registry, repo, staging, recompute
        self.heads = pull_request_heads(repo)
        self.main = self.heads["main"]
        self.trees = Trees(repo, len(registry.row_files()))
        self.history = History(repo, self.main)
        self.reviewed: list[_Reviewed] = []
        self.taken: set[str] = set()  # paths that this run will merge

    @cached_property
    def population(self) -> Population:
        """The registry's rows, read once: those that are published, not what the reviewer alone has."""
        pin = read_pin(self.registry.path)
        return Population(self.registry, pin.digests() if pin and pin.repo == self.repo.id else None)

    def review(self, request: Any) -> _Reviewed:
        """Review one pull request."""
        head = self.heads.get(str(request.num), "")
        verdict = Verdict(self.repo.id, int(request.num), request.title, request.author or "", head)
        verdict.version, verdict.num_rows = self.population.version, self.population.num_own
        one = _Reviewed(verdict)
        self.reviewed.append(one)
        try:
            self._look_into(one)
        except TooManyFilesError as error:
            verdict.find("refused", "", str(error))
        except HubError as error:  # one that cannot be read must not keep the others from being reviewed
            verdict.find("attention", "", f"it could not be read: {error}")
        return one

    def _look_into(self, one: _Reviewed) -> None:
        verdict = one.verdict
        verdict.head = verdict.head or self.repo.commit_of(f"refs/pr/{verdict.number}")
        base = self.history.base_of(verdict.head)
        if base is None:
            verdict.find("refused", "", "it shares no commit with main, or none of the last thousands: open a new one")
            return
        verdict.base = base
        changes = self.trees.changes(base, verdict.head)
        one.found = sort_changes(changes, self._is_there, self.registry.num_texts, verdict)
        if verdict.has("refused"):
            return
        if one.found.entries:
            self._check(one)
        self._tell_what_is_there(one)

    def _is_there(self, path: str) -> bool:
        return path in self.taken or self.trees.has(self.main, path)

    def _check(self, one: _Reviewed) -> None:
        """Download, validate, compare."""
        one.proposal = Proposal(self.staging / str(one.verdict.number), self.registry)
        one.proposal.fetch(self.repo, one.verdict.head, one.found)
        known = {record.row_id: record.digest for record in self.population.records}
        one.proposal.check(one.found, one.verdict, known)
        if one.verdict.has("refused"):
            return
        for path, document in one.proposal.retraction_documents(one.found).items():
            one.verdict.find("attention", path, f"withdraws a row of {document['model']}: {document['why']}")
        records = one.proposal.row_records(one.found)
        one.verdict.new_rows = [record.row_id for record in records]
        if records:
            one.rows = view_rows(one.proposal, records, self.population.view, self.population.version)
            self._measure(one.verdict, one.rows)
            if self.recompute and not one.verdict.has("refused"):
                recompute_some(one.verdict, one.proposal, records, self.recompute)
            judge_count(one.verdict)
        if not one.verdict.has("refused"):
            one.verdict.paths = [entry.path for entry in one.found.entries]

    def _measure(self, verdict: Verdict, rows: Rows) -> None:
        with self._joined(rows):  # rows of one pull request are compared with each other, too
            verdict.rows = measure(rows, self.population)
            for measured, record in zip(verdict.rows, rows.records, strict=True):
                verdict.findings += judge(measured, record, self.population)

    @contextmanager
    def _joined(self, rows: Rows) -> Iterator[None]:
        self.population.join(rows)
        try:
            yield
        finally:
            self.population.leave()

    def _tell_what_is_there(self, one: _Reviewed) -> None:
        if one.found.there:
            names = ", ".join(one.found.there[:3]) + (", …" if len(one.found.there) > 3 else "")
            one.verdict.find("note", "", f"in the registry already, and left as it is there: {names}")
        elif not one.found.entries:
            one.verdict.find("note", "", "nothing in it differs from main")

    def take(self, one: _Reviewed) -> None:
        """Decide to merge: what comes after is compared with this, too."""
        if one.verdict.paths:
            one.taken = True
            self.taken.update(one.verdict.paths)
            if one.rows is not None:
                self.population.join(one.rows)

    def comment(self, me: str, *, merging: bool) -> None:
        """Write the verdicts; those that are going to be closed are told then."""
        for one in self.reviewed:
            if not one.taken and not (merging and one.verdict.is_empty):
                one.verdict.commented = tell(self.repo, one.verdict, me)

    def merge(self, tag: str | None) -> None:
        """Publish what was taken, in one commit, and close its pull requests; else only a build that is not current."""
        chosen = self._unchanged()
        if not chosen:
            push(self.registry, self.repo.id, only=[])  # somebody may have merged on the Hub, which builds nothing
            return
        for one in chosen:
            self._copy(one)
        paths = [path for one in chosen for path in one.verdict.paths]
        message, description = _commit_message([one.verdict for one in chosen], self.repo)
        result = push(self.registry, self.repo.id, only=paths, tag=tag, message=message, description=description)
        pin = read_pin(self.registry.path)
        commit = result.commit or (pin.commit if pin else "")
        for one in chosen:
            one.verdict.merged = commit
            close(self.repo, one.verdict, merged_comment(one.verdict, self.repo, commit, tag))

    def _unchanged(self) -> list[_Reviewed]:
        """Those taken whose pull request is still at the reviewed commit."""
        taken = [one for one in self.reviewed if one.taken]
        heads = pull_request_heads(self.repo) if taken else {}
        chosen = []
        for one in taken:
            if heads.get(str(one.verdict.number), one.verdict.head) == one.verdict.head:
                chosen.append(one)
            else:
                one.verdict.find("attention", "", "it was changed while it was reviewed: review it again")
        return chosen

    def _copy(self, one: _Reviewed) -> None:
        """Put the bytes that were validated into the registry; subsets first, a row never names one that is not there."""
        if one.proposal is None:
            return
        for entry in [*one.found.subsets, *one.found.rows, *one.found.retractions]:
            target = self.registry.path / entry.path
            if not target.exists():
                write_atomic(self.registry.path, target, (one.proposal.path / entry.path).read_bytes())

    def close_empty(self) -> None:
        """Close pull requests with nothing new in them: all that they add is in main, or was merged a moment ago."""
        merged = {path for one in self.reviewed if one.verdict.merged for path in one.verdict.paths}
        for one in self.reviewed:
            there = all(path in merged or self.trees.has(self.main, path) for path in one.found.there)
            if one.verdict.is_empty and there:
                close(self.repo, one.verdict, there_comment(one.verdict))


def _commit_message(verdicts: Sequence[Verdict], repo: Repo) -> tuple[str, str]:
    """Title and description of the merging commit."""
    numbers = [f"#{verdict.number}" for verdict in verdicts]
    rows = sum(len(verdict.new_rows) for verdict in verdicts)
    more = f", … ({len(numbers)} in all)" if len(numbers) > 8 else ""
    title = f"Merge {', '.join(numbers[:8])}{more}: {rows:,} new row{'s' * (rows != 1)}"
    lines = [
        f"- {repo.url('discussions', v.number)} at {v.head}: {', '.join(v.new_rows[:3]) or 'retractions'}"
        for v in verdicts
    ]
    return title, "Reviewed with llreg review:\n\n" + "\n".join(lines)


def list_open(registry: Contents, repo: Repo | str | None = None) -> list[tuple[int, str]]:
    """Numbers and titles, untrusted, of the open pull requests."""
    return [(int(request.num), str(request.title)) for request in open_requests(_repo(registry, repo))]
