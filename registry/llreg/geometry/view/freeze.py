"""Views measured on the rows of a registry, and its default view."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from llreg import atomic
from llreg.geometry.kl.rows import full_rows
from llreg.geometry.view.view import Vector, View, clip_at, tail_texts
from llreg.store.layout import CONFIG
from llreg_schemas import check, pretty_json
from llreg_schemas.errors import InputError
from llreg_schemas.records import RegistryInfo

if TYPE_CHECKING:
    from llreg.store.contents import Contents


def measured_view(
    registry: Contents, view: View, *, clip_quantile: float | None = None, drop_tail: float | None = None
) -> View:
    """A view whose threshold and dropped texts are taken from the registry's rows that were scored on all texts.

    Parameters
    ----------
    registry : Contents
    view : View
        Where it starts from; its texts are those that are looked at.
    clip_quantile : float, optional
        Clip at this quantile over all rows and the view's texts; see `llreg.geometry.view.view.clip_at`. Of PMI vectors it
        is that of both log-likelihoods together.
    drop_tail : float, optional
        Share of the view's texts to leave out, after clipping; see `llreg.geometry.view.view.tail_texts`.

    Raises
    ------
    InputError
        If there are no rows, or too few texts would be left.
    """
    of_texts = replace(view, estimator="text")  # threshold and tail are of whole texts
    if clip_quantile is not None:  # measured first: the tail is that of clipped values
        vectors: tuple[Vector, ...] = ("conditional", "response") if view.vector == "pmi" else (view.vector,)
        raw = [full_rows(registry, replace(of_texts, clip=None, vector=vector)).values.ravel() for vector in vectors]
        view = replace(view, clip=clip_at(np.concatenate(raw), clip_quantile))
    if drop_tail:
        rows = full_rows(registry, replace(of_texts, clip=view.clip))
        if not len(rows):
            raise InputError("the tail is measured on rows; add some first: llreg add MODEL")
        if np.isnan(rows.values).all():
            raise InputError(f"no row has any of the view's texts ({view.describe()}); choose others")
        dropped = rows.texts[tail_texts(rows.values, drop_tail)]
        view = replace(view, drop=tuple(sorted({*view.drop, *(int(text) for text in dropped)})))
    view.texts(registry.text_index)  # refuses a view that keeps too few
    return view


def freeze_view(registry: Contents, view: View) -> None:
    """Make a view the registry's default, in registry.json.

    Raises
    ------
    InputError
        If the registry is open at a named version.
    StorageError
        If registry.json cannot be written.
    """
    registry.check_changeable("change its view")
    view.texts(registry.text_index)  # refuses what does not fit the text set
    view.text_weights(registry.text_index)
    info = RegistryInfo({**registry.info, "view": view.to_json()})
    check("registry", info, CONFIG)
    atomic.write_atomic(registry.path, registry.path / CONFIG, pretty_json(info).encode())
    registry.info = info
