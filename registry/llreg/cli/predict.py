"""Command on benchmark scores: predict."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llreg.cli.common import Context, note, note_view, print_json, print_table
from llreg.cli.options import ViewChoice, in_registry, json_option, quiet_option, view_options
from llreg.printable import printable

if TYPE_CHECKING:
    from llreg.geometry.predict.prediction import Prediction

_SHOWN_ROWS, _SHOWN_TASKS = 20, 6


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
    family: str | None,
    seeds: int,
    level: float,
    strict: bool,
    view: ViewChoice,
    as_json: bool,
    quiet: bool,
) -> None:
    """Predict benchmark scores of models from their rows.

    SCORES is a CSV or Parquet file: a column model, and a column of numbers for each benchmark. Ridge regression on the
    rows, as in the paper; PEARSON and SPEARMAN compare given scores with predictions made without the model's whole
    family, mean and standard deviation over --seeds splits. LEAKY leaves out random models instead, so siblings stay in.
    LIKELIHOOD is the correlation with the mean log-likelihood alone. Rows without a score get a prediction with an
    interval. Rows far likelier than their predicted skill explains are flagged: they may have seen the texts.
    """
    from llreg.geometry.predict.prediction import check_output

    if output:
        check_output(output)
    registry = context.registry()
    seen = view.of(registry)
    found = registry.predict(
        scores, tasks=tasks or None, family=family, view=seen, seeds=range(seeds), level=level, strict=strict
    )
    if output:
        found.write(output)
    if as_json:
        print_json(found.to_json())
    elif quiet:
        click.echo("".join(_quiet_lines(found)), nl=False)
    else:
        _print(found, output)
        note_view(found.version, seen)
    for text in found.notes:
        note(printable(text))


def _quiet_lines(found: Prediction) -> list[str]:
    """Row id, task and prediction of the rows without a score."""
    return [
        f"{printable(line['row_id'])}\t{printable(line['task'])}\t{line['predicted']!r}\n"
        for line in found.table()
        if not math.isnan(line["predicted"])
    ]


def _print(found: Prediction, output: Path | None) -> None:
    print_table(
        ["TASK", "MODELS", "FAMILIES", "PEARSON", "SPEARMAN", "LEAKY", "LIKELIHOOD"],
        [
            [
                result.task,
                str(result.num_models),
                str(result.num_families),
                _spread(result.grouped.pearson, result.grouped.pearson_sd),
                _spread(result.grouped.spearman, result.grouped.spearman_sd),
                _spread(result.plain.pearson, result.plain.pearson_sd),
                _spread(result.baseline.pearson, math.nan),
            ]
            for result in found.tasks
        ],
        right=(1, 2, 3, 4, 5, 6),
    )
    _print_predictions(found, output)
    flagged = found.flagged
    if flagged:
        click.echo()
        shown = [[found.labels[k], f"{found.mean_log_likelihood[k]:.1f}", f"{found.excess[k]:.1f}"] for k in flagged]
        print_table(["FLAGGED", "MEAN LL", "EXCESS"], shown[:_SHOWN_ROWS], right=(1, 2))
        note("flagged rows are likelier than their predicted skill explains: check whether they have seen the texts")


def _print_predictions(found: Prediction, output: Path | None) -> None:
    """Rows without a score, with intervals; the rest is in the file."""
    unscored = [k for k, row in enumerate(found.predicted) if not all(math.isnan(value) for value in row)]
    if not unscored:
        return
    shown = range(min(len(found.tasks), _SHOWN_TASKS))
    click.echo()
    print_table(
        ["PREDICTED", *(found.tasks[t].task for t in shown)],
        [[found.labels[k], *(_interval(found, k, t) for t in shown)] for k in unscored[:_SHOWN_ROWS]],
        right=[t + 1 for t in shown],
    )
    if len(unscored) > _SHOWN_ROWS or len(found.tasks) > _SHOWN_TASKS:
        where = f"all are in {output}" if output else "write all with -o FILE"
        note(
            f"shown: {min(len(unscored), _SHOWN_ROWS)} of {len(unscored):,} rows without a score and {len(shown)} of "
            f"{len(found.tasks)} tasks; {where}"
        )


def _interval(found: Prediction, k: int, t: int) -> str:
    if math.isnan(found.predicted[k, t]):
        return "scored" if not math.isnan(found.scores[k, t]) else "-"
    value, low, high = (float(array[k, t]) for array in (found.predicted, found.low, found.high))
    if math.isnan(low):
        return f"{value:.4g}"
    # Two digits of the interval's width are what there is to know.
    decimals = 1 - math.floor(math.log10(high - low)) if high > low else 4
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(value, low, high, d=min(max(decimals, 0), 9))


def _spread(mean: float, sd: float) -> str:
    if math.isnan(mean):
        return "-"
    return f"{mean:.3f}" + ("" if math.isnan(sd) else f" ± {sd:.3f}")
