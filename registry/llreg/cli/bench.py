"""The command that measures speed on the user's machine: bench."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

import llreg.bench as measure
from llreg.cli.common import Context, note, print_result, print_table
from llreg.cli.options import in_registry, json_option
from llreg.cli.progress import counting
from llreg.printable import printable, shown_bytes

if TYPE_CHECKING:
    from llreg.bench import Report
    from llreg_extract.measure.speed import Speed


@click.command()
@click.argument("model", required=False)
@click.option(
    "--shape",
    type=click.Choice(measure.SHAPES),
    help="Without MODEL: random weights of this shape (default: smollm2-135m); nothing is downloaded.",
)
@click.option("--revision", help="Branch, tag or commit on the Hub (default: main).")
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    type=click.Choice([*measure.DTYPES, "all"]),
    help="May be given more than once (default: float32 and bfloat16).",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, or cuda:N.")
@click.option(
    "--batch-tokens",
    multiple=True,
    type=click.IntRange(min=1),
    help="Tokens in a batch; may be given more than once (default: 4096, 16384 and 65536 on a GPU).",
)
@click.option(
    "--seconds", default=20.0, show_default=True, type=click.FloatRange(0, min_open=True), help="Time for each."
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Another seed, other texts of a registry."
)
@click.option("--trust-remote-code", is_flag=True, help="Run Python code from the model's repository.")
@json_option
@click.option("--quiet", "-q", is_flag=True, help="Print only the options to give to llreg add.")
@in_registry
def bench(
    context: Context,
    /,
    model: str | None,
    shape: str | None,
    dtypes: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Measure how fast models are scored on this machine, to choose --dtype and --batch-tokens.

    For each dtype and batch budget: tokens a second (of a CPU also per second of processor time), the share of what
    large matrix products reach here, the most memory held, padding, the largest difference between a text alone and in
    a batch, and the error against float32, one text at a time. The texts are a registry's where one is given or
    encloses the directory, else the embedded ones.
    """
    if model and shape:  # a shape is of random weights
        raise click.UsageError("give a MODEL or a --shape, not both")
    registry = context.registry_if_any()
    dtypes = measure.DTYPES if "all" in dtypes else dtypes
    with counting("measuring") as progress:
        report = measure.bench(model, shape=shape, registry=registry, dtypes=dtypes, progress=progress, **options)
    failures = [speed for speed in report.speeds if speed.problem is not None]
    # Also with --json: a trial that fails says what does not fit on this machine.
    for speed in failures:
        note(printable(f"{speed.dtype}, {speed.batch_tokens:,} tokens: {speed.problem}"))
    advice = [report.advice.options] if report.advice else []
    print_result(as_json, quiet, report.to_json, advice, lambda: _print(report))
    return 1 if failures else 0


def _print(report: Report) -> None:
    threads = "" if report.on_gpu else f", {report.speeds[0].threads} threads"
    click.echo(printable(f"{report.model} on {report.device}{threads}"))
    if report.peaks:
        peaks = ", ".join(
            f"{peak / 1e12:,.0f} TFLOP/s in {dtype}" if peak >= 1e13 else f"{peak / 1e9:,.0f} GFLOP/s in {dtype}"
            for dtype, peak in report.peaks.items()
        )
        click.echo(f"large matrix products reach {peaks}")
    header = ["DTYPE", "BATCH", "TOKENS/S", "PER CPU SECOND", "OF PEAK", "MEMORY", "PADDING", "SPREAD", "ERROR"]
    lines = [header, *(_line(report, speed) for speed in report.speeds)]
    if report.on_gpu:  # the processor's time says nothing there
        lines = [line[:3] + line[4:] for line in lines]
    print_table(lines[0], lines[1:], right=range(1, len(lines[0])))
    if report.advice:
        click.echo(f"\n{report.advice.sentence}")


def _line(report: Report, speed: Speed) -> list[str]:
    trial = [speed.dtype, f"{speed.batch_tokens:,}"]
    if speed.problem is not None:
        return [*trial, "failed", *["-"] * 6]
    error = report.error(speed)
    return [
        *trial,
        f"{speed.tokens_per_second:,.0f}",
        "-" if speed.tokens_per_cpu_second is None else f"{speed.tokens_per_cpu_second:,.0f}",
        f"{report.share_of_peak(speed):.0%}",
        shown_bytes(speed.memory_bytes),
        f"{speed.padding:.1%}",
        f"{speed.spread:.2g}",
        "-" if math.isnan(error) else f"{error:.2g}",
    ]
