"""A recipe: the document that says how a text set is made, and the recipes that come with llreg."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from llreg.texts.textset import is_name, valid_name
from llreg_schemas import hash_json, parse, pretty_json
from llreg_schemas.errors import InputError, InvalidFileError
from llreg_schemas.records import FORMAT_VERSION

FORMAT = "llreg-recipe"
_FIRST = 15  # (document, piece) pairs that a built recipe keeps, to see at once where another build went astray
_LOCAL = (".", "/", "~")  # a data set that begins so is a directory; "org/name" is one on the Hub, whatever is here


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


@dataclass(frozen=True)
class Pieces:
    """How documents are cut: consecutive pieces of at most `max_bytes`, those of at least `min_bytes` kept; UTF-8 bytes."""

    max_bytes: int
    min_bytes: int


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
        kept = ("sources", "pieces", "sample", "duplicates")
        return hash_json({key: value for key, value in self.to_json().items() if key in kept})

    def to_json(self) -> dict[str, Any]:
        """The recipe as JSON; fields that say nothing are left out."""
        document = {"format": FORMAT, "format_version": FORMAT_VERSION, **_plain(dataclasses.asdict(self))}
        document["sources"] = [_without_empty(source) for source in document["sources"]]
        document["expect"] = _without_empty(document["expect"])
        return document

    def to_text(self) -> str:
        """The recipe as it stands in a file."""
        return pretty_json(self.to_json())

    def with_sample(self, take: int | None, seed: int | None) -> Recipe:
        """Another sample of the same pieces: what is expected of these still holds, what of the texts does not.

        A smaller `take` of the same seed is the beginning of the recipe's own sample.
        """
        old = self.sample
        number = take if take is not None else old.take if old else None
        if number is None:
            raise InputError(f"recipe {self.name} takes every text: say how many to take with --take N")
        seed_given = seed if seed is not None else old.seed if old else 42
        new = Sample(seed_given, max(number, old.draw if old else number), number, old.population if old else None)
        if new == old:
            return self
        suffix = f".{new.take}" + (f".seed{new.seed}" if old is None or new.seed != old.seed else "")
        return replace(self, name=self.name + suffix, sample=new, expect=Expect(self.expect.pieces))

    def renamed(self, name: str | None, duplicates: str | None = None) -> Recipe:
        """Under another name, and with duplicates treated otherwise, where these are given.

        Raises
        ------
        InputError
            If that is no name.
        """
        changed = self
        if duplicates is not None and duplicates != self.duplicates:
            changed = replace(self, duplicates=duplicates, expect=Expect(self.expect.pieces))
        if name is None:
            return changed
        if not is_name(name):
            raise InputError(
                f"name {name[:60]!r}: use letters, digits, '.', '_' and '-', for example {valid_name(name)}"
            )
        return replace(changed, name=name)


def from_json(document: Mapping[str, Any], shown: str) -> Recipe:
    """A recipe from a document that fits the schema.

    Raises
    ------
    InvalidFileError
        If a source is neither a data set nor files, or numbers contradict each other.
    """
    sources = tuple(_source(value, f"sources.{k}", shown) for k, value in enumerate(document["sources"]))
    pieces = Pieces(**document["pieces"]) if document.get("pieces") else None
    sample = Sample(**document["sample"]) if document.get("sample") else None
    if pieces and pieces.min_bytes > pieces.max_bytes:
        raise InvalidFileError(shown, f"expected at most max_bytes, {pieces.max_bytes}", field="pieces.min_bytes")
    if sample and sample.take > sample.draw:
        raise InvalidFileError(shown, f"expected at most draw, {sample.draw}", field="sample.take")
    expect = dict(document.get("expect", {}))
    expect["first"] = tuple((int(pair[0]), int(pair[1])) for pair in expect.get("first", ()))
    return Recipe(
        name=document["name"],
        licence=document["licence"],
        sources=sources,
        description=document.get("description", ""),
        copy=document.get("copy", False),
        pieces=pieces,
        sample=sample,
        duplicates=document.get("duplicates", "refuse"),
        expect=Expect(**expect),
    )


def _source(value: Mapping[str, Any], place: str, shown: str) -> Source:
    if bool(value.get("dataset")) == bool(value.get("files")):
        raise InvalidFileError(shown, "expected either dataset or files", field=place)
    fields = {key: item for key, item in value.items() if item is not None}
    return Source(**{**fields, "files": tuple(fields.get("files", ())), "source": tuple(fields.get("source", ()))})


def built(recipe: Recipe, pieces: int, first: Sequence[tuple[int, int]], text_set: str) -> Recipe:
    """The recipe as it was built: with what came out, and of local sources the names alone, not where they lay."""
    sources = tuple(replace(source, **_name_only(source)) for source in recipe.sources)
    sample = replace(recipe.sample, population=pieces) if recipe.sample else None
    return replace(recipe, sources=sources, sample=sample, expect=Expect(pieces, tuple(first[:_FIRST]), text_set))


def _name_only(source: Source) -> dict[str, Any]:
    if source.dataset is None:
        return {"files": tuple(Path(file).name for file in source.files)}
    return {"dataset": f"./{Path(source.dataset).expanduser().resolve().name}"} if source.is_local else {}


def presets() -> dict[str, Recipe]:
    """The recipes that come with llreg, by name."""
    folder = resources.files("llreg.texts").joinpath("presets")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".json"))
    read = [read_recipe(folder.joinpath(name).read_bytes(), name) for name in names]
    return {recipe.name: recipe for recipe in read}


def load_recipe(which: str | Path) -> Recipe:
    """A preset, by name, or the recipe in a JSON file.

    Raises
    ------
    InputError
        If there is neither.
    InvalidFileError, FormatVersionError
        If the file is no recipe.
    """
    known = presets()
    if str(which) in known:
        return known[str(which)]
    path = Path(which).expanduser()
    if path.suffix != ".json" or not path.is_file():
        raise InputError(
            f"no recipe {str(which)[:100]!r}: give a .json file, or one of {', '.join(known)}; for texts of your own: "
            "llreg texts build --from FILE"
        )
    return read_recipe(path.read_bytes(), str(path))


def read_recipe(data: bytes | str, shown: str) -> Recipe:
    """A recipe from its JSON text; `shown` names it in messages.

    Raises
    ------
    InvalidFileError, FormatVersionError
    """
    return from_json(parse("recipe", data, shown), shown)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _without_empty(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if item is not None and item != [] and item != {}}
