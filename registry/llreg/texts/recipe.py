"""A recipe: the document that says how a text set is made (docs/texts.md), and the recipes that come with llreg."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from llreg.names import check_name, is_hidden, valid_name
from llreg_schemas import hash_json, parse, pretty_json
from llreg_schemas.errors import InputError, InvalidFileError
from llreg_schemas.records import FORMAT_VERSION

FORMAT = "llreg-recipe"
_FIRST = 15  # (document, piece) pairs that a built recipe keeps, to see at once where another build went astray
_LOCAL = (".", "/", "~")  # a data set that begins so is a directory; "org/name" is one on the Hub, whatever is here
_SEED = 42  # of a sample, where neither the recipe nor the user says another
_DECISIVE = ("sources", "pieces", "sample", "duplicates")  # fields that decide which texts come out


@dataclass(frozen=True)
class Source:
    """Where documents come from: a data set that `datasets` streams, or files.

    Attributes
    ----------
    text : str
        Field of the text; dots lead into nested fields.
    dataset : str, optional
        Id on the Hub, or a directory: then it begins with ".", "/" or "~".
    files : tuple of str
        JSON Lines, Parquet or plain text, where there is no data set.
    revision : str, optional
        Commit of the data set, 40 hex digits.
    config, split : str
        As for `datasets.load_dataset`.
    subset : str or mapping, optional
        Field of the label, or ``{"label": "de"}`` for one label; None for "all".
    source : tuple of str
        Fields that say where a text comes from, such as a URL: kept beside document and piece, for attribution.
    where : mapping of str to list
        Only documents whose field has one of the values.
    documents : int, optional
        Only the first so many, counted before `where`.
    unit : str
        What a text is in plain text: "paragraph" (up to a blank line), "line" or "file".
    """

    text: str
    dataset: str | None = None
    files: tuple[str, ...] = ()
    revision: str | None = None
    config: str | None = None
    split: str = "train"
    subset: str | Mapping[str, str] | None = None
    source: tuple[str, ...] = ()
    where: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    documents: int | None = None
    unit: str = "paragraph"

    @property
    def name(self) -> str:
        """What messages call it."""
        if self.dataset is None:
            return self.files[0] if len(self.files) == 1 else f"{self.files[0]} and {len(self.files) - 1} more files"
        return f"{self.dataset} ({self.config})" if self.config else self.dataset

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine: then only its owner can make the texts again."""
        return self.dataset is None or self.dataset.startswith(_LOCAL)

    def without_folder(self) -> Source:
        """As a built recipe keeps it: of what is local the names alone, not the path to it."""
        if self.dataset is None:
            return replace(self, files=tuple(Path(file).name for file in self.files))
        if self.is_local:
            return replace(self, dataset=f"./{Path(self.dataset).expanduser().resolve().name}")
        return self


@dataclass(frozen=True)
class Pieces:
    """How documents are cut: consecutive pieces of at most `max_bytes`, those of at least `min_bytes` kept; UTF-8 bytes.

    Oyama et al. 2025 (arXiv 2502.16173, section 4; the text set of its repository): at most 1,024 bytes, moved back to
    the beginning of a character, more than 256 kept.
    """

    max_bytes: int
    min_bytes: int

    def cut(self, data: bytes) -> Iterator[tuple[int, int, int]]:
        """Number, begin and end of the pieces of a document, UTF-8, that are kept.

        Pieces are counted before short ones are left out, so that a number names the same bytes under any `min_bytes`.
        """
        begin, number, size = 0, 0, len(data)
        while size - begin >= self.min_bytes:  # the rest would be too short, whatever the cuts
            end = min(begin + self.max_bytes, size)
            while end < size and data[end] & 0xC0 == 0x80:  # 0b10xxxxxx: inside a character
                end -= 1
            if end - begin >= self.min_bytes:
                yield number, begin, end
            begin, number = end, number + 1


@dataclass(frozen=True)
class Sample:
    """Which of the kept pieces are taken: the first `take` of ``random.Random(seed).sample(range(population), draw)``.

    `population` is the number of kept pieces; None where they must be counted first.
    """

    seed: int
    draw: int
    take: int
    population: int | None = None
    method: str = "python-random"

    def ordinals(self, population: int, *, spare: bool = False) -> list[int]:
        """Which pieces are drawn, as ordinals among the kept ones, in the order of the sample.

        Python's sample chooses positions, whatever lies there: these are the ones that ``random.seed(seed);
        random.sample(pieces, draw)`` picks from a list of all pieces, which need not be held.

        Parameters
        ----------
        population : int
            Kept pieces in all.
        spare : bool
            All that are drawn, not only the first `take`: others take the place of duplicates.

        Raises
        ------
        InputError
            If there are fewer pieces than are drawn.
        """
        if self.draw > population:
            raise InputError(
                f"the sources give {population:,} pieces, and the recipe draws {self.draw:,}: take fewer, or give more texts"
            )
        drawn = random.Random(self.seed).sample(range(population), self.draw)
        return drawn if spare else drawn[: self.take]


@dataclass(frozen=True)
class Expect:
    """What must come out, as far as it is known.

    Attributes
    ----------
    pieces : int, optional
        Kept pieces in all.
    first : tuple of (int, int)
        Document and piece of the first texts; documents are counted over all sources.
    text_set : str, optional
        Id of the text set.
    """

    pieces: int | None = None
    first: tuple[tuple[int, int], ...] = ()
    text_set: str | None = None


@dataclass(frozen=True)
class Recipe:
    """How a text set is made.

    Attributes
    ----------
    name, licence, description : str
        Of the text set.
    sources : tuple of Source
    copy : bool
        Whether its licence lets the texts be published.
    pieces : Pieces, optional
        None for whole documents.
    sample : Sample, optional
        None for everything, in order.
    duplicates : str
        "keep" them, "drop" all but the first, or "refuse".
    expect : Expect
    """

    name: str
    licence: str
    sources: tuple[Source, ...]
    description: str = ""
    copy: bool = False
    pieces: Pieces | None = None
    sample: Sample | None = None
    duplicates: str = "refuse"
    expect: Expect = field(default_factory=Expect)

    @property
    def id(self) -> str:
        """sha256 of what decides the texts: everything but name, description, licence, copy and expect."""
        return hash_json({key: value for key, value in self.to_json().items() if key in _DECISIVE})

    def to_json(self) -> dict[str, Any]:
        """The recipe as JSON; fields of sources and expect that say nothing are left out."""
        fields = json.loads(json.dumps(dataclasses.asdict(self)))  # tuples become lists

        def said(values: dict[str, Any]) -> dict[str, Any]:
            return {key: value for key, value in values.items() if value not in (None, [], {})}

        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **fields,
            "sources": [said(source) for source in fields["sources"]],
            "expect": said(fields["expect"]),
        }

    def to_text(self) -> str:
        """The recipe as it stands in a file."""
        return pretty_json(self.to_json())

    def with_sample(self, take: int | None, seed: int | None) -> Recipe:
        """Another sample of the same pieces: what is expected of these still holds, what of the texts does not.

        A smaller `take` of the same seed is the beginning of the recipe's own sample.
        """
        old = self.sample
        if take is None:
            if old is None:
                raise InputError(f"recipe {self.name} takes every text: say how many to take with --take N")
            take = old.take
        if seed is None:
            seed = old.seed if old else _SEED
        # At least as many are drawn as before: random.sample may begin otherwise where it draws another number.
        new = Sample(seed, max(take, old.draw if old else take), take, old.population if old else None)
        if new == old:
            return self
        suffix = f".{take}" + (f".seed{seed}" if old is None or seed != old.seed else "")
        return replace(self, name=self.name + suffix, sample=new, expect=Expect(self.expect.pieces))

    def renamed(self, name: str | None, duplicates: str | None = None) -> Recipe:
        """Under another name, and with duplicates treated otherwise, where these are given.

        Raises
        ------
        InputError
            If that is no name.
        """
        recipe = self if name is None else replace(self, name=check_name(name))
        if duplicates is None or duplicates == self.duplicates:
            return recipe
        return replace(recipe, duplicates=duplicates, expect=Expect(self.expect.pieces))

    def as_built(self, pieces: int, first: Sequence[tuple[int, int]], text_set: str) -> Recipe:
        """The recipe with what came out: kept pieces in all, (document, piece) of the texts, and the text set's id."""
        return replace(
            self,
            sources=tuple(source.without_folder() for source in self.sources),
            sample=replace(self.sample, population=pieces) if self.sample else None,
            expect=Expect(pieces, tuple(first[:_FIRST]), text_set),
        )


def recipe_for(
    files: Sequence[str],
    *,
    text_field: str = "text",
    subset_field: str = "subset",
    unit: str = "paragraph",
    max_bytes: int | None = None,
    min_bytes: int | None = None,
    licence: str | None = None,
    no_copy: bool = False,
) -> Recipe:
    """A recipe of a user's own files: every text of them in order, whole, none twice.

    Parameters
    ----------
    files : sequence of str
        JSON Lines, Parquet or plain text.
    text_field, subset_field : str
        Fields of the text and its label; a field `source`, if there is one, says where a text comes from.
    unit : str
        What a text is in plain text: "paragraph", "line" or "file".
    max_bytes, min_bytes : int, optional
        Cut texts into pieces, and leave short ones out.
    licence : str, optional
    no_copy : bool
        The texts must not be published.

    Raises
    ------
    InputError
    """
    if min_bytes is not None and max_bytes is None:
        raise InputError("--min-bytes leaves out short pieces: say how long a piece may be, with --max-bytes N")
    if max_bytes is not None and (min_bytes or 1) > max_bytes:
        raise InputError(f"--min-bytes {min_bytes} is more than --max-bytes {max_bytes}: no piece would be kept")
    source = Source(text_field, files=tuple(files), subset=subset_field, source=("source",), unit=unit)
    return Recipe(
        name=valid_name(Path(files[0]).name.partition(".")[0]),
        licence=licence or "unknown",
        sources=(source,),
        copy=not no_copy,
        pieces=None if max_bytes is None else Pieces(max_bytes, min_bytes or 1),
    )


def presets() -> dict[str, Recipe]:
    """The recipes that come with llreg, by name."""
    folder = resources.files("llreg.texts").joinpath("presets")
    files = sorted(e.name for e in folder.iterdir() if e.name.endswith(".json") and not is_hidden(e.name))
    recipes = [read_recipe(folder.joinpath(file).read_bytes(), file) for file in files]
    return {recipe.name: recipe for recipe in recipes}


def load_recipe(which: str | Path) -> Recipe:
    """A preset, by name, or the recipe in a JSON file.

    Raises
    ------
    InputError
        If there is neither.
    InvalidFileError, FormatVersionError
        If the file is no recipe.
    """
    preset = presets().get(str(which))
    if preset is not None:
        return preset
    path = Path(which).expanduser()
    if path.suffix != ".json" or not path.is_file():
        raise InputError(
            f"no recipe {str(which)[:100]!r}: give a .json file, or one of {', '.join(presets())}; for texts of your own: "
            "llreg texts build --from FILE"
        )
    return read_recipe(path.read_bytes(), str(path))


def read_recipe(data: bytes | str, name: str) -> Recipe:
    """A recipe from its JSON text; `name` stands for it in messages.

    Raises
    ------
    InvalidFileError, FormatVersionError
        If it does not fit the schema, a source is neither a data set nor files, or numbers contradict each other.
    """
    document = parse("recipe", data, name)
    # The rest is what the schema cannot say.
    sources = []
    for number, value in enumerate(document["sources"]):
        if bool(value.get("dataset")) == bool(value.get("files")):
            raise InvalidFileError(name, "expected either dataset or files", field=f"sources.{number}")
        fields = {key: item for key, item in value.items() if item is not None}
        fields |= {key: tuple(fields.get(key, ())) for key in ("files", "source")}
        sources.append(Source(**fields))
    pieces = Pieces(**document["pieces"]) if document.get("pieces") else None
    if pieces and pieces.min_bytes > pieces.max_bytes:
        raise InvalidFileError(name, f"expected at most max_bytes, {pieces.max_bytes}", field="pieces.min_bytes")
    sample = Sample(**document["sample"]) if document.get("sample") else None
    if sample and sample.take > sample.draw:
        raise InvalidFileError(name, f"expected at most draw, {sample.draw}", field="sample.take")
    expect = dict(document.get("expect", {}))
    expect["first"] = tuple((int(number), int(piece)) for number, piece in expect.get("first", ()))
    return Recipe(
        name=document["name"],
        licence=document["licence"],
        sources=tuple(sources),
        description=document.get("description", ""),
        copy=document.get("copy", False),
        pieces=pieces,
        sample=sample,
        duplicates=document.get("duplicates", "refuse"),
        expect=Expect(**expect),
    )
