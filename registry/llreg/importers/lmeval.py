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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.importers.bounded import read_bounded
from llreg.importers.rows import ImportResult, Measurement, Origin, clean, import_rows, make_declared
from llreg.names import is_name
from llreg_schemas import sha256_text
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.store.contents import Contents

_COMMIT = re.compile(r"[0-9a-f]{40}")
_QUANTISED = re.compile(r"load_in_[48]bit|gptq|awq|bnb|gguf", re.IGNORECASE)
_DEPTH = 4  # a response in lists of one


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
    others = [path for path in paths if path.suffix != ".jsonl"]
    if not samples or len(others) > 1:
        raise InputError("expected samples_*.jsonl of one model, and at most one results_*.json")
    results = _read_results(others[0] if others else _beside(samples[0]))
    _check_protocol(results, bos, str(samples[0]))
    contents = [read_bounded(path) for path in samples]
    values, unknown = _values(registry, [(data, str(path)) for path, data in zip(samples, contents, strict=True)])
    shown = str(samples[0])
    if quantization is None:
        _refuse_quantised(results, shown)
    measurement = Measurement(
        model=model or _model_name(results, shown),
        log_likelihood=values,
        place=shown,
        weight_dtype=dtype or _dtype(results),
        revision=_revision(results),
        quantization=quantization,
        declared=make_declared(num_parameters=results.get("config", {}).get("model_num_parameters")),
        provenance=_provenance(results),
    )
    origin = Origin.of("lm-eval", samples[0], b"".join(contents))
    result = import_rows(registry, [measurement], origin, dry_run=dry_run, progress=progress)
    result.notes.extend(_notes(registry, results, values, unknown))
    return result


def _beside(samples: Path) -> Path | None:
    """The results file of the same run: it ends in the same time."""
    path = samples.with_name(f"results_{samples.stem.rpartition('_')[2]}.json")
    return path if path.is_file() else None


def _read_results(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        found = json.loads(read_bounded(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected the JSON of an lm-eval run; {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("config", {}), dict):
        raise InputError(f"{path}: expected the JSON object of an lm-eval run, with config")
    return found


def _check_protocol(results: Mapping[str, Any], bos: bool, shown: str) -> None:
    """Refuse values that the registry's protocol does not mean."""
    if not bos:
        raise InputError(
            f"{shown}: lm-eval puts a token before every text and scores the text's first token, too; this registry's "
            "protocol does so only where the model's own tokenizer puts BOS before a text. If this model's does (as "
            "Llama's and Mistral's do), say --bos; if not (as GPT-2's, GPT-NeoX's and Qwen's), the values are not "
            "comparable with rows here: use llreg add"
        )
    token = results.get("tokenizer_bos_token")
    if isinstance(token, list) and token and token[0] in (None, "None", ""):
        raise InputError(f"{shown}: --bos: by the results file the tokenizer has no BOS token; use llreg add")
    arguments = _arguments(results)
    for key, why in (
        ("add_bos_token=True", "BOS itself was scored, too"),
        ("prefix_token_id=", "another token was put before the texts"),
        ("peft=", "an adapter was laid over the model"),
        ("delta=", "differences were added to the model's weights"),
    ):
        if key in arguments:
            raise InputError(f"{shown}: the model was run with {key.rstrip('=')}: {why}; use llreg add")


def _arguments(results: Mapping[str, Any]) -> str:
    """The run's model arguments as key=value pairs, whichever way its version wrote them."""
    given = results.get("config", {}).get("model_args") or ""
    if isinstance(given, dict):
        return ",".join(f"{key}={value}" for key, value in given.items() if value is not None)
    return str(given)


def _model_name(results: Mapping[str, Any], shown: str) -> str:
    name = results.get("model_name")
    if not isinstance(name, str) or not name:
        pretrained = re.search(r"(?:^|,)pretrained=([^,]+)", _arguments(results))
        name = pretrained[1] if pretrained else ""
    if not is_name(name):
        raise InputError(f"{shown}: the model's name is not known ({name[:100]!r} is none); give it with --model")
    return name


def _dtype(results: Mapping[str, Any]) -> str | None:
    found = results.get("config", {}).get("model_dtype")
    return found.removeprefix("torch.") if isinstance(found, str) and found else None


def _revision(results: Mapping[str, Any]) -> str | None:
    found = results.get("config", {}).get("model_sha")
    return found if isinstance(found, str) and _COMMIT.fullmatch(found) else None


def _refuse_quantised(results: Mapping[str, Any], shown: str) -> None:
    found = _QUANTISED.search(_arguments(results))
    if found:
        raise InputError(
            f"{shown}: the model was quantised ({found[0]}); say how with --quantization, for example bnb:nf4"
        )


def _provenance(results: Mapping[str, Any]) -> dict[str, Any]:
    told = {"import_version": clean(results.get("lm_eval_version")), "import_git": clean(results.get("git_hash"))}
    return {"first_token_scored": True, **{key: value for key, value in told.items() if value}}


def _values(registry: Contents, files: Sequence[tuple[bytes, str]]) -> tuple[NDArray[np.float64], int]:
    """Log-likelihoods by text, NaN where there is no sample, and how many samples are of other texts."""
    index = {digest: k for k, digest in enumerate(registry.text_index.sha256)}
    values = np.full(registry.num_texts, np.nan)
    unknown = 0
    for data, shown in files:
        for place, sample in _samples(data, shown):
            text, value = _text(sample, place), _response(sample, place)
            k = index.get(sha256_text(text))
            if k is None:
                unknown += 1
            elif not np.isnan(values[k]) and values[k] != value:
                raise InputError(f"{place}: text {k} was scored twice, {values[k]} and {value}; give files of one run")
            else:
                values[k] = value
    if np.isnan(values).all():
        raise InputError(
            f"{files[0][1]}: none of its {unknown:,} samples is a text of {registry.info['text_set']['name']}, byte for "
            "byte; the task must score the text as it is, without a prompt or a detokeniser"
        )
    return values, unknown


def _samples(data: bytes, shown: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        place = f"{shown}, line {number}"
        try:
            sample = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place}: expected one JSON object a line; {error}") from error
        if not isinstance(sample, dict):
            raise InputError(f"{place}: expected a JSON object; got {type(sample).__name__}")
        yield place, sample


def _text(sample: Mapping[str, Any], place: str) -> str:
    """The string that was scored: the request's only argument."""
    found: Any = sample.get("arguments")
    for _ in range(2):  # of the requests the only one, of its arguments the only one
        found = list(found.values()) if isinstance(found, dict) else found
        found = found[0] if isinstance(found, list) and len(found) == 1 else None
    if isinstance(found, str):
        return found
    raise InputError(
        f"{place}: expected a sample of a rolling log-likelihood task, with one text in arguments; score the texts with "
        "output_type: loglikelihood_rolling"
    )


def _response(sample: Mapping[str, Any], place: str) -> float:
    """The log-likelihood, in as many lists of one as the version wrote, as a number or as text."""
    found = sample.get("filtered_resps", sample.get("resps"))
    for _ in range(_DEPTH):
        if isinstance(found, list) and len(found) == 1:
            found = found[0]
    try:
        value = float(found) if isinstance(found, (str, int, float)) and not isinstance(found, bool) else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(
            f"{place}: expected one log-likelihood in filtered_resps; got {str(found)[:80]!r}; score the texts with "
            "output_type: loglikelihood_rolling"
        )
    return value


def _notes(registry: Contents, results: Mapping[str, Any], values: NDArray[np.float64], unknown: int) -> list[str]:
    notes = []
    if unknown:
        notes.append(f"{unknown:,} samples are of texts that this registry has not; they were left out")
    if not results:
        notes.append("no results_*.json was given: commit, context length and version of lm-eval are not known")
    longest = results.get("max_length")
    sizes = registry.text_index.bytes_per_text[~np.isnan(values)]
    long = int((sizes > longest).sum()) if isinstance(longest, int) else 0
    if long:
        notes.append(
            f"{long:,} texts have more bytes than the model's context of {longest:,} has tokens: where they have more "
            "tokens, too, lm-eval scored them in windows, which this registry's protocol leaves NaN"
        )
    return notes
