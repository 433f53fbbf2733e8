"""Rows from lm-evaluation-harness: what ``lm_eval --log_samples`` logs of a rolling log-likelihood task on these texts.

A sample holds the string that was scored and its log-likelihood, so each finds its text by sha256. The harness puts a
token before every text, BOS or else EOS, and scores all of the text's own. Protocol modelmap-1 scores the first token
only where the model's own tokenizer puts BOS before the text. So for such models both say the same; for all others the
harness's values hold one token more, under a context that the protocol does not have, and are no rows of this registry.
A samples file does not say which kind the tokenizer is: whoever imports it must.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.importers.measurement import Measurement, Origin, clean, make_declared, read_bounded
from llreg.importers.rows import ImportResult, import_rows
from llreg.names import is_name
from llreg_schemas import sha256_text
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.store.contents import Contents

_COMMIT = re.compile(r"[0-9a-f]{40}")
_QUANTISED = re.compile(r"load_in_[48]bit|gptq|awq|bnb|gguf", re.IGNORECASE)
_DEPTH = 4  # a response in lists of one
_ADVICE = "score the texts with output_type: loglikelihood_rolling"

# Model arguments under which the values mean something else than the protocol, and why.
_REFUSED_ARGUMENTS = {
    "add_bos_token=True": "BOS itself was scored, too",
    "prefix_token_id=": "another token was put before the texts",
    "peft=": "an adapter was laid over the model",
    "delta=": "differences were added to the model's weights",
}


def import_lm_eval(
    registry: Contents,
    paths: Sequence[Path],
    *,
    bos: bool = False,
    model: str | None = None,
    dtype: str | None = None,
    quantization: str | None = None,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ImportResult:
    """Import one model's row from sample files of lm-evaluation-harness.

    Parameters
    ----------
    registry : Contents
    paths : sequence of Path
        ``samples_*.jsonl`` of one model, one or several, and its ``results_*.json``; the latter is also found beside
        the samples.
    bos : bool
        That the model's tokenizer puts BOS before a text. Refused otherwise: see the module.
    model, dtype, quantization : str, optional
        The model's name, its weights' dtype and how they were quantised, instead of what the results file says.
    dry_run : bool
        Check everything and write nothing.
    progress : callable, optional
        Called with (rows written, rows to write).

    Raises
    ------
    InputError, InvalidFileError
        If the protocol is another, a file is of another form, or no sample is of the registry's texts.
    StorageError
    """
    registry.check_changeable("import into it")
    samples = [path for path in paths if path.suffix == ".jsonl"]
    results_paths = [path for path in paths if path.suffix != ".jsonl"]
    if not samples or len(results_paths) > 1:
        raise InputError("expected samples_*.jsonl of one model, and at most one results_*.json")
    if not results_paths:  # that of the same run ends in the same time
        path = samples[0].with_name(f"results_{samples[0].stem.rpartition('_')[2]}.json")
        results_paths = [path] if path.is_file() else []
    results: dict[str, Any] = {}
    for path in results_paths:
        try:
            results = json.loads(read_bounded(path))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: expected the JSON of an lm-eval run; {error}") from error
        if not isinstance(results, dict) or not isinstance(results.get("config", {}), dict):
            raise InputError(f"{path}: expected the JSON object of an lm-eval run, with config")
    name = str(samples[0])
    _check_protocol(results, bos, name)
    contents = [read_bounded(path) for path in samples]  # kept for the origin's hash
    values, num_strange = _values(registry, list(zip(map(str, samples), contents, strict=True)))
    quantised = _QUANTISED.search(_arguments(results))
    if quantization is None and quantised:  # how exactly is not in the arguments
        raise InputError(
            f"{name}: the model was quantised ({quantised[0]}); say how with --quantization, for example bnb:nf4"
        )
    measurement = _measurement(results, values, name, model, dtype, quantization)
    origin = Origin.of("lm-eval", samples[0], b"".join(contents))
    result = import_rows(registry, [measurement], origin, dry_run=dry_run, progress=progress)
    result.notes.extend(_notes(registry, results, values, num_strange))
    return result


# The results file


def _check_protocol(results: Mapping[str, Any], bos: bool, name: str) -> None:
    """Refuse values that the registry's protocol does not mean."""
    if not bos:
        raise InputError(
            f"{name}: lm-eval puts a token before every text and scores the text's first token, too; this registry's "
            "protocol does so only where the model's own tokenizer puts BOS before a text. If this model's does (as "
            "Llama's and Mistral's do), say --bos; if not (as GPT-2's, GPT-NeoX's and Qwen's), the values are not "
            "comparable with rows here: use llreg add"
        )
    # The results file may say that there is no BOS, whatever the user says.
    token = results.get("tokenizer_bos_token")
    if isinstance(token, list) and token and token[0] in (None, "None", ""):
        raise InputError(f"{name}: --bos: by the results file the tokenizer has no BOS token; use llreg add")
    arguments = _arguments(results)
    for argument, why in _REFUSED_ARGUMENTS.items():
        if argument in arguments:
            raise InputError(f"{name}: the model was run with {argument.rstrip('=')}: {why}; use llreg add")


def _arguments(results: Mapping[str, Any]) -> str:
    """The run's model arguments as key=value pairs, whichever way its version wrote them."""
    arguments = results.get("config", {}).get("model_args") or ""
    if isinstance(arguments, dict):
        return ",".join(f"{key}={value}" for key, value in arguments.items() if value is not None)
    return str(arguments)


def _measurement(
    results: Mapping[str, Any],
    values: NDArray[np.float64],
    name: str,
    model: str | None,
    dtype: str | None,
    quantization: str | None,
) -> Measurement:
    """The values, with what the results file says of the model, where the user does not say otherwise."""
    config = results.get("config", {})
    if not model:
        model = results.get("model_name")
        if not isinstance(model, str) or not model:
            pretrained = re.search(r"(?:^|,)pretrained=([^,]+)", _arguments(results))
            model = pretrained[1] if pretrained else ""
        if not is_name(model):
            raise InputError(f"{name}: the model's name is not known ({model[:100]!r} is none); give it with --model")
    if not dtype:
        recorded = config.get("model_dtype")
        dtype = recorded.removeprefix("torch.") if isinstance(recorded, str) and recorded else None
    # A branch or tag is no revision of a row: it may move.
    commit = config.get("model_sha")
    versions = {"import_version": clean(results.get("lm_eval_version")), "import_git": clean(results.get("git_hash"))}
    return Measurement(
        model=model,
        log_likelihood=values,
        location=name,
        weight_dtype=dtype,
        revision=commit if isinstance(commit, str) and _COMMIT.fullmatch(commit) else None,
        quantization=quantization,
        declared=make_declared(num_parameters=config.get("model_num_parameters")),
        provenance={"first_token_scored": True, **{key: value for key, value in versions.items() if value}},
    )


# The samples


def _values(registry: Contents, files: Sequence[tuple[str, bytes]]) -> tuple[NDArray[np.float64], int]:
    """Log-likelihoods by text, NaN where there is no sample, and how many samples are of other texts."""
    index = {digest: k for k, digest in enumerate(registry.text_index.sha256)}
    values = np.full(registry.num_texts, np.nan)
    num_strange = 0
    for name, data in files:
        for location, text, value in _samples(data, name):
            k = index.get(sha256_text(text))
            if k is None:
                num_strange += 1
            elif not np.isnan(values[k]) and values[k] != value:
                raise InputError(
                    f"{location}: text {k} was scored twice, {values[k]} and {value}; give files of one run"
                )
            else:
                values[k] = value
    if np.isnan(values).all():
        raise InputError(
            f"{files[0][0]}: none of its {num_strange:,} samples is a text of {registry.info.text_set.name}, byte "
            "for byte; the task must score the text as it is, without a prompt or a detokeniser"
        )
    return values, num_strange


def _samples(data: bytes, name: str) -> Iterator[tuple[str, str, float]]:
    """Location of each sample, the string that was scored, and its log-likelihood."""
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        location = f"{name}, line {number}"
        try:
            sample = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{location}: expected one JSON object a line; {error}") from error
        if not isinstance(sample, dict):
            raise InputError(f"{location}: expected a JSON object; got {type(sample).__name__}")

        text: Any = sample.get("arguments")
        for _ in range(2):  # of the requests the only one, of its arguments the only one
            text = list(text.values()) if isinstance(text, dict) else text
            text = text[0] if isinstance(text, list) and len(text) == 1 else None
        if not isinstance(text, str):
            raise InputError(
                f"{location}: expected a sample of a rolling log-likelihood task, with one text in arguments; {_ADVICE}"
            )

        # In as many lists of one as the version wrote, as a number or as text.
        response = sample.get("filtered_resps", sample.get("resps"))
        for _ in range(_DEPTH):
            if isinstance(response, list) and len(response) == 1:
                response = response[0]
        value = math.nan
        if isinstance(response, (str, int, float)) and not isinstance(response, bool):
            with suppress(ValueError, OverflowError):
                value = float(response)
        if not math.isfinite(value):
            raise InputError(
                f"{location}: expected one log-likelihood in filtered_resps; got {str(response)[:80]!r}; {_ADVICE}"
            )
        yield location, text, value


def _notes(registry: Contents, results: Mapping[str, Any], values: NDArray[np.float64], num_strange: int) -> list[str]:
    notes = []
    if num_strange:
        notes.append(f"{num_strange:,} samples are of texts that this registry has not; they were left out")
    if not results:
        notes.append("no results_*.json was given: commit, context length and version of lm-eval are not known")
    context = results.get("max_length")
    num_bytes = registry.text_index.bytes_per_text[~np.isnan(values)]
    # A text has at most as many tokens as bytes: those that may not have fitted into the context.
    num_long = int((num_bytes > context).sum()) if isinstance(context, int) else 0
    if num_long:
        notes.append(
            f"{num_long:,} texts have more bytes than the model's context of {context:,} has tokens: where they have more "
            "tokens, too, lm-eval scored them in windows, which this registry's protocol leaves NaN"
        )
    return notes
