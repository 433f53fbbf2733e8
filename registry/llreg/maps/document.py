"""The map document, ``map.json``: coordinates and everything needed to make them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.atomic import write_output
from llreg.geometry.view.view import View
from llreg_schemas import hash_json, parse, pretty_json
from llreg_schemas.errors import InputError, InvalidFileError
from llreg_schemas.records import FORMAT_VERSION

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.store.contents import Contents

MAP_FORMAT = "llreg-map"


@dataclass(frozen=True, eq=False)
class Map:
    """Coordinates of rows in the plane.

    Attributes
    ----------
    registry : str
    text_set, protocol, version : str
        Ids of what the rows were measured on and how, and of the rows that the registry held.
    view : View
    method : str
    settings : mapping
        What the method was told: perplexity, iterations, seed.
    software : mapping of str to str
        Versions of the libraries that made it.
    axes : pair of str
        Axis labels; empty where an axis has no meaning of its own.
    row_ids, digests : sequence of str
    xy : float64 array of shape (n_models, 2)
    placed : bool array of shape (n_models,)
        Rows that were placed into the map, and are not part of making it.
    ellipses : float64 array of shape (n_models, 3) or None
        Covariance (xx, xy, yy) of each point over resamples of the texts.
    resamples : int
        How many.
    aligned_to, onto : str or None
        Id of the map that this one was turned to, or that rows were placed into.
    """

    registry: str
    text_set: str
    protocol: str
    version: str
    view: View
    method: str
    settings: Mapping[str, Any]
    software: Mapping[str, str]
    axes: tuple[str, str]
    row_ids: Sequence[str]
    digests: Sequence[str]
    xy: NDArray[np.float64]
    placed: NDArray[np.bool_]
    ellipses: NDArray[np.float64] | None = None
    resamples: int = 0
    aligned_to: str | None = None
    onto: str | None = None

    @property
    def id(self) -> str:
        """sha256 of the document."""
        return str(self.to_json()["id"])

    def to_json(self) -> dict[str, Any]:
        """The document that ``map.schema.json`` describes; floats keep all their digits."""
        models: list[dict[str, Any]] = [
            {"row_id": row_id, "digest": digest, "x": x, "y": y, "placed": placed}
            for row_id, digest, (x, y), placed in zip(
                self.row_ids, self.digests, self.xy.tolist(), self.placed.tolist(), strict=True
            )
        ]
        if self.ellipses is not None:
            for model, ellipse in zip(models, self.ellipses.tolist(), strict=True):
                model["ellipse"] = ellipse
        document: dict[str, Any] = {
            "format": MAP_FORMAT,
            "format_version": FORMAT_VERSION,
            "registry": self.registry,
            "text_set": self.text_set,
            "protocol": self.protocol,
            "version": self.version,
            "view": self.view.to_json(),
            "method": self.method,
            "settings": dict(self.settings),
            "software": dict(self.software),
            "axes": list(self.axes),
            "models": models,
        }
        optional = {"resamples": self.resamples, "aligned_to": self.aligned_to, "onto": self.onto}
        document |= {name: value for name, value in optional.items() if value}
        return {**document, "id": hash_json(document)}

    def write(self, path: Path | str) -> None:
        """Write the document; the same map gives the same bytes.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        write_output(Path(path), pretty_json(self.to_json()).encode("utf-8"))

    def check_registry(self, registry: Contents) -> None:
        """Refuse a registry whose rows do not compare with this map's.

        Raises
        ------
        InputError
            If it has another text set or protocol.
        """
        for title, map_id, registry_id in (
            ("text set", self.text_set, registry.info.text_set.id),
            ("protocol", self.protocol, registry.info.protocol_id),
        ):
            if registry_id != map_id:
                raise InputError(
                    f"the map is of {self.registry} with {title} {map_id[:12]}; {registry.name} has {title} "
                    f"{registry_id[:12]}, and their rows do not compare"
                )


def read_map(source: Map | Path | str) -> Map:
    """A map from its file.

    Parameters
    ----------
    source : Map, Path or str
        A map is returned as it is.

    Raises
    ------
    InputError
        If there is no such file.
    InvalidFileError, FormatVersionError
        If it is not a map document, or was edited by hand.
    """
    if isinstance(source, Map):
        return source
    try:
        data = Path(source).read_bytes()
    except OSError as error:
        raise InputError(
            f"{source}: expected a map; make one with llreg map -o {source} ({error.strerror or error})"
        ) from error
    document = parse("map", data, str(source))
    _check_ids(document, str(source))
    models = document["models"]
    ellipses = [model["ellipse"] for model in models if "ellipse" in model]
    return Map(
        **{name: document[name] for name in ("registry", "text_set", "protocol", "version")},
        view=View.from_json(document["view"]),
        **{name: document[name] for name in ("method", "settings", "software")},
        axes=(document["axes"][0], document["axes"][1]),
        row_ids=[model["row_id"] for model in models],
        digests=[model["digest"] for model in models],
        xy=np.array([[model["x"], model["y"]] for model in models], dtype=np.float64),
        placed=np.array([model["placed"] for model in models], dtype=bool),
        ellipses=np.array(ellipses, dtype=np.float64) if ellipses else None,
        resamples=document.get("resamples", 0),
        aligned_to=document.get("aligned_to"),
        onto=document.get("onto"),
    )


def _check_ids(document: Mapping[str, Any], file: str) -> None:
    rest = {name: value for name, value in document.items() if name != "id"}
    if hash_json(rest) != document["id"]:
        raise InvalidFileError(file, "expected the hash of the map; it was edited by hand: make it again", field="id")
    if View.from_json(document["view"]).id != document["view"]["id"]:
        raise InvalidFileError(file, "expected the hash of the view's rules", field="view.id")
    models = document["models"]
    if len({model["digest"] for model in models}) != len(models):
        raise InvalidFileError(file, "expected every row once", field="models")
    if len({"ellipse" in model for model in models}) > 1:
        raise InvalidFileError(file, "expected an ellipse for every row, or for none", field="models")
    for k, model in enumerate(models):
        if not model["row_id"].endswith("@" + model["digest"][:8]):
            raise InvalidFileError(file, "expected the first digits of the digest in it", field=f"models.{k}.row_id")
