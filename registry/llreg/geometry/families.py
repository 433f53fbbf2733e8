"""Families of models, as declared or from a file: what cross-validation must not split, and what is no unrelated pair."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from llreg_schemas import RowRecord
from llreg_schemas.errors import InputError

# "7b", "1_6b", "8x7b", "410m": from there on a name tells the size and what was done to it.
_SIZE = re.compile(r"(\d+x)?\d+([._]\d+)?[kmbt]|nano|micro|tiny|mini|small|base|medium|large|x+l")


def read_families(path: Path) -> dict[str, str]:
    """Families that are known, from a CSV file with columns model and family: what `Registry.lineage` takes.

    Returns
    -------
    dict of str to str
        Family by model name; without those whose family is empty.

    Raises
    ------
    InputError
        If it is no CSV in UTF-8 with these columns.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: expected CSV in UTF-8 with columns model and family") from error
    if not lines or not {"model", "family"} <= set(lines[0]):
        raise InputError(f"{path}: expected CSV with columns model and family")
    return {line["model"]: line["family"] for line in lines if line["family"]}


def families_of(records: Sequence[RowRecord]) -> list[str]:
    """Family of each row.

    Parameters
    ----------
    records : sequence of RowRecord
        Rows whose bases are looked for among each other.

    Returns
    -------
    list of str
        One label a row.

    Notes
    -----
    A row's declared base, the base of that if it has a row here, and so on to the end: the stem of the last name is
    the family, as "pythia" of EleutherAI/pythia-410m. A row that declares no base has the family of its own stem if
    another row's chain ends in it, else the architecture class, which siblings share that say nothing either; else
    its stem. Of several declared bases, as of a merge, the first counts. Cards are incomplete, so siblings can still
    be told apart (and land on both sides of a fold): give families of your own where you know them.
    """
    bases = {record.identity.name: base for record in records if (base := _base(record))}
    stems = [stem(_chain_end(record.identity.name, bases)) for record in records]
    declared = {family for family, record in zip(stems, records, strict=True) if _base(record)}
    return [
        family if family in declared else str(record.architecture or family)
        for family, record in zip(stems, records, strict=True)
    ]


def stem(name: str) -> str:
    """A model name without organisation, size, and all that follows the size; lower case."""
    parts = name.rstrip("/").rsplit("/", 1)[-1].lower().split("-")
    sizes = [k for k, part in enumerate(parts) if k and _SIZE.fullmatch(part)]
    return "-".join(parts[: sizes[0]] if sizes else parts)


def related_groups(records: Sequence[RowRecord], families: Mapping[str, str]) -> list[int]:
    """A number a row; rows have the same where something connects them: one model, base and derived, one given family.

    Returns
    -------
    list of int
        Of length n_models.
    """
    parent: dict[str, str] = {}  # a union-find forest over names of models and families

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = name = parent[parent[name]]
        return name

    for record in records:
        for base in record.base_models:
            parent[root(record.identity.name)] = root(str(base))
        if record.identity.name in families:
            parent[root(record.identity.name)] = root(f"family\n{families[record.identity.name]}")  # no model's name
    numbers: dict[str, int] = {}
    return [numbers.setdefault(root(record.identity.name), len(numbers)) for record in records]


def _base(record: RowRecord) -> str | None:
    """The first declared base that is not the model itself."""
    for base in record.base_models:
        if base != record.identity.name:
            return str(base)
    return None


def _chain_end(name: str, bases: Mapping[str, str]) -> str:
    """The end of the chain of bases; of a circle, its first name in the alphabet."""
    chain = [name]
    while (base := bases.get(chain[-1])) is not None:
        if base in chain:  # declared in a circle: any of it would do, as long as all its models get the same
            return min(chain[chain.index(base) :])
        chain.append(base)
    return chain[-1]
