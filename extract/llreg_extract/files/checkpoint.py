"""Which files of a checkpoint or an adapter decide its values."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from llreg_schemas.errors import InputError, ModelError, ModelNotFoundError, UnsupportedModelError

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

TOKENIZER_FILE = "tokenizer.json"
# The vocabularies that tokenizer classes of transformers read, by their exact names: "*" would look into folders, too.
_SENTENCEPIECE = (
    *(
        "tokenizer.model",
        "spiece.model",
        "sentencepiece.bpe.model",
        "sentencepiece.model",
        "spm.model",
        "spm_char.model",
    ),
    *("source.spm", "tiktoken.model"),
)
TOKENIZER_VOCABULARIES = (TOKENIZER_FILE, "vocab.json", "vocab.txt", "bpe.codes", "*.tiktoken", *_SENTENCEPIECE)
TOKENIZER_FILES = (
    *(TOKENIZER_FILE, "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "*.tiktoken"),
    *("tokenizer_config.json", "merges.txt", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "chat_template.json"),
)
# What they read besides where there is no tokenizer.json.
OTHER_TOKENIZER_FILES = (
    *TOKENIZER_VOCABULARIES,
    *("emoji.json", "byte_maps.json", "normalizer.json", "word_shape.json", "word_pronunciation.json", "target.spm"),
    *("prophetnet.tokenizer", "vocab.bpe", "encoder.json"),
)
# What a tokenizer's own code may find beside it. The rest of the folder is hidden from it: such code fails, and says so.
TOKENIZER_CODE_FILES = (
    *("*.py", "*.txt", "*.model", "*.model.*", "*.tiktoken", "*.spm", "*.bpe", "*.codes", "*.vocab", "*.dict"),
    *("*vocab*.json", "*token*.json", "*merges*", "*encoder*.json", "*bpe*"),
)
TEKKEN_FILE = "tekken.json"  # Mistral's own format

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
_SPLIT_GGUF = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
_POINTER = b"version https://git-lfs.github.com/spec/"  # how a file begins that stands for one kept by git-lfs


def matching(files: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """The files that match any of the patterns, sorted."""
    patterns = tuple(patterns)
    return sorted(file for file in files if any(fnmatchcase(file, pattern) for pattern in patterns))


def pick_gguf(name: str, files: Collection[str], location: str) -> str | None:
    """The GGUF file to score, or None where the checkpoint's safetensors are.

    Parameters
    ----------
    name : str
        The model, for messages.
    files : collection of str
        File names of the directory or repository.
    location : str
        Path or Hub id, for messages.

    Raises
    ------
    ModelNotFoundError
        There are no weights.
    UnsupportedModelError
        The weights are pickled.
    InputError
        There are several GGUF files to choose from.
    """
    if WEIGHTS in files or WEIGHTS_INDEX in files:
        return None
    ggufs = matching(files, ["*.gguf"])
    if len(ggufs) > 1:
        raise InputError(f"{name} holds several GGUF files ({', '.join(ggufs)}): choose one, as {location}/{ggufs[0]}")
    if ggufs:
        return ggufs[0]
    if matching(files, _PICKLED):
        raise UnsupportedModelError(
            f"{name} has no {WEIGHTS}: llreg reads safetensors or GGUF weights only; convert it with "
            "save_pretrained(DIR) and give that directory"
        )
    raise ModelNotFoundError(f"{name} has no weights: expected {WEIGHTS}, {WEIGHTS_INDEX} or a .gguf file")


def check_whole_gguf(name: str, file: str) -> None:
    """Refuse one part of a split GGUF: its weights alone are not the model.

    Raises
    ------
    UnsupportedModelError
    """
    if _SPLIT_GGUF.search(file):
        raise UnsupportedModelError(
            f"{file} of {name} is one part of a split GGUF: merge the parts with llama-gguf-split --merge"
        )


def weight_files(directory: Path, name: str) -> list[str]:
    """The safetensors files that transformers loads from a directory, sorted.

    Raises
    ------
    ModelNotFoundError
        A file that the index names is not there.
    UnsupportedModelError
        There are the weights in one file and an index of others.
    """
    if (directory / WEIGHTS).is_file():
        if (directory / WEIGHTS_INDEX).is_file():
            refuse_two_weights(directory, name)
        return [WEIGHTS]
    files = indexed_weights(directory, name)
    missing = [file for file in files if not (directory / file).is_file()]
    if missing:
        raise ModelNotFoundError(f"{name} is incomplete: {WEIGHTS_INDEX} names {missing[0]}, which is not there")
    return files


def refuse_two_weights(directory: Path, name: str) -> None:
    """Refuse weights in one file beside an index of other files: which are loaded differs between programs.

    Raises
    ------
    UnsupportedModelError
    """
    if WEIGHTS not in indexed_weights(directory, name):
        raise UnsupportedModelError(
            f"{name} has weights twice, in {WEIGHTS} and in the files that {WEIGHTS_INDEX} names, and one of them may be left "
            "from an earlier save: keep only what is meant, in a directory of its own"
        )


def indexed_weights(directory: Path, name: str) -> list[str]:
    """The files that a directory's safetensors index names, sorted; they need not be there.

    Raises
    ------
    UnsupportedModelError
        The index is malformed, or names files outside the directory.
    """
    refuse_pointer(directory / WEIGHTS_INDEX, name)
    try:
        index = json.loads((directory / WEIGHTS_INDEX).read_text(encoding="utf-8"))
        files = sorted(set(index["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UnsupportedModelError(f"{name}: {WEIGHTS_INDEX} is not a safetensors index: {error}") from error
    if any(Path(file).name != file for file in files):
        raise UnsupportedModelError(f"{name}: {WEIGHTS_INDEX} names files outside the model's directory")
    return files


def tokenizer_location(files: Iterable[str], root: Iterable[str]) -> Literal["weights", "root"]:
    """Where the tokenizer of a model in a subfolder lies: beside its weights, or else at the root.

    Parameters
    ----------
    files, root : iterable of str
        Names of the files in the subfolder, and at the root.
    """
    if matching(files, TOKENIZER_VOCABULARIES) or not matching(root, TOKENIZER_VOCABULARIES):
        return "weights"
    return "root"


def in_folder(folder: str | None, files: Iterable[str]) -> list[str]:
    """Names of files of a folder (None: the root), as seen from the root."""
    return [f"{folder}/{file}" for file in files] if folder else list(files)


def deciding_files(files: Collection[str], *, trust_remote_code: bool) -> list[str]:
    """Of the files in a model's folder those that decide its log-likelihoods beside its weights, sorted."""
    beside = matching(files, ["config.json", *(["*.py"] if trust_remote_code else [])])
    return sorted({*beside, *tokenizer_files(files, trust_remote_code=trust_remote_code)})


def tokenizer_files(files: Collection[str], *, trust_remote_code: bool) -> list[str]:
    """Of the files in a folder those that its tokenizer is loaded from, sorted."""
    patterns = {*TOKENIZER_FILES, *(OTHER_TOKENIZER_FILES if TOKENIZER_FILE not in files else ())}
    if trust_remote_code and matching(files, ["*token*.py"]):
        patterns.update(TOKENIZER_CODE_FILES)
    return matching(files, patterns)


def adapter_files(files: Collection[str], name: str, *, trust_remote_code: bool) -> list[str]:
    """The files of a PEFT adapter that decide its values: with a tokenizer of its own if it has a vocabulary.

    Raises
    ------
    UnsupportedModelError
        Its weights are pickled.
    ModelNotFoundError
        It has no weights.
    """
    if ADAPTER_WEIGHTS not in files:
        if matching(files, _PICKLED):
            raise UnsupportedModelError(
                f"{name} has no {ADAPTER_WEIGHTS}: llreg reads safetensors only; load it with peft and save it again with "
                "save_pretrained(DIR)"
            )
        raise ModelNotFoundError(f"{name} is an adapter without weights: expected {ADAPTER_WEIGHTS}")
    has_tokenizer = bool(matching(files, TOKENIZER_VOCABULARIES))
    tokenizer = tokenizer_files(files, trust_remote_code=trust_remote_code) if has_tokenizer else []
    return sorted({ADAPTER_CONFIG, ADAPTER_WEIGHTS, *tokenizer})


def refuse_pointer(path: Path, name: str) -> None:
    """Refuse what git leaves in place of a large file where git-lfs has not fetched it.

    Raises
    ------
    UnsupportedModelError
    """
    with path.open("rb") as stream:
        if stream.read(len(_POINTER)) == _POINTER:
            raise UnsupportedModelError(
                f"{path.name} of {name} is a git-lfs pointer and not the file itself: run git lfs pull in its directory"
            )


def hash_file(path: Path) -> str:
    """sha256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_files(directory: Path, files: Iterable[str]) -> str:
    """sha256 over the lines ``<file> <sha256 of the file>\\n``, sorted, 64 hex digits."""
    lines = sorted(f"{file} {hash_file(directory / file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()


def check_tokenizer(name: str, files: Iterable[str]) -> None:
    """Refuse a checkpoint without a tokenizer's vocabulary: a tokenizer class may load empty instead of failing.

    Raises
    ------
    ModelError
    """
    files = list(files)
    if not matching(files, TOKENIZER_VOCABULARIES) and TEKKEN_FILE in files:
        raise ModelError(
            f"the only tokenizer of {name} is {TEKKEN_FILE}, Mistral's own format, which llreg does not read: put the "
            f"{TOKENIZER_FILE} of its transformers version beside the weights"
        )
    if not matching(files, TOKENIZER_VOCABULARIES):
        raise ModelError(f"{name} has no tokenizer: put its tokenizer.json beside the weights")
