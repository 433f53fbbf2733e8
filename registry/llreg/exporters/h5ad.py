"""Export as ``.h5ad``: models as observations and texts as variables, for AnnData and Scanpy."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llreg.atomic import write_output
from llreg.exporters.columns import keys
from llreg.store.arrays import dtype_of
from llreg_schemas import canonical_json

if TYPE_CHECKING:
    from llreg.exporters.selection import Selection


def write_h5ad(selection: Selection, path: Path, *, progress: Callable[[int, int], None] | None = None) -> None:
    """Write rows as AnnData; all of them, and the file, are held in memory.

    Parameters
    ----------
    selection : Selection
    path : Path
    progress : callable, optional
        Called with (done, rows).

    Raises
    ------
    ImportError
        If anndata is not installed; `Registry.export` says so before.
    StorageError
        If it cannot be written.

    Notes
    -----
    ``X`` float32 (n_models, n_texts), nats, NaN where not scored; layer ``num_tokens`` (of raw rows of pairs also
    ``log_likelihood_response`` and ``num_tokens_response``); ``obs`` metadata and annotations by row id; ``var`` the
    texts as ``t`` and their index in the text set; ``uns["llreg"]`` version, text_set, protocol, view (ids), values
    ("raw" or "view") and, as JSON, the documents of view and protocol.
    """
    import pandas as pd

    anndata = import_module("anndata")  # not typed

    shape = len(selection), len(selection.texts)
    values, tokens = np.empty(shape, np.float32), np.empty(shape, np.int32)
    layers = {"num_tokens": tokens} | {name: np.empty(shape, dtype_of(name)) for name in selection.further}
    for block in selection.blocks(progress=progress):
        values[block], tokens[block] = selection.values(block), selection.tokens(block)
        for name in selection.further:
            layers[name][block] = selection.read(name, block)
    columns = selection.columns[1:]  # the first is the index
    names = keys([column.name for column in columns], ["_index"])
    obs = pd.DataFrame(
        {name: column.array() for name, column in zip(names, columns, strict=True)}, index=selection.row_ids
    )
    var = pd.DataFrame(dict(selection.text_columns), index=[f"t{text}" for text in selection.texts])
    documents = {**selection.facts, "protocol_document": selection.registry.info["protocol"]}
    facts = {name: value if isinstance(value, str) else canonical_json(value) for name, value in documents.items()}
    data = anndata.AnnData(X=values, obs=obs, var=var, layers=layers, uns={"llreg": facts})
    data.strings_to_categoricals()
    # The file is made in memory: the HDF5 library crashes after a full disk has refused it.
    h5py, io = import_module("h5py"), import_module("anndata.io")
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        io.write_elem(file, "/", data, dataset_kwargs={"compression": "gzip"})
        file.flush()
        image = bytes(file.id.get_file_image())
    write_output(path, image)
