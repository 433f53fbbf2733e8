"""Building text sets by recipes, against a plain implementation that holds every piece and samples the list."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llreg.texts import build
from llreg.texts.build import Built, build_file
from llreg.texts.recipe import Expect, Pieces, Recipe, Sample, Source, presets, read_recipe
from llreg.texts.sources import documents, open_stream
from llreg.texts.textset import load_texts, read_built
from llreg_schemas import text_set_id
from llreg_schemas.errors import InputError, InvalidFileError

# sha256 over the 10,000 ordinals of pile-10k, one a line, and the first of them: computed once with CPython 3.11.
PILE_ORDINALS = [5363900, 933912, 209805, 2307113, 2054301, 1872427, 1170528, 859791, 5676566, 4574866, 729295, 4953410]
PILE_ORDINALS_SHA = "c0f968ed58cd19a90454a5a5b8de39e2b5db32354b643770838bcd73ad993eea"
CHARACTERS = "abc é ß я 語 字 \U0001f600\U0001f9d1 e\u0301a\u0308\u20dd \u200d\ufe0f"

REPEATING = [{"text": letter * 300, "meta": {"pile_set_name": "p"}} for letter in "abacadaeafag"]


def make_documents(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Documents of the Pile's shape: many short, some of exactly 256, 257, 1024 and 1025 bytes, some of many pieces."""
    rng = random.Random(seed)
    edges = [256, 257, 1023, 1024, 1025, 1280, 1281, 2048, 2049]
    made = []
    for number in range(count):
        if number % 7 == 3:
            text = "x" * edges[number // 7 % len(edges)]
        elif number % 11 == 5:  # characters of 2 to 4 bytes across every possible cut
            text = "y" * (number % 4) + "\U0001f600é語" * 350
        else:
            text = "".join(rng.choices(CHARACTERS, k=int(rng.expovariate(1 / 900))))
        made.append({"text": text, "meta": {"pile_set_name": rng.choice(["Pile-CC", "ArXiv", "Github"])}})
    return made


def plain(documents: list[dict[str, Any]], *, draw: int, take: int) -> tuple[int, list[tuple[str, str, int, int]]]:
    """The authors' procedure as the paper's repository describes it: all pieces in a list, then random.sample of it."""
    pieces = []
    for pile_idx, document in enumerate(documents):
        data, start, chunk_idx = document["text"].encode("utf-8"), 0, 0
        while start < len(data):
            end = min(start + 1024, len(data))
            while end < len(data) and (data[end] & 0xC0) == 0x80:
                end -= 1
            if end - start > 256:
                pieces.append((data[start:end].decode(), document["meta"]["pile_set_name"], pile_idx, chunk_idx))
            start, chunk_idx = end, chunk_idx + 1
    random.seed(42)
    return len(pieces), random.sample(pieces, draw)[:take]


def recipe_of(*sources: Source, population: int | None = None, **over: Any) -> Recipe:
    """pile-10k in small."""
    settings: dict[str, Any] = {
        "name": "small-pile",
        "licence": "CC0-1.0",
        "pieces": Pieces(1024, 257),
        "sample": Sample(42, 200, 50, population),
        "duplicates": "keep",
    }
    return Recipe(sources=sources, **{**settings, **over})


def source_of(**over: Any) -> Source:
    """A source with the Pile's fields."""
    return Source(**{"text": "text", "subset": "meta.pile_set_name", **over})


def write_jsonl(path: Path, items: list[dict[str, Any]]) -> Path:
    data = "".join(json.dumps(item, ensure_ascii=bool(k % 2)) + "\n" for k, item in enumerate(items)).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data)
    if path.suffix == ".zst":
        data = pa.compress(data, codec="zstd", asbytes=True)
    path.write_bytes(data)
    return path


def write_parquet(path: Path, items: list[dict[str, Any]], group: int = 37) -> Path:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(
        pa.Table.from_pylist([{"id": k, **item} for k, item in enumerate(items)]), path, row_group_size=group
    )
    return path


def sources_of_every_kind(folder: Path, items: list[dict[str, Any]]) -> dict[str, Source]:
    """The same documents as files and as data sets."""
    parts = [items[:150], items[150:200], items[200:]]
    parquet = [write_parquet(folder / "shards" / f"train-{k}.parquet", part) for k, part in enumerate(parts)]
    (folder / "lines").mkdir()
    for k, part in enumerate(parts):
        write_jsonl(folder / "lines" / f"{k:02}.jsonl", part)
    packed = [
        write_jsonl(folder / f"{k}.jsonl{end}", part)
        for k, (part, end) in enumerate(zip(parts, ("", ".gz", ".zst"), strict=True))
    ]
    return {
        "jsonl": source_of(files=tuple(map(str, packed))),
        "parquet": source_of(files=tuple(map(str, parquet))),
        "mixed": source_of(files=(str(packed[0]), str(parquet[1]), str(packed[2]))),
        "datasets of parquet": source_of(dataset=str(folder / "shards")),
        "datasets of jsonl": source_of(dataset=str(folder / "lines")),
    }


def content(built: Built) -> list[tuple[str, str, str]]:
    texts = built.texts
    return list(zip(texts.complete(), texts.subset, texts.source, strict=True))


@pytest.fixture(scope="module")
def items() -> list[dict[str, Any]]:
    return make_documents(400)


class TestAgainstPlain:
    """Byte for byte what the authors' procedure gives."""

    @pytest.mark.datasets
    def test_every_kind_of_source(self, tmp_path: Path, items: list[dict[str, Any]]) -> None:
        count, wanted = plain(items, draw=200, take=50)
        for kind, source in sources_of_every_kind(tmp_path, items).items():
            built = build_file(recipe_of(source), tmp_path / f"{kind.replace(' ', '-')}.parquet")
            assert content(built) == [(text, label, f"{doc}/{piece}") for text, label, doc, piece in wanted], kind
            assert (built.pieces, built.documents) == (count, 400), kind
            assert built.recipe.expect.first == tuple((doc, piece) for _, _, doc, piece in wanted[:15]), kind

    def test_the_count_may_be_known(self, tmp_path: Path, items: list[dict[str, Any]]) -> None:
        count, wanted = plain(items, draw=200, take=50)
        source = source_of(files=(str(write_jsonl(tmp_path / "a.jsonl", items)),))
        built = build_file(recipe_of(source, population=count), tmp_path / "known.parquet")
        assert [text for text, _, _ in content(built)] == [text for text, _, _, _ in wanted]

    def test_only_the_first_documents(self, tmp_path: Path, items: list[dict[str, Any]]) -> None:
        count, wanted = plain(items[:333], draw=200, take=50)
        source = source_of(files=(str(write_parquet(tmp_path / "a.parquet", items)),), documents=333)
        built = build_file(recipe_of(source), tmp_path / "first.parquet")
        assert (built.pieces, built.documents) == (count, 333)
        assert built.texts.complete() == [text for text, _, _, _ in wanted]

    def test_several_sources_follow_one_another(self, tmp_path: Path, items: list[dict[str, Any]]) -> None:
        """As one list of documents; the source of a text says which of them, and what else it is asked to say."""
        _, wanted = plain(items, draw=200, take=50)
        first = source_of(files=(str(write_jsonl(tmp_path / "a.jsonl", items[:100])),))
        second = source_of(
            files=(str(write_parquet(tmp_path / "b.parquet", items[100:])),), source=("id",), subset={"label": "de"}
        )
        built = build_file(recipe_of(first, second), tmp_path / "both.parquet")
        expected = [
            (text, label, f"0:{doc}/{piece}") if doc < 100 else (text, "de", f"{doc - 100} 1:{doc - 100}/{piece}")
            for text, label, doc, piece in wanted
        ]
        assert content(built) == expected
        assert built.recipe.expect.first == tuple((doc, piece) for _, _, doc, piece in wanted[:15])

    @given(st.text(max_size=60), st.integers(4, 12), st.integers(1, 12))
    def test_pieces(self, text: str, longest: int, shortest: int) -> None:
        data = text.encode()
        every = list(Pieces(longest, 1).cut(data))
        assert b"".join(data[begin:end] for _, begin, end in every) == data
        for number, (piece, begin, end) in enumerate(every):
            assert piece == number
            assert data[begin:end].decode().encode() == data[begin:end]
            following = data[end:].decode()[:1].encode()
            assert end - begin <= longest < end - begin + len(following) or end == len(data)
        if shortest <= longest:
            kept = list(Pieces(longest, shortest).cut(data))
            assert kept == [piece for piece in every if piece[2] - piece[1] >= shortest]

    @pytest.mark.parametrize(
        ("size", "kept"), [(256, []), (257, [257]), (1024, [1024]), (1025, [1024]), (1281, [1024, 257])]
    )
    def test_edges(self, size: int, kept: list[int]) -> None:
        assert [end - begin for _, begin, end in Pieces(1024, 257).cut(b"x" * size)] == kept

    @given(st.integers(1, 5000), st.data())
    def test_ordinals_are_what_sampling_the_list_gives(self, population: int, data: st.DataObject) -> None:
        draw = data.draw(st.integers(1, population))
        take, seed = data.draw(st.integers(1, draw)), data.draw(st.integers(-9, 2**40))
        random.seed(seed)
        from_list = random.sample([f"piece {k}" for k in range(population)], draw)
        drawn = Sample(seed, draw, take).ordinals(population)
        assert [f"piece {k}" for k in drawn] == from_list[:take]
        assert [f"piece {k}" for k in Sample(seed, draw, take).ordinals(population, spare=True)] == from_list


class TestPile10k:
    """The preset of the paper's set, as far as it can be checked without the data."""

    def test_is_the_papers(self) -> None:
        recipe = presets()["pile-10k"]
        (source,) = recipe.sources
        assert (source.dataset, source.split, source.documents) == ("monology/pile-uncopyrighted", "train", 1_000_000)
        assert (source.text, source.subset) == ("text", "meta.pile_set_name")
        assert recipe.pieces == Pieces(1024, 257)
        assert recipe.sample == Sample(42, 40_000, 10_000, 5_703_791)
        assert recipe.expect.pieces == 5_703_791
        assert not recipe.copy

    def test_ordinals_are_written_down(self) -> None:
        """Python's random.sample must go on giving these, or the set would silently be another."""
        sample = presets()["pile-10k"].sample
        assert sample is not None
        drawn = sample.ordinals(5_703_791)
        assert drawn[: len(PILE_ORDINALS)] == PILE_ORDINALS
        assert hashlib.sha256("\n".join(map(str, drawn)).encode()).hexdigest() == PILE_ORDINALS_SHA

    def test_ordinals_agree_with_the_authors_documents(self) -> None:
        """Of the authors' fifteen (document, piece) pairs the documents are known: pieces are spread over these evenly."""
        recipe = presets()["pile-10k"]
        assert recipe.sample is not None
        drawn = recipe.sample.ordinals(5_703_791)
        assert len(recipe.expect.first) == 15
        for ordinal, (document, _) in zip(drawn, recipe.expect.first, strict=False):
            assert abs(ordinal / 5_703_791 - document / 1_000_000) < 0.005

    def test_a_smaller_sample_is_its_beginning(self) -> None:
        recipe = presets()["pile-10k"]
        small = recipe.with_sample(100, None)
        assert recipe.sample is not None
        assert small.sample is not None
        assert small.sample.ordinals(5_703_791) == recipe.sample.ordinals(5_703_791)[:100]
        assert (small.name, small.expect) == ("pile-10k.100", Expect(5_703_791))

    def test_every_preset_reads_and_says_what_it_is(self) -> None:
        for name, recipe in presets().items():
            assert recipe.licence, name
            assert recipe.sample is not None, name
            assert recipe.copy == (name != "pile-10k"), name
            assert read_recipe(recipe.to_text(), name) == recipe
            assert all(not source.is_local for source in recipe.sources)


class TestBuiltFile:
    """What is written, and what `load_texts` makes of it."""

    @pytest.fixture
    def built(self, tmp_path: Path, items: list[dict[str, Any]]) -> Built:
        source = source_of(files=(str(write_jsonl(tmp_path / "a.jsonl", items)),))
        return build_file(recipe_of(source, description="A try."), tmp_path / "set.parquet")

    def test_comes_back(self, tmp_path: Path, built: Built) -> None:
        texts = load_texts(tmp_path / "set.parquet")
        assert texts == built.texts
        assert (texts.info.name, texts.info.licence, texts.info.description) == ("small-pile", "CC0-1.0", "A try.")
        assert texts.info.id == text_set_id(texts.sha256)
        assert pq.read_schema(tmp_path / "set.parquet").names == ["text", "subset", "source"]

    def test_is_the_same_bytes_again(self, tmp_path: Path, built: Built) -> None:
        """Built again from the recipe that the file holds, which needs no counting any more."""
        recipe = replace(built.recipe, sources=(replace(built.recipe.sources[0], files=(str(tmp_path / "a.jsonl"),)),))
        assert recipe.sample is not None
        assert recipe.sample.population == built.pieces
        build_file(recipe, tmp_path / "again.parquet")
        assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "set.parquet").read_bytes()

    def test_names_no_place_on_this_machine(self, tmp_path: Path, built: Built) -> None:
        assert built.recipe.sources[0].files == ("a.jsonl",)
        assert str(tmp_path).encode() not in (tmp_path / "set.parquet").read_bytes()

    def test_leaves_nothing_beside_it(self, tmp_path: Path, built: Built) -> None:
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "set.parquet"]

    def test_changed_texts_are_refused(self, tmp_path: Path, built: Built) -> None:
        table = pq.read_table(tmp_path / "set.parquet")
        texts = table["text"].to_pylist()
        texts[3] += "!"
        pq.write_table(table.set_column(0, "text", pa.array(texts)), tmp_path / "set.parquet")
        with pytest.raises(InputError, match=r"set\.parquet: the texts were changed after they were built"):
            load_texts(tmp_path / "set.parquet")

    def test_a_broken_recipe_is_refused(self, tmp_path: Path, built: Built) -> None:
        table = pq.read_table(tmp_path / "set.parquet")
        pq.write_table(table.replace_schema_metadata({b"llreg.recipe": b'{"format": "x"}'}), tmp_path / "set.parquet")
        with pytest.raises(InputError, match=r"set\.parquet: llreg\.recipe: .*the field is missing"):
            load_texts(tmp_path / "set.parquet")

    def test_another_parquet_file_is_none(self, tmp_path: Path) -> None:
        assert read_built(write_parquet(tmp_path / "x.parquet", [{"text": "a"}])) is None

    def test_a_file_that_is_there_stays(self, tmp_path: Path, built: Built) -> None:
        before = (tmp_path / "set.parquet").read_bytes()
        with pytest.raises(InputError, match="is there already"):
            build_file(recipe_of(source_of(files=(str(tmp_path / "a.jsonl"),))), tmp_path / "set.parquet")
        assert (tmp_path / "set.parquet").read_bytes() == before


class TestStopping:
    """A build that stops goes on, and comes to the same file."""

    @pytest.mark.parametrize(
        "kind",
        [
            "jsonl",
            "parquet",
            pytest.param("datasets of parquet", marks=pytest.mark.datasets),
            pytest.param("datasets of jsonl", marks=pytest.mark.datasets),
        ],
    )
    def test_a_stream_goes_on_anywhere(self, tmp_path: Path, items: list[dict[str, Any]], kind: str) -> None:
        source = sources_of_every_kind(tmp_path, items)[kind]
        for stop in (1, 36, 37, 149, 150, 151, 256, 399, 400):
            stream = open_stream(source)
            before = list(islice(documents(source, stream), stop))
            position = json.loads(json.dumps(stream.position))
            after = list(documents(source, open_stream(source, position), stop))
            data = [document.data.decode() for document in [*before, *after] if document is not None]
            assert data == [item["text"] for item in items], (kind, stop)
            assert [document.number for document in after if document is not None] == list(range(stop, 400))

    @pytest.mark.parametrize(
        ("kind", "population"),
        [("jsonl", None), pytest.param("datasets of parquet", "known", marks=pytest.mark.datasets)],
    )
    def test_a_killed_build_goes_on(self, tmp_path: Path, kind: str, population: str | None) -> None:
        """SIGKILL in the middle of the counting pass, then of the other."""
        items = make_documents(2500, seed=1)
        source = sources_of_every_kind(tmp_path, items)[kind]
        count, wanted = plain(items, draw=200, take=50)
        recipe = recipe_of(source, population=count if population else None)
        (tmp_path / "recipe.json").write_text(recipe.to_text())
        script = textwrap.dedent(
            """
            import os, signal, sys
            from pathlib import Path
            from llreg.texts import build
            from llreg.texts.build import build_file
            from llreg.texts.recipe import load_recipe
            build.SAVE_SECONDS = 0.0
            build._SAVE_SHARE = 0
            seen = 0
            def progress(done, total):
                global seen
                seen += 1
                if seen == int(sys.argv[1]):
                    os.kill(os.getpid(), signal.SIGKILL)
            build_file(load_recipe("recipe.json"), Path("set.parquet"), progress=progress, note=lambda text: print(text, flush=True))
            """
        )
        stops = [6, 9] if population is None else [5]  # of 12 steps a pass
        for stop in stops:
            done = subprocess.run(
                [sys.executable, "-c", script, str(stop)], cwd=tmp_path, capture_output=True, text=True, check=False,
                env={"PYTHONPATH": ":".join(sys.path), "HOME": str(tmp_path), "PATH": ""},
            )  # fmt: skip
            assert done.returncode == -signal.SIGKILL, done.stderr
            assert not (tmp_path / "set.parquet").exists()
        told: list[str] = []
        built = build_file(recipe, tmp_path / "set.parquet", note=told.append)
        assert len(told) == 1
        assert told[0].startswith("going on from document ")
        assert told[0] != "going on from document 0"
        assert [text for text, _, _ in content(built)] == [text for text, _, _, _ in wanted]
        build_file(recipe, tmp_path / "whole.parquet")
        assert (tmp_path / "set.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
        assert not (tmp_path / "set.parquet.partial").exists()

    def test_an_interrupted_build_goes_on(self, tmp_path: Path) -> None:
        items = make_documents(1000, seed=2)
        recipe = recipe_of(source_of(files=(str(write_jsonl(tmp_path / "a.jsonl", items)),)))

        def interrupt(done: int, total: int | None) -> None:
            if done == 768:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build_file(recipe, tmp_path / "set.parquet", progress=interrupt)
        told: list[str] = []
        built = build_file(recipe, tmp_path / "set.parquet", note=told.append)
        assert told == ["going on from document 768"]
        assert [text for text, _, _ in content(built)] == [text for text, _, _, _ in plain(items, draw=200, take=50)[1]]

    def test_another_recipes_rest_is_not_used(self, tmp_path: Path) -> None:
        items = make_documents(600, seed=3)
        path = write_jsonl(tmp_path / "a.jsonl", items)
        recipe = recipe_of(source_of(files=(str(path),)))

        def interrupt(done: int, total: int | None) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build_file(recipe, tmp_path / "set.parquet", progress=interrupt)
        write_jsonl(path, items[50:])
        told: list[str] = []
        built = build_file(recipe, tmp_path / "set.parquet", note=told.append)
        assert "is of another recipe or other files: beginning anew" in told[0]
        assert built.texts.complete() == [text for text, *_ in plain(items[50:], draw=200, take=50)[1]]

    def test_a_damaged_rest_is_not_used(self, tmp_path: Path, items: list[dict[str, Any]]) -> None:
        (tmp_path / "set.parquet.partial").write_text('{"format": "llreg-partial-texts-1"')
        recipe = recipe_of(source_of(files=(str(write_jsonl(tmp_path / "a.jsonl", items)),)))
        told: list[str] = []
        assert len(build_file(recipe, tmp_path / "set.parquet", note=told.append).texts) == 50
        assert "beginning anew" in told[0]

    def test_only_drawn_pieces_are_held(
        self, tmp_path: Path, items: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(build, "SAVE_SECONDS", 0.0)
        recipe = recipe_of(source_of(files=(str(write_jsonl(tmp_path / "a.jsonl", items * 4)),)))
        held: list[int] = []

        def look(done: int, total: int | None) -> None:
            state = tmp_path / "set.parquet.partial"
            if state.exists():
                held.append(len(json.loads(state.read_text())["pieces"]))

        build_file(recipe, tmp_path / "set.parquet", progress=look)
        assert held
        assert max(held) <= 50

    def test_progress(self, tmp_path: Path) -> None:
        """Twice the documents, where they are counted first; how many in all is known if the recipe says so."""
        items = make_documents(600, seed=4)
        source = source_of(files=(str(write_jsonl(tmp_path / "a.jsonl", items)),), documents=600)
        seen: list[tuple[int, int | None]] = []
        build_file(recipe_of(source), tmp_path / "set.parquet", progress=lambda *args: seen.append(args))
        assert seen == [(done, 1200) for done in (256, 512, 600, 856, 1112, 1200)]


class TestExpectations:
    """A source that has changed is refused."""

    @pytest.fixture
    def recipe(self, tmp_path: Path, items: list[dict[str, Any]]) -> Recipe:
        source = source_of(files=(str(write_jsonl(tmp_path / "a.jsonl", items)),))
        made = build_file(recipe_of(source), tmp_path / "set.parquet").recipe
        return replace(made, sources=(source,))

    def test_another_number_of_pieces(self, tmp_path: Path, items: list[dict[str, Any]], recipe: Recipe) -> None:
        path = write_jsonl(tmp_path / "a.jsonl", [*items, {"text": "z" * 1500, "meta": {"pile_set_name": "new"}}])
        count = recipe.expect.pieces or 0
        with pytest.raises(
            InputError, match=f"expected {count:,} pieces; .*a.jsonl gave {count + 2:,}: it has changed since"
        ):
            build_file(recipe, tmp_path / "new.parquet")
        assert sorted(found.name for found in tmp_path.iterdir()) == [path.name, "set.parquet"]

    def test_other_documents(self, tmp_path: Path, items: list[dict[str, Any]], recipe: Recipe) -> None:
        write_jsonl(tmp_path / "a.jsonl", items[::-1])
        with pytest.raises(InputError, match=r"text 0 is piece \d+ of document \d+, and the recipe expects piece"):
            build_file(recipe, tmp_path / "new.parquet")

    def test_other_texts(self, tmp_path: Path, items: list[dict[str, Any]], recipe: Recipe) -> None:
        swapped = [{**item, "text": item["text"].replace("c", "C")} for item in items]
        write_jsonl(tmp_path / "a.jsonl", swapped)
        with pytest.raises(InputError, match=r"expected the text set [0-9a-f]{12}; these texts are [0-9a-f]{12}"):
            build_file(recipe, tmp_path / "new.parquet")

    def test_the_same_again(self, tmp_path: Path, recipe: Recipe) -> None:
        built = build_file(recipe, tmp_path / "new.parquet")
        assert built.texts.info.id == recipe.expect.text_set

    def test_fewer_pieces_than_are_drawn(self, tmp_path: Path) -> None:
        source = source_of(files=(str(write_jsonl(tmp_path / "a.jsonl", make_documents(20))),))
        with pytest.raises(InputError, match=r"the sources give \d+ pieces, and the recipe draws 200"):
            build_file(recipe_of(source), tmp_path / "set.parquet")


class TestDuplicates:
    """What becomes of a text that repeats another."""

    def _recipe(self, tmp_path: Path, **over: Any) -> Recipe:
        return recipe_of(source_of(files=(str(write_jsonl(tmp_path / "a.jsonl", REPEATING)),)), **over)

    def test_dropped_and_others_take_their_place(self, tmp_path: Path) -> None:
        recipe = self._recipe(tmp_path, sample=Sample(1, 12, 5), duplicates="drop")
        random.seed(1)
        drawn = random.sample([item["text"] for item in REPEATING], 12)
        built = build_file(recipe, tmp_path / "set.parquet")
        assert built.texts.complete() == list(dict.fromkeys(drawn))[:5]
        assert built.dropped == drawn.index(built.texts.complete()[-1]) + 1 - 5
        assert built.repeated == 0

    def test_kept(self, tmp_path: Path) -> None:
        built = build_file(self._recipe(tmp_path, sample=None), tmp_path / "set.parquet")
        assert (len(built.texts), built.repeated) == (12, 5)
        assert load_texts(tmp_path / "set.parquet").info.id == built.texts.info.id

    def test_refused_with_both_places(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"a\.jsonl:3 repeats the text of .*a\.jsonl:1: take one out"):
            build_file(self._recipe(tmp_path, sample=None, duplicates="refuse"), tmp_path / "set.parquet")

    def test_too_few_differ(self, tmp_path: Path) -> None:
        recipe = self._recipe(tmp_path, sample=Sample(1, 12, 9), duplicates="drop")
        with pytest.raises(InputError, match="only 7 of the 12 drawn texts differ, and 9 are wanted"):
            build_file(recipe, tmp_path / "set.parquet")


class TestChoosing:
    """Filters and fields."""

    def test_where(self, tmp_path: Path) -> None:
        items = [
            {"content": f"text {k}", "license": ["mit", "gpl-3.0", "isc"][k % 3], "kept": k % 2 == 0} for k in range(12)
        ]
        for path in (write_jsonl(tmp_path / "a.jsonl", items), write_parquet(tmp_path / "a.parquet", items)):
            where = {"license": ["mit", "isc"], "kept": [True]}
            source = Source("content", files=(str(path),), subset="license", where=where)
            built = build_file(recipe_of(source, pieces=None, sample=None), tmp_path / f"{path.suffix[1:]}-set.parquet")
            assert content(built) == [(f"text {k}", ["mit", "", "isc"][k % 3], str(k)) for k in (0, 2, 6, 8)]

    def test_a_field_to_choose_by_must_be_there(self, tmp_path: Path) -> None:
        source = Source(
            "text", files=(str(write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}])),), where={"lang": ["de"]}
        )
        with pytest.raises(InputError, match=r"a\.jsonl:1: no field 'lang' to choose by; fields are text"):
            build_file(recipe_of(source, pieces=None, sample=None), tmp_path / "set.parquet")

    def test_metadata_may_be_json_text(self, tmp_path: Path) -> None:
        items = [{"text": "a", "meta": '{"pile_set_name": "ArXiv"}'}, {"text": "b", "meta": "not JSON"}, {"text": "c"}]
        source = source_of(files=(str(write_jsonl(tmp_path / "a.jsonl", items)),))
        built = build_file(recipe_of(source, pieces=None, sample=None), tmp_path / "set.parquet")
        assert built.texts.subset == ["ArXiv", "all", "all"]

    def test_labels_are_cleaned(self, tmp_path: Path) -> None:
        items = [{"text": "a", "meta": {"pile_set_name": "a\x1b[31m\u202eb" + "c" * 300}, "url": "x\ny"}]
        source = source_of(files=(str(write_jsonl(tmp_path / "a.jsonl", items)),), source=("url",))
        built = build_file(recipe_of(source, pieces=None, sample=None), tmp_path / "set.parquet")
        assert built.texts.subset == ["a [31m b" + "c" * 192]
        assert built.texts.source == ["x y"]
        assert load_texts(tmp_path / "set.parquet") == built.texts


class TestDocuments:
    """The document of a recipe."""

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"sources": [{"text": "text"}]}, r"sources\.0: expected either dataset or files"),
            ({"sources": [{"text": "t", "dataset": "a/b", "files": ["c"]}]}, "expected either dataset or files"),
            ({"sources": []}, "at least 1 items"),
            ({"sources": [{"text": "t", "dataset": "a/b", "revision": "main"}]}, "text matching"),
            ({"sources": [{"text": "t", "dataset": "a/b", "tetx": 1}]}, r"sources\.0\.tetx: expected no such field"),
            ({"pieces": {"max_bytes": 3, "min_bytes": 1}}, "at least 4"),
            ({"pieces": {"max_bytes": 10, "min_bytes": 11}}, r"pieces\.min_bytes: expected at most max_bytes"),
            ({"sample": {"method": "python-random", "seed": 1, "draw": 2, "take": 3}}, r"sample\.take: expected at most"),
            ({"sample": {"method": "numpy", "seed": 1, "draw": 3, "take": 3}}, "expected 'python-random'"),
            ({"duplicates": "hide"}, "one of 'keep', 'drop', 'refuse'"),
            ({"format_version": 2}, "written by a newer llreg"),
        ],
    )  # fmt: skip
    def test_bad_ones(self, change: dict[str, Any], message: str) -> None:
        document = {**presets()["oasst2-messages"].to_json(), **change}
        with pytest.raises(InvalidFileError, match=message):
            read_recipe(json.dumps(document), "recipe.json")

    def test_the_id_is_of_what_decides_the_texts(self) -> None:
        recipe = presets()["oasst2-messages"]
        assert replace(recipe, name="other", licence="x", copy=False, description="").id == recipe.id
        assert recipe.with_sample(10, None).id != recipe.id
