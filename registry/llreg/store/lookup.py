"""Which row a name means."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from llreg_schemas import RowRecord
from llreg_schemas.errors import InputError, NotFoundError


def find_records(records: Sequence[RowRecord], names: Sequence[str]) -> list[RowRecord]:
    """The one record of each name, as in `find_record`; row ids, of which there may be many, are looked up at once."""
    by_id = {record.row_id: record for record in records}
    return [by_id[name] if name in by_id else find_record(records, name) for name in names]


def ambiguous_names(records: Sequence[RowRecord]) -> dict[str, list[str]]:
    """Names whose rows are of different weights, as checkpoint-500 of two training runs, and the ids of these rows.

    Rows that differ in dtype, quantisation or text subset are of one model; so may be a row that was imported without a
    revision, but not two of them that say the same of themselves and have other values.
    """
    rows: dict[str, list[str]] = {}
    weights: dict[str, set[tuple[str | None, ...]]] = {}
    unpinned: set[str] = set()  # identities
    twins: set[str] = set()
    for record in records:
        identity = record.identity
        rows.setdefault(identity.name, []).append(record.row_id)
        if identity.is_pinned:
            weights.setdefault(identity.name, set()).add(identity.weights)
        elif identity.id in unpinned:
            twins.add(identity.name)
        else:
            unpinned.add(identity.id)
    return {name: ids for name, ids in rows.items() if len(weights.get(name, ())) > 1 or name in twins}


def find_record(records: Sequence[RowRecord], name: str) -> RowRecord:
    """The one record that `name` means: a model or adapter name, a row id, or a digest prefix of 6 or more digits.

    Raises
    ------
    NotFoundError
        If there is none; the message names those whose names are nearest.
    InputError
        If there are several; the message lists their ids and what they differ in.
    """
    by_id = [record for record in records if record.row_id == name]
    by_model = [record for record in records if record.identity.name == name]
    by_digest = [record for record in records if len(name) >= 6 and record.digest.startswith(name)]
    matches = by_id or by_model or by_digest
    if len(matches) == 1:
        return matches[0]
    if not matches:
        names = sorted({record.identity.name for record in records})
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "see: llreg ls"
        raise NotFoundError(f"no row of {name} in this registry; {hint}")
    ids = []
    for record in matches:
        identity = record.identity
        subset = f"text subset {identity.subset[:8]}" if identity.subset else None
        parts = (identity.weight_dtype, identity.quantization, identity.file or identity.subfolder, subset)
        ids.append(f"{record.row_id} ({', '.join(part for part in parts if part)})")
    raise InputError(f"{name} has {len(matches)} rows; name one by its id: {', '.join(ids)}")
