"""Pull requests made to harm: each is refused and named, merges nothing, and is answered without repeating its markup."""

from __future__ import annotations

import gzip
import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.hub.client import Hub
from tests.hub.reviewing import Site, files_of

from llreg.hub.client.repo import Entry
from llreg.hub.judge.verdict import Verdict
from llreg.hub.review.proposal import NewFiles, Proposal
from llreg.registry import Registry
from llreg.store.rowfile import Row, row_limit, row_path, to_zip, write_row
from llreg_schemas import pretty_json
from llreg_schemas.records import retraction

MakeRow = Callable[..., Row]
HTML = "<img src=x onerror=alert(1)>"


@pytest.fixture
def site(hub: Hub, as_user: Any, small_registry: Registry, publish_rows: Callable[..., str]) -> Site:
    """A published registry of four rows on six texts."""
    return Site(hub, publish_rows("lab", 4), small_registry, as_user)


def _edited(row: Row, edit: Callable[[dict[str, Any]], object], member: str = "zarr.json") -> bytes:
    """A row file with one JSON member edited."""
    return _members(row, lambda members: {**members, member: _json(members[member], edit)})


def _json(data: bytes, edit: Callable[[dict[str, Any]], object]) -> bytes:
    document = json.loads(data)
    edit(document)
    return json.dumps(document).encode()


def _members(row: Row, change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(to_zip(row))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in change(members).items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _spoiled(site: Site, make_row: MakeRow) -> dict[str, tuple[dict[str, bytes], str]]:
    """Files under the right names with the wrong content: what -> (files, what the finding says)."""

    def row(seed: int, **over: Any) -> Row:
        return make_row(site.registry, f"bob/m{seed}", seed, **over)

    def put(one: Row, data: bytes) -> dict[str, bytes]:
        return {row_path(one.record).as_posix(): data}

    bomb = gzip.compress(bytes(64 << 20))
    good = row(50)
    values, most = -np.arange(1.0, 7.0), row_limit(6, site.registry.info.num_segments)
    return {
        "zip bomb": (
            put(good, _members(good, lambda m: {**m, "log_likelihood/c/0": bomb})),
            "expected exactly 24 bytes of values",
        ),
        "traversal in the zip": (
            put(row(51), _members(row(51), lambda m: {**m, "../../evil": b""})),
            "expected the members",
        ),
        "wrong shape": (
            put(row(52), _edited(row(52), lambda d: d.update(shape=[10**12]), "log_likelihood/zarr.json")),
            "expected shape (6,)",
        ),
        "all NaN": (files_of(row(53, log_likelihood=np.full(6, np.nan))), "expected at least one scored text"),
        "infinite": (files_of(row(54, log_likelihood=[-np.inf, *values[1:]])), "expected a finite number"),
        "positive": (files_of(row(55, log_likelihood=-values)), "expected at most 0 nats"),
        "huge attribute": (
            put(row(56), _edited(row(56), lambda d: d["attributes"]["provenance"].update(note="x" * 900_000))),
            "expected at most 500 characters",
        ),
        "too large": (put(row(57), bytes(most + 1)), f"expected at most {most:,} bytes"),
        "HTML in the model's name": (
            put(row(58), _edited(row(58), lambda d: d["attributes"]["identity"].update(model=HTML))),
            "identity.model: expected text matching",
        ),
        "escape in the contributor": (
            put(row(59), _edited(row(59), lambda d: d["attributes"]["provenance"].update(contributor="\x1b[2J\u202e"))),
            "provenance.contributor: expected text matching",
        ),
        "another text set": (files_of(row(60, text_set="f" * 64)), "expected this registry's"),
        "another protocol": (files_of(row(61, protocol="f" * 64)), "expected this registry's"),
        "other values under the digest": (
            put(row(62), _edited(row(62), lambda d: d["attributes"]["identity"].update(model="org/m1"))),
            "expected the digest of the values",
        ),
        "another model's identity": (
            files_of(make_row(site.registry, "org/m1", 63)),
            "claims the identity of org/m1@",
        ),
        "another row's name": (
            {row_path(row(64).record).as_posix().replace("bob--m64", "org--m1"): to_zip(row(64))},
            "expected the name rows/",
        ),
        "no row at all": (put(row(65), b"PK\x03\x04 not quite"), "expected a whole row file"),
        "retraction of nothing": (
            {f"retractions/{'a' * 64}.json": _retraction("a" * 64)},
            "expected a row that is here",
        ),
        "subset drawn by hand": (
            {f"subsets/{'a' * 64}.json": b'{"format": "llreg-subset"}'},
            "expected a value; the field is missing",
        ),
    }


def _retraction(digest: str, why: str = "why not") -> bytes:
    return pretty_json(retraction(digest, "org/m1", why, None, "2026-03-04T05:06:07Z")).encode()


def _misplaced(site: Site, make_row: MakeRow) -> dict[str, tuple[dict[str, bytes | None], str]]:
    """Files that no pull request may touch: what -> (files, the path that is named)."""
    row = make_row(site.registry, "bob/model", 70)
    path, data = next(iter(files_of(row).items()))
    folder, name = path.rsplit("/", 1)
    hh, other = folder[-2:], next(file for file in site.files() if file.startswith("rows/"))
    digest = row.record.digest
    return {
        "the store": ({path: data, "store.zarr/log_likelihood/c.0.0": b"x"}, "store.zarr/"),
        "a file beside the store's": ({"store.zarr/evil/c/0": b"x"}, "store.zarr/"),
        "the card": ({path: data, "README.md": b"mine"}, "README.md"),
        "the settings": ({"registry.json": b"{}"}, "registry.json"),
        "the texts": ({"texts.parquet": b"PAR1"}, "texts.parquet"),
        "git attributes": ({".gitattributes": b"* -text"}, ".gitattributes"),
        "a version": ({"versions/v9.json": b"{}"}, "versions/"),
        "code": ({"registry.py": b"import os", path: data}, "registry.py"),
        "another's row": ({other: data}, other),
        "a row deleted": ({other: None}, other),
        "the build deleted": ({"models.parquet": None}, "models.parquet"),
        "another case": ({f"Rows/{hh}/{name}": data}, "Rows/"),
        "upper-case digits": (
            {f"rows/{'AB' if hh != 'ab' else 'CD'}/{name}": data},
            "rows/A" if hh != "ab" else "rows/C",
        ),
        "a wrong folder": ({f"rows/{'00' if hh != '00' else '11'}/{name}": data}, f"/{name}"),
        "no folder": ({f"rows/{name}": data}, f"rows/{name}"),
        "too deep": ({f"rows/{hh}/more/{name}": data}, f"rows/{hh}/more/"),
        "no row's ending": ({f"rows/{hh}/{digest}.zip": data}, f"rows/{hh}/{digest}.zip"),
        "a dot in front": ({f"rows/{hh}/.{name}": data}, f"rows/{hh}/.{name}"),
        "HTML in the path": ({f"rows/{hh}/{HTML}-{digest}.zarr.zip": data}, "img src"),
        "an escape in the path": ({f"rows/{hh}/\x1b[31m\u202e-{digest}.zarr.zip": data}, "\x1b[31m"),
        "Markdown in the path": ({f"rows/{hh}/`|[x](http:evil)|`\n# @alice-{digest}.zarr.zip": data}, "evil"),
        "retraction with another name": ({"retractions/x.json": b"{}"}, "retractions/x.json"),
    }


def _is_plain(comment: str) -> None:
    """No markup of others: neither HTML nor what drives a terminal; and code is closed in each line."""
    lines = comment.splitlines()
    assert re.fullmatch(r"<!-- llreg-review [0-9a-f]{40} \S+ (good|attention|refused) -->", lines[0])
    for line in lines[1:]:
        assert not set("<>\x1b\u202e") & set(line)
        assert line.isprintable()
        assert line.count("`") % 2 == 0
        assert "@alice" not in re.sub("`[^`]*`", "", line)


def _refused(site: Site, verdict: Verdict) -> str:
    assert (verdict.state, verdict.merged, verdict.closed, verdict.paths) == ("refused", None, False, [])
    assert site.status(verdict.number) == "open"
    (comment,) = site.comments(verdict.number)
    _is_plain(comment)
    return "\n".join(f"{f.file}: {f.message}" for f in verdict.findings if f.level == "refused")


def test_content_that_is_no_row_of_this_registry(site: Site, make_row: MakeRow) -> None:
    cases = _spoiled(site, make_row)
    numbers = {site.propose(files, title=f"Add {HTML}"): (what, files, told) for what, (files, told) in cases.items()}
    before = site.head()
    for verdict in site.review(*numbers, merge=True):
        what, files, told = numbers[verdict.number]
        said = _refused(site, verdict)
        assert told in said, what
        assert next(iter(files)) in said, what
    assert site.head() == before
    assert len(Registry(site.registry.path).records()) == 4
    assert Registry(site.registry.path).validate() == []


def test_files_that_are_not_theirs(site: Site, make_row: MakeRow) -> None:
    cases = _misplaced(site, make_row)
    numbers = {}
    for what, (files, named) in cases.items():
        number = site.propose({"rows/xx": b""})
        entries = [("100644", path, data) for path, data in files.items() if data is not None]
        if len(entries) == len(files):
            site.rewrite(number, entries)  # the client would not send some of these names
        else:
            number = site.propose(files)
        numbers[number] = what, named
    before = site.head()
    for verdict in site.review(*numbers, merge=True):
        what, named = numbers[verdict.number]
        assert named in _refused(site, verdict), what
    assert site.head() == before
    assert Registry(site.registry.path).validate() == []


def test_a_symbolic_link_in_the_place_of_a_row(site: Site, make_row: MakeRow) -> None:
    path = next(iter(files_of(make_row(site.registry, "bob/model", 70))))
    number = site.propose({"rows/xx": b""})
    site.rewrite(number, [("120000", path, b"../../registry.json")])
    (verdict,) = site.review(number, merge=True)
    assert f"{path}: expected a whole row file" in _refused(site, verdict)


def test_six_hundred_rows_at_once(site: Site) -> None:
    number = site.propose({"rows/xx": b""})
    digests = [f"{k:064x}"[::-1] for k in range(600)]
    site.rewrite(number, [("100644", f"rows/{d[:2]}/bob--m-{d}.zarr.zip", b"x") for d in digests])
    site.as_user("alice")
    site.hub.clear()
    (verdict,) = site.registry.review([number], merge=True)
    assert "expected at most 500 new rows; got 600" in _refused(site, verdict)
    downloads = [request for request in site.hub.requests() if "/resolve/" in request.path]
    assert downloads == []


def test_a_history_that_is_not_of_this_repository(site: Site) -> None:
    number = site.propose({"rows/xx": b""})
    orphan = site.hub.git(
        site.repo, "-c", "user.name=b", "-c", "user.email=b@b", "commit-tree", "-m", "x", "main^{tree}"
    )
    site.hub.git(site.repo, "update-ref", f"refs/pr/{number}", orphan.strip())
    (verdict,) = site.review(all_open=True, merge=True)
    assert (verdict.state, verdict.merged) == ("refused", None)
    assert [f.message for f in verdict.findings if "shares no commit with main" in f.message]
    assert number == verdict.number


def test_one_refused_file_keeps_the_good_ones_out(site: Site, make_row: MakeRow) -> None:
    row = make_row(site.registry, "bob/model", 70)
    bad = make_row(site.registry, "bob/bad", 71, log_likelihood=np.arange(1.0, 7.0))
    before = site.head()
    (verdict,) = site.review(site.propose(files_of(row, bad)), merge=True)
    assert "expected at most 0 nats" in _refused(site, verdict)
    assert site.head() == before
    assert row.record.digest not in Registry(site.registry.path).digests()


def test_words_of_strangers_in_what_is_valid_are_told_as_code(site: Site, make_row: MakeRow) -> None:
    """HTML is allowed in free text, where it says who and on what: it must not become markup."""
    row = make_row(
        site.registry,
        "bob/model",
        70,
        provenance={"contributor": HTML, "device": {"type": "cpu", "name": "`|<b>@alice"}},
        declared={"licence": HTML, "base_model": ["org/m1"]},
    )
    there = site.registry.row("org/m2").record.digest
    why = f"{HTML} [x](http://evil) www.evil.com @alice `code` | *bold*"
    files = {**files_of(row), f"retractions/{there}.json": _retraction(there, why)}
    number = site.propose(files)
    (verdict,) = site.review(number)
    assert verdict.state == "attention"
    (comment,) = site.comments(number)
    _is_plain(comment)
    outside = re.sub("`[^`]*`", "", comment)
    assert "://" not in outside
    assert "www." not in outside
    assert "\\*bold\\*" in outside


def test_a_row_id_that_is_taken(small_registry: Registry, make_row: MakeRow, tmp_path: Path) -> None:
    """Eight digits of a digest can be made to fit another row's: then two rows would answer to one id."""
    row = make_row(small_registry, "bob/model", 70)
    proposal = Proposal(tmp_path / "staged", small_registry)
    path = write_row(proposal.path, row).relative_to(proposal.path).as_posix()
    files = NewFiles(rows=[Entry(path, "", 1, is_folder=False, is_lfs=True)])
    for digest, state in ((row.record.digest, "good"), (row.record.digest[:8] + "0" * 56, "refused")):
        verdict = Verdict("lab/x", 1, "", "", "")
        proposal.check(files, verdict, {row.record.row_id: digest})
        assert verdict.state == state
