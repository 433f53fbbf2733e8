"""Command on benchmark scores: predict."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llreg.cli.common import Context, note, note_view, print_result, print_table
from llreg.cli.options import ViewChoice, in_registry, json_option, quiet_option, view_options
from llreg.geometry.predict.prediction import check_output
from llreg.printable import printable

if TYPE_CHECKING:
    from llreg.geometry.predict.prediction import Prediction
    from llreg.geometry.view.view import View

_MOST_ROWS, _MOST_TASKS = 20, 6  # printed of the rows without a score


@click.command()
@click.argument("scores", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write all rows to .csv, .parquet or .json."
)
@click.option("--task", "tasks", metavar="NAME", multiple=True, help="Only this column of scores; can be repeated.")
@click.option("--family", metavar="COLUMN", help="Column of families (default: family, model_type, type or group).")
@click.option(
    "--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="How many splits into folds to average."
)
@click.option(
    "--level",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.9,
    show_default=True,
    help="Coverage of the intervals.",
)
@click.option("--strict", is_flag=True, help="Fail if a scored model has no row, instead of leaving it out.")
@view_options
@json_option
@quiet_option
@in_registry
def predict(
    context: Context,
    /,
    scores: Path,
    output: Path | None,
    tasks: tuple[str, ...],
    seeds: int,
    view: ViewChoice,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Predict benchmark scores of models from their rows.

    SCORES is a CSV or Parquet file: a column model, and a column of numbers for each benchmark. Ridge regression on the
    rows, as in the paper; PEARSON and SPEARMAN compare given scores with predictions made without the model's whole
    family, mean and standard deviation over --seeds splits. LEAKY leaves out random models instead, so siblings stay in.
    LIKELIHOOD is the correlation with the mean log-likelihood alone. Rows without a score get a prediction with an
    interval. Rows far likelier than their predicted skill explains are flagged: they may have seen the texts.
    """
    if output:  # before minutes of work
        check_output(output)
    registry = context.registry()
    through = view.of(registry)
    prediction = registry.predict(scores, tasks=tasks or None, view=through, seeds=range(seeds), **options)
    if output:
        prediction.write(output)
    # Row id, task and prediction of the rows without a score.
    lines = (
        f"{line['row_id']}\t{printable(line['task'])}\t{line['predicted']!r}"
        for line in prediction.table()
        if not math.isnan(line["predicted"])
    )
    print_result(as_json, quiet, prediction.to_json, lines, lambda: _print(prediction, through, output))
    for text in prediction.notes:
        note(printable(text))


def _print(prediction: Prediction, view: View, output: Path | None) -> None:
    """Three tables: how well each benchmark is predicted, the predictions, and the rows that may have seen the texts."""
    # LEAKY: random models are left out, not families. LIKELIHOOD: from the mean log-likelihood alone, so no spread.
    table = [
        [
            result.task,
            str(result.num_models),
            str(result.num_families),
            _spread(result.grouped.pearson, result.grouped.pearson_sd),
            _spread(result.grouped.spearman, result.grouped.spearman_sd),
            _spread(result.plain.pearson, result.plain.pearson_sd),
            _spread(result.baseline.pearson, math.nan),
        ]
        for result in prediction.tasks
    ]
    header = ["TASK", "MODELS", "FAMILIES", "PEARSON", "SPEARMAN", "LEAKY", "LIKELIHOOD"]
    print_table(header, table, right=(1, 2, 3, 4, 5, 6))
    _print_predictions(prediction, output)
    if prediction.flagged:
        likelihood, excess = prediction.mean_log_likelihood, prediction.excess
        table = [[prediction.labels[k], f"{likelihood[k]:.1f}", f"{excess[k]:.1f}"] for k in prediction.flagged]
        click.echo()
        print_table(["FLAGGED", "MEAN LL", "EXCESS"], table[:_MOST_ROWS], right=(1, 2))
        note("flagged rows are likelier than their predicted skill explains: check whether they have seen the texts")
    note_view(prediction.version, view)


def _spread(mean: float, sd: float) -> str:
    if math.isnan(mean):
        return "-"
    return f"{mean:.3f}" + ("" if math.isnan(sd) else f" ± {sd:.3f}")


def _print_predictions(prediction: Prediction, output: Path | None) -> None:
    """Rows without a score, with intervals; the rest is in the file."""
    unscored = [k for k, row in enumerate(prediction.predicted) if not all(math.isnan(value) for value in row)]
    if not unscored:
        return
    num_tasks = len(prediction.tasks)
    tasks = range(min(num_tasks, _MOST_TASKS))
    click.echo()
    print_table(
        ["PREDICTED", *(prediction.tasks[t].task for t in tasks)],
        [[prediction.labels[k], *(_interval(prediction, k, t) for t in tasks)] for k in unscored[:_MOST_ROWS]],
        right=[t + 1 for t in tasks],
    )
    if len(unscored) > _MOST_ROWS or num_tasks > _MOST_TASKS:
        rest = f"all are in {output}" if output else "write all with -o FILE"
        note(
            f"shown: {min(len(unscored), _MOST_ROWS)} of {len(unscored):,} rows without a score and {len(tasks)} of "
            f"{num_tasks} tasks; {rest}"
        )


def _interval(prediction: Prediction, k: int, t: int) -> str:
    """Cell of row k and task t."""
    if math.isnan(prediction.predicted[k, t]):
        return "scored" if not math.isnan(prediction.scores[k, t]) else "-"
    value, low, high = (float(array[k, t]) for array in (prediction.predicted, prediction.low, prediction.high))
    if math.isnan(low):
        return f"{value:.4g}"
    # Two digits of the interval's width are what there is to know.
    decimals = 1 - math.floor(math.log10(high - low)) if high > low else 4
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(value, low, high, d=min(max(decimals, 0), 9))
