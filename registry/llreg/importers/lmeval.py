"""Rows from lm-evaluation-harness: what ``lm_eval --log_samples`` logs of a rolling log-likelihood task on these texts.

A sample holds the string that was scored and its log-likelihood, so each finds its text by sha256. The harness puts a
token before every text, BOS or else EOS, and scores all of the text's own. Protocol modelmap-1 scores the first token
only where the model's own tokenizer puts BOS before the text. So for such models both say the same; for all others the
harness's values hold one token more, under a context that the protocol does not have, and are no rows of this registry.
A samples file does not say which kind the tokenizer is: whoever imports it must.

What the harness does with BOS is a matter of its version and of its class of models, whatever the user says (read from the
source of its releases 0.4.0 to 0.4.13, models/huggingface.py, vllm_causallms.py and sglang_causallms.py):

- Up to 0.4.2 the token before a text is EOS (vLLM: up to 0.4.3). `lm_eval_version` is in results files since 0.4.9, what the
  tokenizer is since 0.4.3.
- From 0.4.3 on it is BOS, and the text is encoded without special tokens, unless ``add_bos_token`` is set. For Gemma (by
  model_type; vLLM and SGLang: by name) the harness sets it: BOS comes twice, and the second one is scored.
- From 0.4.9.2 on (but for SGLang) the text is encoded as the tokenizer's default is, so that a tokenizer that puts BOS
  puts a second one, which is scored. Only ``add_bos_token=False`` prevents that.

A text of more tokens than the window is scored in windows, the later ones with a part of their context; its value is no row's.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
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

# Model arguments that change what the values are of, and why.
_REFUSED_ARGUMENTS = {
    "prefix_token_id": "another token was put before the texts",
    "custom_prefix_token_id": "another token was put before the texts",
    "peft": "an adapter was laid over the model",
    "lora_local_path": "an adapter was laid over the model",
    "delta": "differences were added to the model's weights",
    "steer_path": "the model was steered",
    "subfolder": "the weights are of a folder inside the repository, which the row could not say",
    "gguf_file": "the weights are of one of the repository's files, which the row could not say",
    "mixed_precision_dtype": "its arithmetic was not of its weights' dtype",
}
_TRANSFORMERS, _VLLM, _SGLANG = ("hf", "hf-auto", "huggingface"), ("vllm",), ("sglang",)
_SPARE_TOKENS = 2  # of the window, that vLLM and SGLang do not use for a text: one or two, by version
_Version = tuple[int, ...]
_EOS_UNTIL: dict[str, _Version] = {"vllm": (0, 4, 3)}  # the last version with EOS before a text, where not this one:
_EOS_UNTIL_ELSE: _Version = (0, 4, 2)
_DEFAULT_TOKENS: _Version = (0, 4, 9, 2)  # the first version that encodes texts as the tokenizer does by default
_GEMMA_BOS = ["<bos>", "2"]  # what a Gemma model is known by where its name does not say it


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
    arguments = _arguments(results)
    _check_protocol(results, arguments, bos, name)
    window = _window(results, arguments, name)
    contents = [read_bounded(path) for path in samples]  # kept for the origin's hash
    values, num_strange = _values(registry, list(zip(map(str, samples), contents, strict=True)))
    # A text has at most as many tokens as bytes, and perhaps one for a space that is put before it.
    maybe_windowed = ~np.isnan(values) & (registry.text_index.bytes_per_text + 1 > window)
    values[maybe_windowed] = np.nan
    if np.isnan(values).all():
        raise InputError(
            f"{name}: no text is sure to have fitted into the run's window of {window:,} tokens, all have more bytes; texts "
            "that do not fit are scored in windows, which this registry's protocol leaves out: use llreg add"
        )
    quantised = _QUANTISED.search(",".join(f"{key}={value}" for key, value in arguments.items() if value is not False))
    if quantization is None and quantised:  # how exactly is not in the arguments
        raise InputError(
            f"{name}: the model was quantised ({quantised[0]}); say how with --quantization, for example bnb:nf4"
        )
    measurement = _measurement(results, arguments, values, name, model, dtype, quantization)
    if maybe_windowed.any():
        measurement = replace(
            measurement, provenance={**measurement.provenance, "maybe_windowed": int(maybe_windowed.sum())}
        )
    origin = Origin.of("lm-eval", samples[0], b"".join(contents))
    result = import_rows(registry, [measurement], origin, dry_run=dry_run, progress=progress)
    if num_strange:
        result.notes.append(f"{num_strange:,} samples are of texts that this registry has not; they were left out")
    if maybe_windowed.any():
        result.notes.append(
            f"{int(maybe_windowed.sum()):,} texts were left out: they have more bytes than the run's window of {window:,} has "
            "tokens, and lm-eval scores in windows what does not fit; its files do not count tokens: use llreg add for all texts"
        )
    return result


# The results file


def _check_protocol(results: Mapping[str, Any], arguments: Mapping[str, Any], bos: bool, name: str) -> None:
    """Refuse values that the registry's protocol does not mean."""
    if not bos:
        raise InputError(
            f"{name}: lm-eval puts a token before every text and scores the text's first token, too; this registry's "
            "protocol does so only where the model's own tokenizer puts BOS before a text. If this model's does (as "
            "Llama's and Mistral's do), say --bos; if not (as GPT-2's, GPT-NeoX's and Qwen's), the values are not "
            "comparable with rows here: use llreg add"
        )
    if not results:
        raise InputError(
            f"{name}: expected the run's results_*.json beside it, or named as well: it says which version of lm-eval put "
            "which token before the texts, and how long its window was"
        )
    for argument, why in _REFUSED_ARGUMENTS.items():
        if arguments.get(argument) is not None and arguments[argument] is not False:  # a token's id may be 0
            raise InputError(f"{name}: the model was run with {argument}: {why}; use llreg add")
    tokenizer = arguments.get("tokenizer")
    if tokenizer not in (None, arguments.get("pretrained")):
        raise InputError(f"{name}: the model was run with tokenizer={tokenizer}, another's; use llreg add")
    # The results file may say that there is no BOS, whatever the user says.
    token = results.get("tokenizer_bos_token")
    if isinstance(token, list) and token and token[0] in (None, "None", ""):
        raise InputError(f"{name}: --bos: by the results file the tokenizer has no BOS token; use llreg add")

    # Which token came before the texts.
    kind = results.get("config", {}).get("model")
    if kind not in (*_TRANSFORMERS, *_VLLM, *_SGLANG):
        raise InputError(
            f"{name}: which token lm-eval's model class {str(kind)[:40]!r} puts before a text is not known; known are "
            f"{', '.join((*_TRANSFORMERS, *_VLLM, *_SGLANG))}; use llreg add"
        )
    version = _version(results)
    stated = results.get("lm_eval_version") or "before 0.4.9, for its results file does not say"
    if version <= _EOS_UNTIL.get(kind, _EOS_UNTIL_ELSE):
        raise InputError(
            f"{name}: --bos: up to {'.'.join(map(str, _EOS_UNTIL.get(kind, _EOS_UNTIL_ELSE)))} lm-eval ({stated}) puts EOS before "
            "every text, not BOS; run a newer one, or use llreg add"
        )
    # Whether BOS came twice, so that the second one was scored.
    add_bos = arguments.get("add_bos_token")
    if kind not in _SGLANG and version >= _DEFAULT_TOKENS:
        if add_bos is None:
            raise InputError(
                f"{name}: this version of lm-eval ({stated}) puts BOS before a text and lets the tokenizer put another, which "
                "is scored; run it with --model_args …,add_bos_token=False, or use llreg add"
            )
    elif "gemma" in str(arguments.get("pretrained")).lower() or token == _GEMMA_BOS:
        raise InputError(
            f"{name}: BOS itself was scored, for lm-eval {stated} sets add_bos_token for Gemma models, whatever model_args "
            f"say; run {'.'.join(map(str, _DEFAULT_TOKENS))} or newer with hf or vllm and add_bos_token=False, or use llreg add"
        )
    if add_bos:
        raise InputError(f"{name}: the model was run with add_bos_token: BOS itself was scored, too; use llreg add")


def _version(results: Mapping[str, Any]) -> _Version:
    """The harness's version; of those that did not state it yet, the first one that results of this form are from."""
    stated = re.match(r"\d+(\.\d+)+", str(results.get("lm_eval_version")))
    if stated:
        return tuple(map(int, stated[0].split(".")))
    return (0, 4, 3) if "tokenizer_bos_token" in results else (0, 4, 0)


def _window(results: Mapping[str, Any], arguments: Mapping[str, Any], name: str) -> int:
    """The most tokens of a text that the harness scored at once."""
    window = results.get("max_length") or arguments.get("max_length")
    if not isinstance(window, int) or isinstance(window, bool) or window < 1:
        raise InputError(
            f"{name}: the run's window is not in its results file (max_length); texts that do not fit it are scored in "
            "windows, and which these are cannot be told: use llreg add"
        )
    return window if results["config"]["model"] in _TRANSFORMERS else window - _SPARE_TOKENS


def _arguments(results: Mapping[str, Any]) -> dict[str, Any]:
    """The run's model arguments by name, whichever way its version wrote them; True, False and integers as such."""
    arguments = results.get("config", {}).get("model_args") or {}
    if not isinstance(arguments, dict):
        pairs = (pair.partition("=") for pair in str(arguments).split(","))
        arguments = {key.strip(): value.strip() for key, _, value in pairs}
    words: dict[Any, Any] = {"true": True, "false": False, "none": None, "": None}
    plain = {}
    for key, value in arguments.items():
        text = str(value).lower()
        plain[str(key)] = words.get(text, int(text) if re.fullmatch(r"\d{1,18}", text) else value)
    return plain


def _measurement(
    results: Mapping[str, Any],
    arguments: Mapping[str, Any],
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
            model = str(arguments.get("pretrained") or "")
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
