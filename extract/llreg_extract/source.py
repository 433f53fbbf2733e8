"""A pinned model: what it is called, where it lies, and the exact content that will be scored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from llreg_schemas.errors import ChangedFilesError, InputError

Kind = Literal["hub", "local"]

# The patterns of row.schema.json: a name or file that breaks them could be scored but never stored.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_FILE = re.compile(r"(?!.*(^|/)\.\.(/|$))[A-Za-z0-9][A-Za-z0-9._ +=@/-]*")
_NAME_LENGTH, _FILE_LENGTH = 200, 300

# Words that say which part or step of a run something is, what format it has, or just that it is a model.
_ROLES = re.compile(
    "adapters?|base|best|bf|bit|checkpoints?|ckpts?|converted|end|epochs?|export|final|finetuned?|fp?|full|gguf|ggml|global|hf|"
    "huggingface|init|initial|int|iq|iters?|iteration|k|l|last|latest|m|merged?|models?|new|old|outputs?|out|pytorch|q|results?|"
    "runs?|s|safetensors|saved?|snapshots?|start|steps?|temp|test|tmp|train|trained|trainer|training|transformers|tuned|v|"
    "weights|xs|xxs"
)

# What weights can be packed to when they are loaded, and how a row names it.
QUANTIZATIONS = {"int8": "bitsandbytes:int8", "int4": "bitsandbytes:nf4"}


class FileStamp(NamedTuple):
    """What tells, without reading it, that a file is still the one that was read: bytes, time in nanoseconds, inode."""

    num_bytes: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """Of a file, or of what a link leads to."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


def check_unchanged(files: Mapping[str, FileStamp], name: str) -> None:
    """Refuse a model of which a file is another than the one that its revision was made of.

    Parameters
    ----------
    files : mapping of str to FileStamp
        By path.
    name : str
        The model, for messages.

    Raises
    ------
    ChangedFilesError
    """
    for path, stamp in files.items():
        try:
            changed = FileStamp.of(Path(path)) != stamp
        except OSError:
            changed = True
        if changed:
            raise ChangedFilesError(
                f"{path} has changed since {name} was looked up, so that its values would stand under the hash of other files: "
                "copy the model to a place where nothing writes, and add that"
            )


@dataclass(frozen=True)
class Adapter:
    """A pinned PEFT adapter, laid over the weights of a `Source`.

    Attributes
    ----------
    base : str
        Name of the model it is laid over.
    kind : {"hub", "local"}
    location : str
        Hub id, or the directory's path.
    revision : str
        40-hex commit, or ``sha256:<hex>`` over a local adapter's files.
    subfolder : str or None
        Folder inside `location`.
    """

    base: str
    kind: Kind
    location: str
    revision: str
    subfolder: str | None


@dataclass(frozen=True)
class Source:
    """A pinned model; nothing of it is loaded yet.

    Attributes
    ----------
    name : str
        What its row is called: Hub id, or the name of a local model; an adapter's where there is one.
    kind : {"hub", "local"}
        Of the weights, as `location`, `revision`, `file` and `subfolder`: of the base of an adapter.
    location : str
        Hub id, or the directory's path.
    revision : str
        40-hex commit, or ``sha256:<hex>`` over a local model's files.
    file : str or None
        GGUF file inside `location`.
    quantization : str or None
        How the weights are quantised, as "gguf:Q4_1", "gptq:4bit", or "bitsandbytes:nf4" where `quantize` is set.
    checkpoint_dtype : str
        dtype the weights are saved in: "float32", "bfloat16", "float16". A GGUF is dequantised to
        "float32".
    declared : mapping
        What card, config and weights say of the model: the "declared" part of ``row.schema.json``.
    subfolder : str or None
        Folder inside `location` that has config and weights.
    adapter : Adapter or None
        The PEFT adapter that is laid over the weights.
    quantize : {"int8", "int4"} or None
        What the weights are quantised to when they are loaded.
    packed_parameters : int or None
        Parameters that `quantize` packs; None where it is not known.
    settings : mapping or None
        The checkpoint's own quantization_config.
    tokenizer : {"weights", "root", "adapter"}
        Where the tokenizer lies: beside the weights, at the root of `location`, or beside the adapter.
    files : mapping of str to FileStamp
        The local files that revisions are hashes of, by path, as they were when they were hashed.
    """

    name: str
    kind: Kind
    location: str
    revision: str
    file: str | None
    quantization: str | None
    checkpoint_dtype: str
    declared: Mapping[str, Any]
    subfolder: str | None = None
    adapter: Adapter | None = None
    quantize: str | None = None
    packed_parameters: int | None = None
    settings: Mapping[str, Any] | None = None
    tokenizer: Literal["weights", "root", "adapter"] = "weights"
    files: Mapping[str, FileStamp] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, Any]:
        """What it decides of a row's identity: fields of `llreg_schemas.Identity`."""
        adapter = self.adapter
        return {
            "model": adapter.base if adapter else self.name,
            "source": self.kind,
            "revision": self.revision,
            "file": self.file,
            "subfolder": adapter.subfolder if adapter else self.subfolder,
            "adapter": {"model": self.name, "revision": adapter.revision} if adapter else None,
            "quantization": self.quantization,
        }


def is_name(text: str) -> bool:
    """Whether a row may carry `text` as its model's name."""
    return len(text) <= _NAME_LENGTH and _NAME.fullmatch(text) is not None


def local_name(stem: str, name: str | None) -> str:
    """Name of a local model: `name` if given, else `stem` with invalid characters made "-".

    Raises
    ------
    InputError
        `name` is not valid, or nothing valid can be made of `stem`.
    """
    if name is not None:
        if not is_name(name):
            raise InputError(
                f"{name!r} is no valid model name: letters, digits, '.', '_' and '-', starting with a letter "
                "or digit, with at most one '/'"
            )
        return name
    valid = re.sub(r"[^A-Za-z0-9._-]", "-", stem).lstrip("._-")[:_NAME_LENGTH]
    if not valid:
        raise InputError(f"no model name can be made of {stem!r}: give one with --name")
    return valid


def suggest_name(source: Source) -> str | None:
    """A name to suggest for a local model whose own could be any run's; None where it could not, or is the user's.

    A name that says only which step or part of a run it is, as checkpoint-500, final_model or ggml-model-q4_0, is that of
    many models. The folders around it say more: sft-a-checkpoint-500.
    """
    adapter = source.adapter
    kind, location = (adapter.kind, adapter.location) if adapter else (source.kind, source.location)
    if kind != "local" or not _is_generic(source.name):
        return None
    path = Path(location)
    # The file of a GGUF, or the folder itself, has this name unless the user gave it.
    is_file = source.file is not None and adapter is None
    if local_name(Path(source.file or "").stem if is_file else path.name, None) != source.name:
        return None
    parts = [source.name]
    for folder in [path, *path.parents] if is_file else path.parents:
        if folder.name:
            parts.insert(0, folder.name)
            if not _is_generic(folder.name):
                break
    return local_name("-".join(parts), None) if len(parts) > 1 else f"run-{source.name}"


def _is_generic(name: str) -> bool:
    words = re.findall("[a-z]+|[0-9]+", name.lower())
    is_commit = re.fullmatch("[0-9a-f]{40}", name) is not None  # a folder of the Hub client's cache
    return is_commit or all(word.isdigit() or _ROLES.fullmatch(word) for word in words)


def check_file_name(file: str) -> None:
    """Refuse a GGUF file name that a row cannot carry.

    Raises
    ------
    InputError
    """
    if not _is_path(file):
        raise InputError(
            f"the file name {file!r} cannot be stored with a row: rename it to letters, digits, spaces and . _ + = @ -"
        )


def tidy_subfolder(subfolder: str) -> str:
    """A folder inside a model's repository or directory, without "./" before and "/" behind it.

    Raises
    ------
    InputError
        It leads elsewhere, or a row cannot carry its name.
    """
    tidy = "/".join(part for part in subfolder.split("/") if part not in ("", "."))
    if subfolder.startswith("/") or not _is_path(tidy):
        raise InputError(
            f"{subfolder!r} is no folder inside a model: expected a name like checkpoint-500, of letters, digits, "
            "spaces and . _ + = @ - /"
        )
    return tidy


def _is_path(text: str) -> bool:
    return len(text) <= _FILE_LENGTH and _FILE.fullmatch(text) is not None


def check_quantize(quantize: str) -> None:
    """Check that it is one of the quantisations that can be asked for.

    Raises
    ------
    InputError
    """
    if quantize not in QUANTIZATIONS:
        raise InputError(f"unknown quantisation {quantize!r}: choose {' or '.join(QUANTIZATIONS)}")


def quantize_of(label: str | None) -> str | None:
    """The `quantize` that a row's quantisation was made with; None where the checkpoint itself was like that."""
    return next((quantize for quantize, its_label in QUANTIZATIONS.items() if its_label == label), None)
