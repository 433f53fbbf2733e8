"""The family tree of a zoo of models: what is true of every pair of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

COPIES = ("duplicate", "cast", "quantized")  # the same model, at most in other digits
DERIVED = ("finetune", "merge")
KINDS = ("copy", "cast", "int8", "int4", "light fine-tune", "full fine-tune", "merge", "checkpoint")
FURTHER = "further relative"  # siblings, grandparents, copies of a parent


@dataclass(frozen=True)
class Zoo:
    """Models whose parents are known.

    Attributes
    ----------
    entries : mapping of str to mapping
        lineage.json of the zoo: a model's kind, its parents, its architecture and tokenizer.
    """

    entries: Mapping[str, Mapping[str, Any]]

    @classmethod
    def load(cls, directory: Path) -> Zoo:
        """The zoo of a directory with a lineage.json."""
        return cls(json.loads((directory / "lineage.json").read_text(encoding="utf-8")))

    @property
    def names(self) -> list[str]:
        """Model names, sorted."""
        return sorted(self.entries)

    def of_kind(self, *kinds: str) -> list[str]:
        """Names of the models of some kinds."""
        return [name for name in self.names if self.entries[name]["kind"] in kinds]

    def parents(self, name: str) -> set[str]:
        """Models that it was made of; also such as are not in the zoo."""
        return set(self.entries[name]["parents"]) if name in self.entries else set()

    def original(self, name: str) -> str:
        """The model that a copy is one of; any other model is its own original."""
        entry = self.entries.get(name, {})
        return str(entry["parents"][0]) if entry.get("kind") in COPIES else name

    @cached_property
    def family(self) -> dict[str, str]:
        """Name of the oldest known ancestor of each model: models share one if they are related."""
        return {name: self._oldest(name) for name in self.names}

    def _oldest(self, name: str) -> str:
        parents = sorted(self.parents(name))
        return self._oldest(parents[0]) if parents else name

    def related(self, one: str, other: str) -> bool:
        """Whether two models share an ancestor."""
        return self.family[one] == self.family[other]

    def alike(self, one: str, other: str, field: str) -> bool:
        """Whether two models have the same architecture ("arch") or tokenizer."""
        return bool(self.entries[one][field] == self.entries[other][field])

    def is_parent(self, of: str, other: str) -> bool:
        """Whether the other model is a parent, or a copy of one."""
        return self.original(other) in self._originals(of)

    def is_made_from(self, name: str, of: str) -> bool:
        """Whether the model is a descendant of another one."""
        return any(parent == of or self.is_made_from(parent, of) for parent in self.parents(name))

    def is_sibling(self, of: str, other: str) -> bool:
        """Whether the two share a parent, copies counted as what they are copies of; no copies of each other."""
        if self.original(of) == self.original(other):
            return False
        return bool(self._originals(of) & self._originals(self.original(other)))

    def _originals(self, of: str) -> set[str]:
        return {self.original(parent) for parent in self.parents(of)}

    def relation(self, one: str, other: str) -> str:
        """Which of `KINDS` connects parent and child; `FURTHER` for other relatives; "" for unrelated models."""
        for child, parent in ((one, other), (other, one)):
            if parent in self.parents(child):
                return self._kind(child)
        return FURTHER if self.related(one, other) else ""

    def _kind(self, child: str) -> str:
        entry = self.entries[child]
        if entry["kind"] == "quantized":
            return f"int{entry['bits']}"
        if entry["kind"] == "finetune":
            return f"{entry.get('strength', 'full')} fine-tune"
        return {"duplicate": "copy", "base": "checkpoint"}.get(str(entry["kind"]), str(entry["kind"]))
