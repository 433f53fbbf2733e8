"""What a prediction of benchmark scores found: agreement, predictions with intervals, and its files."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg import atomic
from llreg.atomic import output_file, write_output
from llreg.geometry.predict.leak import EXCESS_LIMIT
from llreg.printable import harmless
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ENDINGS = (".csv", ".parquet", ".json")
# Columns of `Prediction.table`, and their kinds in Parquet.
_COLUMNS = {
    **dict.fromkeys(("row_id", "model", "family", "task"), "string"),
    **dict.fromkeys(("score", "out_of_fold", "predicted", "low", "high", "mean_log_likelihood", "excess"), "double"),
    "flagged": "bool",
}


@dataclass(frozen=True)
class Agreement:
    """Correlations of predicted and given scores: mean and standard deviation over the seeds' folds.

    NaN where there is no correlation; standard deviations have divisor n - 1.
    """

    pearson: float
    pearson_sd: float
    spearman: float
    spearman_sd: float


@dataclass(frozen=True)
class TaskResult:
    """How well the scores of one benchmark are predicted.

    Attributes
    ----------
    task : str
    num_models, num_families : int
        With a score.
    grouped : Agreement
        Whole families left out; NaN with one family only.
    plain : Agreement
        Models left out at random, so that siblings stay in: what leaks.
    baseline : Agreement
        The mean log-likelihood in place of a prediction; nothing is fitted, so it has no spread.
    alpha : float
        Penalty of the fit to all models.
    half_width : float
        Half the width of the intervals, in units of the score.
    """

    task: str
    num_models: int
    num_families: int
    grouped: Agreement
    plain: Agreement
    baseline: Agreement
    alpha: float
    half_width: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """Predicted benchmark scores.

    Attributes
    ----------
    row_ids, models, labels, families : list of str
        One a row; labels are model names where those are unique.
    tasks : list of TaskResult
    scores : float64 array of shape (n_models, n_tasks)
        As given; NaN where there is none.
    out_of_fold : float64 array of shape (n_models, n_tasks)
        For rows with a score: its prediction without the row's family, mean over seeds.
    predicted, low, high : float64 arrays of shape (n_models, n_tasks)
        For rows without a score: the prediction and its interval.
    mean_log_likelihood : float64 array of shape (n_models,), nats per text
    excess : float64 array of shape (n_models,)
        How far the mean log-likelihood is above what the predicted skill suggests, in robust standard deviations.
    level : float
        Of the intervals.
    registry, version, view : str
        Where the rows are from; version and view are hashes.
    notes : list of str
        What a reader must know.
    """

    row_ids: list[str]
    models: list[str]
    labels: list[str]
    families: list[str]
    tasks: list[TaskResult]
    scores: NDArray[np.float64]
    out_of_fold: NDArray[np.float64]
    predicted: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    mean_log_likelihood: NDArray[np.float64]
    excess: NDArray[np.float64]
    level: float
    registry: str
    version: str
    view: str
    notes: list[str]

    @property
    def flagged(self) -> list[int]:
        """Positions of the rows that are likelier than their predicted skill explains, most so first."""
        order = np.argsort(-np.nan_to_num(self.excess, nan=-math.inf), kind="stable")
        return [int(k) for k in order if self.excess[k] > EXCESS_LIMIT]

    def table(self) -> list[dict[str, Any]]:
        """A line for each row and task.

        Returns
        -------
        list of dict
            Keys row_id, model, family, task, score, out_of_fold, predicted, low, high, mean_log_likelihood, excess,
            flagged. NaN where there is no value.
        """
        flagged = set(self.flagged)
        return [
            {
                "row_id": row_id,
                "model": self.models[k],
                "family": self.families[k],
                "task": result.task,
                "score": float(self.scores[k, t]),
                "out_of_fold": float(self.out_of_fold[k, t]),
                "predicted": float(self.predicted[k, t]),
                "low": float(self.low[k, t]),
                "high": float(self.high[k, t]),
                "mean_log_likelihood": float(self.mean_log_likelihood[k]),
                "excess": float(self.excess[k]),
                "flagged": k in flagged,
            }
            for k, row_id in enumerate(self.row_ids)
            for t, result in enumerate(self.tasks)
        ]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values; numbers may be NaN."""
        return {
            "registry": self.registry,
            "version": self.version,
            "view": self.view,
            "level": self.level,
            "tasks": [asdict(result) for result in self.tasks],
            "rows": self.table(),
            "notes": self.notes,
        }

    def write(self, path: Path | str) -> None:
        """Write the table as .csv or .parquet, or everything as .json.

        In CSV a text that a spreadsheet would take for a formula gets an apostrophe.

        Raises
        ------
        InputError
            If the ending is another, or there is no such directory.
        StorageError
            If the file cannot be written.
        """
        path = Path(path)
        check_output(path)
        ending = path.suffix.lower()
        if ending == ".json":
            # NaN is no JSON: missing numbers are null.
            text = json.dumps(_without_nan(self.to_json()), indent=2, ensure_ascii=False, allow_nan=False)
            write_output(path, (text + "\n").encode())
        elif ending == ".csv":
            text_file = io.StringIO()
            writer = csv.DictWriter(text_file, list(_COLUMNS), lineterminator="\n")
            writer.writeheader()
            for line in _without_nan(self.table()):  # a missing number is an empty cell; repr keeps all digits
                writer.writerow(
                    {name: harmless(cell) if isinstance(cell, str) else cell for name, cell in line.items()}
                )
            write_output(path, text_file.getvalue().encode())
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in _COLUMNS.items()])
            with output_file(path) as temp:
                pq.write_table(pa.Table.from_pylist(_without_nan(self.table()), schema=schema), temp)


def check_output(path: Path) -> None:
    """Refuse a file that cannot be written before anything is computed.

    Raises
    ------
    InputError
        If its ending is none of ours, or its directory is not there.
    """
    if path.suffix.lower() not in _ENDINGS:
        raise InputError(f"{path}: expected a file name that ends in {', '.join(_ENDINGS[:-1])} or {_ENDINGS[-1]}")
    atomic.check_output(path)


def _without_nan(value: Any) -> Any:
    """Plain values with None in place of NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
