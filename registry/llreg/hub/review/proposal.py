"""What a pull request adds, as a registry of its own beside the real one: downloaded within bounds, then validated."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llreg.hub.client.repo import Entry, Repo
from llreg.hub.review.diff import Change
from llreg.store.contents import Contents
from llreg.store.folder import LocalFolder
from llreg.store.layout import CONFIG, RETRACTIONS, ROWS, STORE, SUBSETS, retraction_file, subset_file
from llreg.store.rowfile import digest_in_name, row_limit
from llreg.store.subsets import check_subset, list_subsets, store_subset
from llreg.store.validate import validate
from llreg.store.zarr_read import StoreReader
from llreg_schemas import parse
from llreg_schemas.errors import InvalidFileError
from llreg_schemas.validation import MAX_DOCUMENT_BYTES, MAX_VERSION_BYTES

if TYPE_CHECKING:
    from llreg.hub.judge.verdict import Verdict
    from llreg.texts.segments import Cuts
    from llreg.texts.textset import TextIndex, TextSet
    from llreg_schemas import RowRecord
    from llreg_schemas.records import RegistryInfo

_MOST_ROWS = 500  # new rows of a pull request: more than any honest run scores, and what one commit can take in 60 s
_MOST_BYTES = 256 << 20  # 256 MiB in all: 500 rows of 65,000 texts
_MAX_NAMED = 20  # files refused by name; of more, how many there are
_ROW = re.compile(rf"{ROWS}/([0-9a-f]{{2}})/([^/]+)")
_DOCUMENT = re.compile(rf"({RETRACTIONS}|{SUBSETS})/[0-9a-f]{{64}}\.json")
_BYTES_A_TEXT = 64  # of a subset: a chance of up to 20 digits, and an index and a count of the drawn


@dataclass
class NewFiles:
    """A pull request's changes, by what may become of them.

    Attributes
    ----------
    rows, retractions, subsets : list of Entry
        New files that have the right names and sizes.
    in_main : list of str
        Paths of added files that main has already.
    """

    rows: list[Entry] = field(default_factory=list)
    retractions: list[Entry] = field(default_factory=list)
    subsets: list[Entry] = field(default_factory=list)
    in_main: list[str] = field(default_factory=list)

    @property
    def entries(self) -> list[Entry]:
        """All that is new."""
        return [*self.rows, *self.subsets, *self.retractions]


def sort_changes(
    changes: Sequence[Change], is_in_main: Callable[[str], bool], info: RegistryInfo, verdict: Verdict
) -> NewFiles:
    """Sort a pull request's changes by their names and sizes alone; what may not be is refused and named.

    Parameters
    ----------
    changes : sequence of Change
    is_in_main : callable
        Path -> whether main holds that file.
    info : RegistryInfo
        Of the registry; it bounds the sizes.
    verdict : Verdict
        Takes the findings.
    """
    files = NewFiles()
    refused = {change.path: reason for change in changes if (reason := _refusal(change, info))}
    for path, reason in list(refused.items())[:_MAX_NAMED]:
        verdict.find("refused", path, reason)
    if len(refused) > _MAX_NAMED:
        verdict.find(
            "refused", "", f"… and {len(refused) - _MAX_NAMED:,} more files that a pull request may not change"
        )
    kinds = {ROWS: files.rows, RETRACTIONS: files.retractions, SUBSETS: files.subsets}
    for change in changes:
        if change.path in refused:
            continue
        if is_in_main(change.path):
            files.in_main.append(change.path)
        else:
            kinds[change.path.partition("/")[0]].append(change.entry)

    rows, count = len(files.rows), len(files.entries)
    if rows > _MOST_ROWS:
        verdict.find("refused", "", f"expected at most {_MOST_ROWS} new rows; got {rows:,}: split it")
    elif count > 2 * _MOST_ROWS:
        verdict.find("refused", "", f"expected at most {2 * _MOST_ROWS:,} new files; got {count:,}: split it")
    # By the sizes that the Hub lists: nothing has been downloaded yet.
    size = sum(entry.size for entry in files.entries)
    if size > _MOST_BYTES:
        verdict.find(
            "refused", "", f"expected at most {_MOST_BYTES >> 20} MiB in all; got {size >> 20:,} MiB: split it"
        )
    return files


def _refusal(change: Change, info: RegistryInfo) -> str:
    """Why a pull request may not have this change; "" if it may."""
    path, size = change.path, change.entry.size
    kind = path.partition("/")[0]
    limits = {
        ROWS: row_limit(info.text_set.num_texts, info.num_segments),
        RETRACTIONS: MAX_DOCUMENT_BYTES,
        SUBSETS: min(MAX_VERSION_BYTES, _BYTES_A_TEXT * info.text_set.num_texts + MAX_DOCUMENT_BYTES),
    }
    if kind not in limits or "/" not in path:
        return f"expected only files in rows/, retractions/ and subsets/; this is none of them, and {change.kind}"
    if change.kind != "added":
        return f"expected new files only; this one is {change.kind}: what is published never changes"
    if row := _ROW.fullmatch(path):
        digest = digest_in_name(row[2])
        is_well_named = digest is not None and digest[:2] == row[1]
    else:
        is_well_named = _DOCUMENT.fullmatch(path) is not None
    if change.entry.is_folder or not is_well_named:
        return (
            "expected exactly rows/<hh>/<name>-<digest>.zarr.zip, retractions/<digest>.json or subsets/<id>.json, hh being "
            "the first two digits of the digest"
        )
    if size > limits[kind]:
        return f"expected at most {limits[kind]:,} bytes; got {size:,}"
    return ""


class Proposal(Contents):
    """The new files of a pull request as a registry of its own, on the texts of the one that they are for.

    So one validator checks them, with nothing of theirs in the real registry yet.

    Parameters
    ----------
    root : Path
        An empty directory.
    registry : Contents
        The one that they are for.
    """

    def __init__(self, root: Path, registry: Contents) -> None:
        root.mkdir()
        (root / CONFIG).write_bytes((registry.path / CONFIG).read_bytes())
        self._home = registry
        super().__init__(LocalFolder(root), StoreReader(root / STORE))

    @cached_property
    def text_index(self) -> TextIndex:
        """Those of the registry it is for."""
        return self._home.text_index

    @cached_property
    def cuts(self) -> Cuts | None:
        """Those of the registry it is for."""
        return self._home.cuts

    @cached_property
    def texts(self) -> TextSet:
        """Those of the registry it is for."""
        return self._home.texts

    def fetch(self, repo: Repo, commit: str, files: NewFiles) -> None:
        """Download the new files of a commit; their names and sizes were checked.

        Raises
        ------
        HubError
        """
        repo.download(commit, [entry.path for entry in files.entries], self.path)

    def check(self, files: NewFiles, verdict: Verdict, row_ids: Mapping[str, str]) -> None:
        """Validate everything; each problem is a finding.

        Parameters
        ----------
        files : NewFiles
        verdict : Verdict
        row_ids : mapping of str to str
            Row ids that are taken, with the digests of their rows.
        """
        # Subsets first: rows are checked against the ones that they name.
        problems = [*self._check_subsets(files), *self._check_rows(files, row_ids), *self._check_retractions(files)]
        for file, message in problems:
            verdict.find("refused", file, message)

    def _check_subsets(self, files: NewFiles) -> Iterator[tuple[str, str]]:
        for entry in files.subsets:
            try:
                document = parse("subset", (self.path / entry.path).read_bytes(), entry.path)
                check_subset(document, self.info, entry.path)
                if entry.path != subset_file(document["id"]):
                    yield entry.path, f"expected the name of its id, {document['id'][:12]}….json"
            except InvalidFileError as error:
                yield entry.path, _problem(error)
        for document in list_subsets(self._home):  # rows may name these, too
            store_subset(self.path, document)

    def _check_rows(self, files: NewFiles, row_ids: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        problems = validate(self, [self.path / entry.path for entry in files.rows]) if files.rows else []
        yield from ((problem.file, problem.message) for problem in problems)
        bad = {problem.file for problem in problems}
        named = set()  # subsets that good rows were scored on
        for entry in files.rows:
            if entry.path in bad:
                continue
            record = self.file_record(self.path / entry.path)
            if record.identity.subset:
                named.add(subset_file(record.identity.subset))
            if row_ids.get(record.row_id, record.digest) != record.digest:
                yield entry.path, f"has the row id {record.row_id} of another row: score the model again"
        for entry in files.subsets:
            if entry.path not in named and not bad:
                yield entry.path, "expected a subset that a new row was scored on; no row here names it"

    def _check_retractions(self, files: NewFiles) -> Iterator[tuple[str, str]]:
        # A pull request may retract a published row, or one that it adds itself.
        digests = {*self._home.all_records(), *self.row_files()}
        for entry in files.retractions:
            try:
                document = parse("retraction", (self.path / entry.path).read_bytes(), entry.path)
            except InvalidFileError as error:
                yield entry.path, _problem(error)
                continue
            if entry.path != retraction_file(document["digest"]):
                yield entry.path, f"expected the name of the row's digest, {document['digest'][:12]}….json"
            elif document["digest"] not in digests:
                yield entry.path, "expected a row that is here; it is not"

    def retraction_documents(self, files: NewFiles) -> dict[str, dict[str, Any]]:
        """The retractions, valid ones, by path."""
        return {
            entry.path: parse("retraction", (self.path / entry.path).read_bytes(), entry.path)
            for entry in files.retractions
        }

    def row_records(self, files: NewFiles) -> list[RowRecord]:
        """Records of the new rows, valid ones, in the order of their paths."""
        return [self.file_record(self.path / entry.path) for entry in files.rows]


def _problem(error: InvalidFileError) -> str:
    return f"{error.field}: {error.problem}" if error.field else error.problem
