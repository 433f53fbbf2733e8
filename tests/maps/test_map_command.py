"""llreg map from the outside: files by ending, what is said, what is refused before the work."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

from llreg.cli import cli as llreg_cli
from llreg.registry import Registry
from llreg.store.rowfile import write_row
from llreg_schemas.errors import LlregError


def _run(registry: Registry, *arguments: str) -> None:
    """The command in this process: errors come as they are raised."""
    llreg_cli.main(["-r", str(registry.path), "map", *arguments], standalone_mode=False)


ENDINGS = [".json", ".html", ".png", ".svg", ".pdf", ".parquet", ".csv"]


def test_every_ending_at_once(cli: Any, groups: Registry, tmp_path: Path) -> None:
    paths = [tmp_path / f"map{ending}" for ending in ENDINGS]
    result = cli("-r", groups.path, "map", "--method", "pca", *(arg for path in paths for arg in ("-o", path)))
    assert (result.code, result.out) == (0, "")
    view = replace(groups.view, estimator="text").id  # its rows have no segments
    assert f"60 rows of registry, pca, version {groups.version[:12]}, view {view[:12]}" in result.err
    for path, start in zip(paths, (b"{", b"<!", b"\x89PNG", b"<?xml", b"%PDF", b"PAR1", b"row_id,"), strict=True):
        assert path.read_bytes().lower().startswith(start.lower())
        assert str(path) in result.err
    assert len(list(tmp_path.iterdir())) == len(paths) + 1  # and the directory that it ran in


def test_tsne_of_some_rows_is_noted(cli: Any, groups: Registry, tmp_path: Path) -> None:
    names = [record.identity.model for record in groups.records()][:15]
    result = cli("-r", groups.path, "map", *names, "-o", tmp_path / "a.json", "--iterations", "300", "--seed", "3")
    assert result.code == 0, result.err
    assert "perplexity 4.67 instead of 30: with 15 rows it can be no more" in result.err
    document = json.loads((tmp_path / "a.json").read_text())
    assert document["settings"] == {"iterations": 300, "perplexity": pytest.approx(14 / 3), "seed": 3}
    assert len(document["models"]) == 15
    assert (
        cli("-r", groups.path, "map", *names, "-o", tmp_path / "b.json", "--iterations", "300", "--seed", "3").code == 0
    )
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_map_place_and_make_again(cli: Any, groups: Registry, tmp_path: Path) -> None:
    names = [record.identity.model for record in groups.records()]
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    assert cli("-r", groups.path, "map", *names[:40], "--method", "pca", "-o", old).code == 0
    placed = cli("-r", groups.path, "map", "--onto", old, "-o", new)
    assert placed.code == 0, placed.err
    assert "20 rows placed; the 40 on the map stay where they are" in placed.err
    points = [{m["row_id"]: (m["x"], m["y"]) for m in json.loads(p.read_text())["models"]} for p in (old, new)]
    assert len(points[1]) == 60
    assert points[0].items() <= points[1].items()
    before = json.loads(old.read_text())["id"]
    again = cli("-r", groups.path, "map", "--method", "pca", "-o", old)
    assert f"aligned to map {before[:12]}, which is replaced" in again.err
    assert json.loads(old.read_text())["aligned_to"] == before
    other = cli("-r", groups.path, "map", "--method", "mds", "-o", old)
    assert "held a pca map of registry, to which this one is not aligned" in other.err


def test_view_options_reach_the_map(cli: Any, groups: Registry, tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    result = cli("-r", groups.path, "map", "--method", "pca", "--clip", "-900", "-o", path)
    assert "clipped at -900 nats" in result.err
    assert json.loads(path.read_text())["view"]["clip"] == -900
    other = tmp_path / "other.json"
    assert cli("-r", groups.path, "map", "--method", "pca", "--view", path, "-o", other).code == 0
    assert json.loads(other.read_text())["view"] == json.loads(path.read_text())["view"]


def test_colour_labels_and_scores(cli: Any, groups: Registry, tmp_path: Path) -> None:
    scores = tmp_path / "scores.csv"
    scores.write_text("model,arc\n" + "".join(f"{r.identity.model},{k}\n" for k, r in enumerate(groups.records())))
    figure = tmp_path / "map.svg"
    options = ("--scores", scores, "--color", "arc", "--label", "g3/g3-m1")
    result = cli("-r", groups.path, "map", "--method", "pca", "-o", figure, *options)
    assert result.code == 0, result.err
    text = figure.read_text(encoding="utf-8")
    assert ">arc<" in text
    assert ">g3/g3-m1<" in text
    wrong = cli("-r", groups.path, "map", "--method", "pca", "-o", figure, "--color", "mmlu")
    assert (wrong.code, "no column 'mmlu'; there are: family," in wrong.err) == (1, True)
    assert figure.read_text(encoding="utf-8") == text


def test_an_old_map_that_does_not_align_is_replaced_with_a_note(
    groups: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str], make_row: Any, small_registry: Registry
) -> None:
    path = tmp_path / "map.json"
    names = [record.identity.model for record in groups.records()]
    _run(groups, *names[:9], "--method", "pca", "-o", str(path))
    capsys.readouterr()
    _run(groups, *names[7:], "--method", "pca", "-o", str(path))
    told = capsys.readouterr().err
    assert "map.json held a map to which this one is not aligned: that needs 3 common rows, and there are 2" in told
    assert "aligned to" not in told
    assert len(json.loads(path.read_text())["models"]) == 53
    for k in range(4):
        write_row(small_registry.path, make_row(small_registry, f"org/m{k}", k))
    _run(small_registry, "--method", "pca", "-o", str(path))
    told = capsys.readouterr().err
    assert "is not aligned: the map is of registry with text set" in told
    assert len(json.loads(path.read_text())["models"]) == 4


def test_a_published_map_stays_when_another_output_cannot_be(groups: Registry, tmp_path: Path) -> None:
    old, notes = tmp_path / "map.json", tmp_path / "notes.json"
    _run(groups, "--method", "pca", "-o", str(old))
    before = old.read_bytes()
    with pytest.raises(LlregError, match="no model typo on the map"):
        _run(groups, "--method", "pca", "-o", str(old), "-o", str(tmp_path / "map.svg"), "--label", "typo")
    notes.write_text('{"mine": 1}')
    with pytest.raises(LlregError, match=r"notes\.json is there and is no map that can be read"):
        _run(groups, "--method", "pca", "-o", str(old), "-o", str(notes))
    assert (old.read_bytes(), notes.read_text()) == (before, '{"mine": 1}')
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.json", "notes.json"]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("map.jpg", "map.jpg: a map is written to files that end in .json, .html, .png, .svg, .pdf, .parquet or .csv"),
        ("map", "map: a map is written to files that end in"),
        ("nowhere/map.png", "cannot write nowhere/map.png: there is no directory nowhere; make it first"),
        ("folder.json", "folder.json is a directory; name a file in it"),
        ("notes.json", "notes.json is there and is no map that can be read; remove it or name another file"),
    ],
)
def test_outputs_that_cannot_be(
    groups: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, message: str
) -> None:
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "notes.json").write_text('{"mine": 1}')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LlregError, match=re.escape(message)):
        _run(groups, "-o", "good.csv", "-o", output)
    assert not (tmp_path / "good.csv").exists()  # found before the work
    assert (tmp_path / "notes.json").read_text() == '{"mine": 1}'


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "Missing parameter: outputs"),
        (("-o", "m.json", "g0/g0-m0"), 1, "a map needs two rows; got 1"),
        (("-o", "m.json", "g0/g0-m0", "g0/g0-m1", "g0/g0-m2"), 1, "t-SNE needs 4 rows or more; got 3"),
        (("-o", "m.json", "--perplexity", "40"), 1, "perplexity: expected 1 to 19.67, a third of the other rows (59)"),
        (("-o", "m.json", "no/such"), 1, "no row of no/such in this registry"),
        (("-o", "m.json", "--onto", "none.json"), 1, "none.json: expected a map; make one with llreg map -o none.json"),
        (("-o", "m.json", "--align", "none.json"), 1, "none.json: expected a map"),
        (("-o", "m.json", "--onto", "x.json", "--method", "pca"), 2, "leave out --method"),
        (("-o", "m.json", "--onto", "x.json", "--clip", "-5"), 2, "leave out --view"),
        (("-o", "m.json", "--method", "pca", "--label", "typo"), 1, "no model typo on the map; names as in: llreg ls"),
        (("-o", "m.json", "-o", "m.svg", "--method", "pca", "--label", "typo"), 1, "no model typo on the map"),
        (("-o", "m.json", "-o", "m.svg", "--method", "pca", "--color", "typo"), 1, "no column 'typo'"),
        (("-o", "m.json", "-o", "m.csv", "--method", "pca", "--scores", "none.csv"), 1, "none.csv: no such file"),
        (("-o", "m.json", "--method", "pca", "--perplexity", "5"), 2, "--perplexity belong to t-SNE; leave out"),
        (
            ("-o", "m.json", "--method", "mds", "--perplexity", "5", "--iterations", "9"),
            2,
            "--perplexity and --iterations belong to t-SNE; leave out for --method mds",
        ),
        (("-o", "m.json", "--method", "isomap"), 2, "'isomap' is not one of"),
    ],
)
def test_what_is_refused(
    groups: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((LlregError, click.ClickException), match=re.escape(message)) as caught:
        _run(groups, *arguments)
    assert getattr(caught.value, "exit_code", 1) == code
    assert list(tmp_path.iterdir()) == []


def test_refusal_from_the_outside(cli: Any, groups: Registry, tmp_path: Path) -> None:
    result = cli("-r", groups.path, "map", "-o", "map.jpg", cwd=tmp_path)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("llreg: map.jpg: a map is written to files that end in")
