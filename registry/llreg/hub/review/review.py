"""`review`: check the pull requests of a registry's repository, say what was found, and merge the good ones."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.atomic import staging_directory, write_atomic
from llreg.geometry.kl.rows import Rows, view_rows
from llreg.hub.client.repo import Repo
from llreg.hub.judge.measure import measure
from llreg.hub.judge.population import Population
from llreg.hub.judge.rules import judge, judge_count
from llreg.hub.judge.verdict import Level, Verdict
from llreg.hub.review.diff import History, TooManyFilesError, Trees, pull_request_heads
from llreg.hub.review.discussions import (
    close_discussion,
    closing_comment,
    comment_verdict,
    merged_comment,
    named_requests,
    open_requests,
    reviewer,
)
from llreg.hub.review.proposal import NewFiles, Proposal, sort_changes
from llreg.hub.sync.push import push
from llreg.store.pin import read_pin
from llreg.store.versions import check_tag
from llreg.verify.verify import score_again
from llreg_schemas import sha256_text
from llreg_schemas.errors import HubAccessError, HubError, InputError, LlregWarning

if TYPE_CHECKING:
    from llreg.store.contents import Contents
    from llreg_schemas import RowRecord

Progress = Callable[[Verdict], None]

_RECOMPUTED_ROWS = 5  # of a pull request: each is a model to download and load
_RECOMPUTED_PARAMETERS = 16e9  # 32 GB of bfloat16: what a stranger's row may make this machine download
_RECOMPUTED_LEVELS: dict[str, Level] = {"match": "note", "mismatch": "refused", "inconclusive": "attention"}
_TITLE_REQUESTS = 8  # pull requests named in the title of a merge
_LISTED = 3  # rows or files named in a line


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

    Behind `Registry.review`, which describes parameters, result and errors.

    Notes
    -----
    The Hub's own merge is not used: it takes whatever the pull request holds at that moment, which may be another commit
    than the reviewed one, and it cannot be told not to. Here the bytes that were validated are copied into the registry, and
    one push commits them with the new build and ``versions/<tag>.json``, on the condition that main is where it was.
    """
    registry.check_changeable()
    target = _repo_of(registry, repo)
    user = reviewer(target) if comment else ""
    may_write = target.may_write() if comment or merge else False
    # Now, and not after the downloads: a review that recomputes needs the extra.
    if recompute:
        from llreg_extract.libraries import require

        require("torch", "transformers", "safetensors")
    if merge:
        if not may_write:
            raise HubAccessError(
                f"only who may write to {target.id} can merge: log in with: hf auth login; or leave out --merge"
            )
        tag = _new_tag(registry, tag)
    if comment and not may_write:
        comment = False
        warnings.warn(f"no comments are written: you may not write to {target.id}", LlregWarning, stacklevel=2)
    requests = named_requests(target, numbers or ())
    named = {request.num for request in requests}
    if all_open:
        requests += [request for request in open_requests(target) if request.num not in named]
    if not requests and not merge:
        return []
    with staging_directory(registry.path) as staging:
        run = _Run(registry, target, staging, recompute)
        # Oldest first: of two with the same row the earlier one is merged.
        for request in sorted(requests, key=lambda request: int(request.num)):
            pr = run.review(request)
            verdict = pr.verdict
            is_chosen = request.num in named and bool(verdict.paths) and not verdict.has("refused")
            if merge and (verdict.state == "good" or is_chosen):
                run.take(pr)
            if progress:
                progress(verdict)
        if comment:
            run.comment(user, merging=merge)
        if merge:
            run.merge(tag)
            run.close_empty()
    return [pr.verdict for pr in run.reviewed]


def list_open(registry: Contents, repo: Repo | str | None = None) -> list[tuple[int, str]]:
    """Numbers and titles, untrusted, of the open pull requests."""
    return [(int(request.num), str(request.title)) for request in open_requests(_repo_of(registry, repo))]


def _repo_of(registry: Contents, repo: Repo | str | None) -> Repo:
    if isinstance(repo, Repo):
        return repo
    pin = read_pin(registry.path)
    if repo is None and pin is None:
        raise InputError(f"{registry.path} was not pulled from the Hub; a review needs that: llreg pull ORG/NAME")
    return Repo(repo or (pin.repo if pin else ""))


def _new_tag(registry: Contents, tag: str | None) -> str:
    """The name of the new version: as given, or the date, with a number where that is a version already."""
    existing = {manifest["tag"] for manifest in registry.versions()}
    if tag is not None:
        if check_tag(tag) in existing:
            raise InputError(f"tag {tag} names a version already; tags never move: choose another name")
        return tag
    today = datetime.now(UTC).date().isoformat()
    names = itertools.chain([today], (f"{today}.{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in existing)


@dataclass
class _PullRequest:
    """A pull request under review: its verdict, and what it takes to merge it."""

    verdict: Verdict
    files: NewFiles = field(default_factory=NewFiles)
    proposal: Proposal | None = None
    rows: Rows | None = None
    is_taken: bool = False


class _Run:
    """One review of some pull requests."""

    def __init__(self, registry: Contents, repo: Repo, staging: Path, recompute: int) -> None:
        self.registry, self.repo, self.staging, self.recompute = registry, repo, staging, recompute
        self.heads = pull_request_heads(repo)
        self.main = self.heads["main"]
        self.trees = Trees(repo, len(registry.row_files()))
        self.history = History(repo, self.main)
        self.reviewed: list[_PullRequest] = []
        self.taken_paths: set[str] = set()  # that this run will merge

    @cached_property
    def population(self) -> Population:
        """The registry's rows, read once: those that are published, not what the reviewer alone has."""
        pin = read_pin(self.registry.path)
        return Population(self.registry, pin.digests() if pin and pin.repo == self.repo.id else None)

    def review(self, request: Any) -> _PullRequest:
        """Review one pull request."""
        head = self.heads.get(str(request.num), "")
        verdict = Verdict(self.repo.id, int(request.num), request.title, request.author or "", head)
        verdict.version, verdict.num_rows = self.population.version, self.population.num_own
        pr = _PullRequest(verdict)
        self.reviewed.append(pr)
        try:
            self._check(pr)
        except TooManyFilesError as error:
            verdict.find("refused", "", str(error))
        except HubError as error:  # one that cannot be read must not keep the others from being reviewed
            verdict.find("attention", "", f"it could not be read: {error}")
        return pr

    def _check(self, pr: _PullRequest) -> None:
        """What the pull request changes, by names and sizes; then the new files themselves."""
        verdict = pr.verdict
        verdict.head = verdict.head or self.repo.commit_of(f"refs/pr/{verdict.number}")
        # Against the newest shared commit: what main got since is no change of the pull request.
        base = self.history.base_of(verdict.head)
        if base is None:
            verdict.find("refused", "", "it shares no commit with main, or none of the last thousands: open a new one")
            return
        verdict.base = base

        def is_in_main(path: str) -> bool:
            return path in self.taken_paths or self.trees.has(self.main, path)

        changes = self.trees.changes(base, verdict.head)
        pr.files = sort_changes(changes, is_in_main, self.registry.info, verdict)
        if verdict.has("refused"):
            return
        if pr.files.entries:
            self._check_files(pr)
        if pr.files.in_main:
            names = ", ".join(pr.files.in_main[:_LISTED]) + (", …" if len(pr.files.in_main) > _LISTED else "")
            verdict.find("note", "", f"in the registry already, and left as it is there: {names}")
        elif not pr.files.entries:
            verdict.find("note", "", "nothing in it differs from main")

    def _check_files(self, pr: _PullRequest) -> None:
        """Download, validate, compare."""
        verdict, population = pr.verdict, self.population
        proposal = pr.proposal = Proposal(self.staging / str(verdict.number), self.registry)
        proposal.fetch(self.repo, verdict.head, pr.files)
        proposal.check(pr.files, verdict, {record.row_id: record.digest for record in population.records})
        if verdict.has("refused"):
            return
        for path, document in proposal.retraction_documents(pr.files).items():
            verdict.find("attention", path, f"withdraws a row of {document['model']}: {document['why']}")
        records = proposal.row_records(pr.files)
        verdict.new_rows = [record.row_id for record in records]
        if records:
            pr.rows = view_rows(proposal, records, population.view, population.version)
            population.join(pr.rows)  # rows of one pull request are compared with each other, too
            try:
                verdict.rows = measure(pr.rows, population)
                for row, record in zip(verdict.rows, pr.rows.records, strict=True):
                    verdict.findings += judge(row, record, population)
            finally:
                population.leave()
            if self.recompute and not verdict.has("refused"):
                _recompute(verdict, proposal, records, self.recompute)
            judge_count(verdict)
        if not verdict.has("refused"):
            verdict.paths = [entry.path for entry in pr.files.entries]

    def take(self, pr: _PullRequest) -> None:
        """Decide to merge: what comes after is compared with this, too."""
        if pr.verdict.paths:
            pr.is_taken = True
            self.taken_paths.update(pr.verdict.paths)
            if pr.rows is not None:
                self.population.join(pr.rows)

    def comment(self, user: str, *, merging: bool) -> None:
        """Write the verdicts; those that are going to be closed get theirs then."""
        for pr in self.reviewed:
            if not pr.is_taken and not (merging and pr.verdict.is_empty):
                pr.verdict.commented = comment_verdict(self.repo, pr.verdict, user)

    def merge(self, tag: str | None) -> None:
        """Publish what was taken, in one commit, and close its pull requests; else only a build that is not current."""
        taken = [pr for pr in self.reviewed if pr.is_taken]
        # The author may have pushed meanwhile; what was not reviewed is not merged.
        heads = pull_request_heads(self.repo) if taken else {}
        merged = []
        for pr in taken:
            if heads.get(str(pr.verdict.number), pr.verdict.head) == pr.verdict.head:
                merged.append(pr)
            else:
                pr.verdict.find("attention", "", "it was changed while it was reviewed: review it again")
        if not merged:
            push(self.registry, self.repo.id, only=[])  # somebody may have merged on the Hub, which builds nothing
            return
        for pr in merged:
            # The bytes that were validated go into the registry; subsets first, a row never names one that is not there.
            for entry in [*pr.files.subsets, *pr.files.rows, *pr.files.retractions]:
                target = self.registry.path / entry.path
                if pr.proposal is not None and not target.exists():
                    write_atomic(self.registry.path, target, (pr.proposal.path / entry.path).read_bytes())
        # Only these: the reviewer may have rows of their own that are not published.
        paths = [path for pr in merged for path in pr.verdict.paths]
        message, description = _commit_message([pr.verdict for pr in merged], self.repo)
        result = push(self.registry, self.repo.id, only=paths, tag=tag, message=message, description=description)
        pin = read_pin(self.registry.path)
        commit = result.commit or (pin.commit if pin else "")
        for pr in merged:
            pr.verdict.merged = commit
            close_discussion(self.repo, pr.verdict, merged_comment(pr.verdict, self.repo, commit, tag))

    def close_empty(self) -> None:
        """Close pull requests with nothing new in them: all that they add is in main, or was merged a moment ago."""
        merged = {path for pr in self.reviewed if pr.verdict.merged for path in pr.verdict.paths}
        for pr in self.reviewed:
            is_in_main = all(path in merged or self.trees.has(self.main, path) for path in pr.files.in_main)
            if pr.verdict.is_empty and is_in_main:
                close_discussion(self.repo, pr.verdict, closing_comment(pr.verdict))


def _recompute(verdict: Verdict, registry: Contents, records: Sequence[RowRecord], num_texts: int) -> None:
    """Score some texts of a pull request's rows again: the only check of them that nobody can forge.

    The rows are drawn at random by the pull request's commit, the texts by that and the row's digest. Both are the
    contributor's, but with the values they follow from each other: who wants other texts must change the values, or make commits
    until the draw misses what was forged, which a few changed texts are not worth.

    Parameters
    ----------
    verdict : Verdict
        With what was measured of each row, in the order of `records`; takes what is found.
    registry : Contents
        Where the rows are.
    records : sequence of RowRecord
    num_texts : int
        Texts of each row.
    """
    rng = np.random.default_rng(int(sha256_text(verdict.head), 16))
    drawn = rng.choice(len(records), min(_RECOMPUTED_ROWS, len(records)), replace=False)
    for i in sorted(drawn.tolist()):
        seed = f"{records[i].digest} {verdict.head}"
        agreement = score_again(registry, records[i], num_texts, seed, most_parameters=_RECOMPUTED_PARAMETERS)
        verdict.rows[i] = replace(verdict.rows[i], recomputed=agreement)
        figures = f" ({agreement.figures})" if agreement.figures else ""
        message = f"recomputed: {agreement.outcome}; {agreement.why}{figures}"
        verdict.find(_RECOMPUTED_LEVELS[agreement.outcome], verdict.rows[i].file, message)
    if len(records) > _RECOMPUTED_ROWS:
        verdict.find("note", "", f"recomputed {_RECOMPUTED_ROWS} of {len(records):,} rows, drawn at random")


def _commit_message(verdicts: Sequence[Verdict], repo: Repo) -> tuple[str, str]:
    """Title and description of the merging commit."""
    numbers = [f"#{verdict.number}" for verdict in verdicts]
    count = sum(len(verdict.new_rows) for verdict in verdicts)
    more = f", … ({len(numbers)} in all)" if len(numbers) > _TITLE_REQUESTS else ""
    title = f"Merge {', '.join(numbers[:_TITLE_REQUESTS])}{more}: {count:,} new row{'s' * (count != 1)}"
    lines = [
        f"- {repo.url('discussions', v.number)} at {v.head}: {', '.join(v.new_rows[:_LISTED]) or 'retractions'}"
        for v in verdicts
    ]
    return title, "Reviewed with llreg review:\n\n" + "\n".join(lines)
