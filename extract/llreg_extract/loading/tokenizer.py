"""The tokenizer of a checkpoint, by its own files: what `transformers` makes of them is not always what they say."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llreg_extract.files.checkpoint import TEKKEN_FILE, TOKENIZER_FILE, check_tokenizer, matching, tokenizer_files
from llreg_extract.files.config import check_code
from llreg_extract.files.hub import adapter_folder
from llreg_extract.libraries import first_line, require_for_model
from llreg_extract.loading.gguf_tokenizer import gguf_tokenizer
from llreg_extract.scoring.encoding import PROBE_TEXT, Origin, Segmenter, Tokenizer, Tokens
from llreg_extract.source import Source
from llreg_schemas.errors import ModelError, UnsupportedModelError

# A token that is in no vocabulary: a model of this unknown token refuses what it would drop otherwise.
_NO_TOKEN = "\0no token"
# Classes that read tokenizer.json and know nothing of how other vocabulary files are meant.
_GENERIC = frozenset(("PreTrainedTokenizer", "PreTrainedTokenizerFast", "PythonBackend", "TokenizersBackend"))
_USER_DEFINED = 4  # of a piece's type in sentencepiece_model.proto
_NO_BOS = "tokenizer_config.json has no add_bos_token, and no BOS goes before a text"
# Classes that in transformers 4, with which most models were trained, set BOS as add_bos_token says, whatever the file has.
_HEED_BOS = frozenset(("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer", "CohereTokenizer"))
_SPACE = "▁"  # stands for a space in many vocabularies
_TIKTOKEN = re.compile(
    rb"[A-Za-z0-9+/]+=* \d+\s"
)  # a token in base64 and its rank: some files are so that are called .model


def read_tokenizer(source: Source, folder: Path, weights: Path, options: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a source, wherever it lies.

    It is loaded from a folder of links to the files that the source's hash covers, so that no other file has an effect.

    Parameters
    ----------
    source : Source
    folder : Path
        From `llreg_extract.files.hub.download`.
    weights : Path
        Folder that transformers loads the weights from.
    options : mapping
        "trust_remote_code" and, of a GGUF, "gguf": the opened file.

    Raises
    ------
    ModelError
        There is none, or it makes no tokens.
    UnsupportedModelError
        Its files do not say how they are meant.
    """
    code = bool(options["trust_remote_code"])
    if source.file is not None and source.tokenizer == "weights":
        library = gguf_tokenizer(options["gguf"].header, source.name)
        return follow_backend(source.name, library.backend_tokenizer, library, "gguf")
    if source.adapter and source.tokenizer == "adapter":
        folder = adapter_folder(source.adapter, source.name)
    elif source.tokenizer == "weights":
        folder = weights
    names = [path.name for path in folder.iterdir() if path.is_file()]
    if not code:
        check_tokenizer(source.name, names)
    files = {name: folder / name for name in tokenizer_files(names, trust_remote_code=code)}
    if source.file is None:
        files["config.json"] = weights / "config.json"
    if TOKENIZER_FILE not in files and matching(files, ["*.model"]) and not code:
        require_for_model("sentencepiece")
    with links(files) as linked:
        classes = _contents(linked / "tokenizer_config.json").get("auto_map")
        if code and classes:  # a class and a faster one, by the role of both or alone
            classes = classes.get("AutoTokenizer") if isinstance(classes, dict) else classes
            check_code(source.name, *(classes if isinstance(classes, list) else [classes]))
        library = _load(linked, source, {"trust_remote_code": code})
        return _follow_files(source.name, linked, library, tekken=folder / TEKKEN_FILE)


@contextmanager
def links(files: Mapping[str, Path]) -> Iterator[Path]:
    """A folder of links to files, by their names in it."""
    with tempfile.TemporaryDirectory(prefix="llreg-") as folder:
        for name, path in files.items():
            (Path(folder) / name).symlink_to(path.resolve())
        yield Path(folder)


def _load(folder: Path, source: Source, options: Mapping[str, Any]) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, **options)
    except Exception as error:
        reason, cause = first_line(error), error.__context__
        if isinstance(cause, FileNotFoundError) and cause.filename and options["trust_remote_code"]:
            reason = (
                f"its code reads {Path(cause.filename).name}, which is not of the kinds that the model's hash covers"
            )
        if not options["trust_remote_code"] and "trust_remote_code" in str(error):
            reason = "its class is code of its own: add --trust-remote-code if you trust it"
        elif not (folder / TOKENIZER_FILE).is_file():
            reason += f"; put the {TOKENIZER_FILE} of its tokenizer beside the weights"
        raise ModelError(f"the tokenizer of {source.name} cannot be loaded: {reason}") from error


def _follow_files(name: str, folder: Path, library: Any, *, tekken: Path) -> Tokenizer:
    """The tokenizer that the files in a folder describe: its tokenizer.json if there is one."""
    from tokenizers import Tokenizer as Backend

    if (folder / TOKENIZER_FILE).is_file():
        try:
            backend = Backend.from_file(str(folder / TOKENIZER_FILE))
        except Exception as error:  # of the library's own kind
            raise ModelError(f"the tokenizer of {name} cannot be loaded: {first_line(error)}") from error
        config = _contents(folder / "tokenizer_config.json")
        tokenizer = follow_backend(name, backend, library, "tokenizer.json")
        conflicts = _conflicts(folder, config, backend, tokenizer, tekken)
        return replace(_with_bos(tokenizer, config, backend), conflict="; ".join(conflicts))
    if not type(library).__module__.startswith("transformers."):  # its code says how the files are meant
        return _follow_library(name, library)
    own = [vars(each) for each in type(library).__mro__ if each.__module__.startswith("transformers.models.")]
    if not getattr(library, "is_fast", False) and any({"_tokenize", "tokenize"} & each.keys() for each in own):
        return _follow_library(name, library)  # made for its vocabulary: GPT-SW3's brings a text to NFC first
    vocabulary = Path(str(getattr(library, "vocab_file", None)))
    if vocabulary.suffix in (".model", ".tiktoken"):
        with vocabulary.open("rb") as stream:
            start = stream.read(400)
        if _TIKTOKEN.match(start) is None:
            tokenizer = _tokenizer(name, SentencePieceSegmenter(vocabulary, library), library, "sentencepiece")
            # Classes of transformers 4 put BOS before a text where nothing is said, and those of 5 do not.
            is_open = len(tokenizer.prefix) == 0 and "add_bos_token" not in _contents(folder / "tokenizer_config.json")
            return replace(tokenizer, conflict=_NO_BOS) if is_open and library.bos_token is not None else tokenizer
    if type(library).__name__ in _GENERIC or vocabulary.suffix in (".model", ".tiktoken"):
        raise UnsupportedModelError(
            f"{name} has no {TOKENIZER_FILE}, and its other files do not say how a text is cut: put the {TOKENIZER_FILE} of its "
            "tokenizer beside the weights"
        )
    return _follow_library(name, library)


def _follow_library(name: str, library: Any) -> Tokenizer:
    if getattr(library, "is_fast", False):
        return follow_backend(name, library.backend_tokenizer, library, "transformers")
    return _tokenizer(name, LibrarySegmenter(library), library, "transformers")


def follow_backend(name: str, backend: Any, library: Any, origin: Origin) -> Tokenizer:
    """A tokenizer that cuts texts as one of the `tokenizers` library does.

    Parameters
    ----------
    name : str
        The model, for messages.
    backend : tokenizers.Tokenizer
        It is changed: nothing is cut, padded, drawn by chance or put around a text.
    library : transformers tokenizer
        Says which special tokens go around a text, where `backend` is not the file's own, and renders chats.
    origin : str
        Where `backend` comes from.

    Raises
    ------
    ModelError
        It makes no tokens.
    """
    tokenizer = _tokenizer(name, BackendSegmenter(backend), library, origin, backend=backend)
    backend.post_processor = (
        None  # it puts special tokens around a text, and may take spaces off the places of the others
    )
    return tokenizer


def _tokenizer(name: str, segmenter: Any, library: Any, origin: Origin, *, backend: Any = None) -> Tokenizer:
    """A tokenizer of a segmenter, with the special tokens that a library puts around a text."""
    (content,), _, _ = segmenter([PROBE_TEXT])
    # A class of transformers may load without a vocabulary, and then everything is its unknown token.
    if not len(content) or (origin != "tokenizer.json" and len(set(content.tolist())) < 2):
        raise ModelError(f"the tokenizer of {name} makes no tokens: is its vocabulary there?")
    # The backend's post-processor says what goes around a text: classes of transformers 5 set another one, or none.
    if backend is None and getattr(library, "is_fast", False):
        _make_plain(library.backend_tokenizer)
    plain, full = (
        list(library(PROBE_TEXT, add_special_tokens=special)["input_ids"])
        if backend is None
        else backend.encode(PROBE_TEXT, add_special_tokens=special).ids
        for special in (False, True)
    )
    prefix, num_appended = _own_tokens(name, plain, full)
    spellings = {int(id_): str(token.content) for id_, token in library.added_tokens_decoder.items() if token.special}
    spellings |= dict(zip(map(int, library.all_special_ids), map(str, library.all_special_tokens), strict=True))
    if backend is not None:  # a library that builds the vocabulary anew may number it otherwise
        added = {id_: token.content for id_, token in backend.get_added_tokens_decoder().items() if token.special}
        named = {backend.token_to_id(spelling): spelling for spelling in spellings.values()}
        spellings = {id_: spelling for id_, spelling in {**named, **added}.items() if id_ is not None}
    return Tokenizer(
        segmenter=segmenter,
        origin=origin,
        prefix=np.asarray(prefix, dtype=np.int32),
        num_appended=num_appended,
        special=spellings,
        library=library,
    )


def _own_tokens(name: str, plain: list[int], full: list[int]) -> tuple[list[int], int]:
    """Ids of the special tokens that go before a text, and the number of those behind it, from its ids without and with them."""
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return full[:start], len(full) - start - len(plain)
    raise UnsupportedModelError(
        f"the tokenizer of {name} cuts a text otherwise when it adds special tokens: put a tokenizer.json beside the weights that "
        "does not"
    )


def _make_plain(backend: Any) -> None:
    """Turn off what a tokenizer of `tokenizers` may do beside cutting a text into tokens, always the same ones."""
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = False
    for chance in ("dropout", "alpha", "nbest_size"):  # of BPE (Provilkov et al., arXiv 1910.13267) and of Unigram
        if getattr(backend.model, chance, None) is not None:
            setattr(backend.model, chance, None)


def _with_bos(tokenizer: Tokenizer, config: Mapping[str, Any], backend: Any) -> Tokenizer:
    """A tokenizer that follows its tokenizer.json, with BOS or without it as add_bos_token says where that was heeded in training.

    Parameters
    ----------
    tokenizer : Tokenizer
    config : mapping
        tokenizer_config.json.
    backend : tokenizers.Tokenizer
        Of the tokenizer.json.
    """
    cls = str(config.get("tokenizer_class") or type(tokenizer.library).__name__).removesuffix("Fast")
    adds, bos = config.get("add_bos_token"), tokenizer.library.bos_token
    number = None if bos is None else backend.token_to_id(str(bos))
    if cls not in _HEED_BOS or number is None or not isinstance(adds, bool) or adds == (number in tokenizer.prefix):
        return tokenizer
    return replace(tokenizer, prefix=np.array([number] if adds else [], dtype=np.int32))


def _conflicts(
    folder: Path, config: Mapping[str, Any], backend: Any, tokenizer: Tokenizer, tekken: Path
) -> Iterator[str]:
    """What other files say otherwise than the tokenizer.json beside them, in words.

    Parameters
    ----------
    folder : Path
        Of links.
    config : mapping
        tokenizer_config.json.
    backend : tokenizers.Tokenizer
        Of the tokenizer.json.
    tokenizer : Tokenizer
        That follows it.
    tekken : Path
        Of Mistral's file, which is not in `folder`; it need not be there.
    """
    names = [str(token.get("content")) for token in config.get("added_tokens_decoder", {}).values()]
    absent = [
        token for token in (*names, *_contents(folder / "added_tokens.json")) if backend.token_to_id(token) is None
    ]
    if absent:
        yield f"{len(absent)} tokens of other files are not in {TOKENIZER_FILE} ({', '.join(map(ascii, absent[:2]))[:100]})"
    if config.get("add_bos_token") is (len(tokenizer.prefix) == 0):
        is_heeded = _with_bos(tokenizer, config, backend) is not tokenizer
        yield (
            f"add_bos_token is {str(config['add_bos_token']).lower()} in tokenizer_config.json"
            f"{', and was followed' * is_heeded}"
        )
    if tekken.is_file():
        pattern = _contents(tekken).get("config", {}).get("pattern")
        steps = json.loads(backend.pre_tokenizer.__getstate__()) if backend.pre_tokenizer is not None else {}
        if pattern not in [step.get("pattern", {}).get("Regex") for step in steps.get("pretokenizers", [steps])]:
            yield f"{TEKKEN_FILE} splits texts by another pattern"


def _contents(path: Path) -> dict[str, Any]:
    """A file in JSON; nothing of one that is not there or is no mapping."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _spelling(token: Any) -> str:
    """Regular expression of how an added token stands in a text."""
    return (r"\s*" if token.lstrip else "") + re.escape(str(token.content)) + (r"\s*" if token.rstrip else "")


def _places_in_bytes(text: str, places: NDArray[np.integer]) -> NDArray[np.int32]:
    """Byte of a text's UTF-8 at which each of some of its characters begins: int32 of the shape of `places`."""
    if text.isascii():
        return places.astype(np.int32)
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)  # (character,)
    num_bytes = 1 + (points > 0x7F) + (points > 0x7FF) + (points > 0xFFFF)
    begins = np.cumsum(num_bytes, dtype=np.int32) - num_bytes.astype(np.int32)
    return np.asarray(begins[places])


def _is_same(text: str, seen: str) -> bool:
    """Whether two texts are one, but for a space before it, which many tokenizers put there, or take."""
    return text in (seen, f" {seen}", seen.removeprefix(" "))


def _proven(
    segmenter: Segmenter, texts: Sequence[str], ids: Sequence[NDArray[np.int32]], others: Sequence[str]
) -> list[str | None]:
    """Of each text the other that it may have become, if that is another one and has the same ids; None if not.

    Parameters
    ----------
    segmenter : Segmenter
    texts : sequence of str
    ids : sequence of int32 arrays
        Of the texts.
    others : sequence of str
        One for each text.
    """
    seen: list[str | None] = [None] * len(texts)
    differing = [k for k, (text, other) in enumerate(zip(texts, others, strict=True)) if not _is_same(text, other)]
    for k, row in zip(differing, segmenter([others[k] for k in differing])[0], strict=True):
        if np.array_equal(row, ids[k]):
            seen[k] = others[k]
    return seen


class BackendSegmenter:
    """Cuts texts as the `tokenizers` library does.

    Parameters
    ----------
    backend : tokenizers.Tokenizer
    """

    def __init__(self, backend: Any) -> None:
        _make_plain(backend)
        self._backend, model = backend, backend.model
        self._unknown_id: int | None = None
        spelling = getattr(model, "unk_token", None)
        if spelling is not None:
            self._unknown_id = model.token_to_id(spelling)
        elif hasattr(model, "unk_token"):
            model.unk_token = _NO_TOKEN  # BPE without one drops what it does not know
        else:  # Unigram shows the unknown token in its state only
            self._unknown_id = json.loads(model.__getstate__()).get("unk_id")
        # Spellings that the text may have of the unknown token itself.
        self._unknown = re.compile(re.escape("" if self._unknown_id is None else model.id_to_token(self._unknown_id)))
        added = backend.get_added_tokens_decoder().get(self._unknown_id)
        if added is not None:
            self._unknown = re.compile(_spelling(added))

        # Byte that each token stands for where Unigram falls back to bytes, else -1.
        self._bytes = np.empty(0, np.int16)
        if getattr(model, "byte_fallback", False) and type(model).__name__ == "Unigram":
            self._bytes = np.full(backend.get_vocab_size(), -1, np.int16)
            for byte in range(256):
                self._bytes[model.token_to_id(f"<0x{byte:02X}>")] = byte

    def __call__(self, texts: Sequence[str]) -> Tokens:
        unknown = np.zeros(len(texts), dtype=bool)
        try:
            encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        except Exception:  # noqa: BLE001 - the library has no other: a text has what the vocabulary has no token for
            encodings = []
            for k, text in enumerate(texts):
                try:
                    encodings.append(self._backend.encode(text, add_special_tokens=False))
                except Exception:  # noqa: BLE001
                    encodings.append(self._backend.encode("", add_special_tokens=False))
                    unknown[k] = True
        ids, begins = [], []
        for k, (text, encoding) in enumerate(zip(texts, encodings, strict=True)):
            ids.append(np.asarray(encoding.ids, dtype=np.int32))
            places = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)  # (token, 2), characters
            if self._unknown_id is not None and (is_unknown := ids[-1] == self._unknown_id).any():
                unknown[k] = not all(self._unknown.fullmatch(text[start:end]) for start, end in places[is_unknown])
            begins.append(_places_in_bytes(text, self._begins(ids[-1], places)))
        return ids, unknown, begins

    def _begins(self, ids: NDArray[np.int32], places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Character at which each token begins: int64 of shape (token,)."""
        begins = places[:, 0]
        if len(self._bytes):
            # All bytes of a run of characters without a token have the place of the run. Each begins with its own character.
            byte = self._bytes[ids]
            begun = np.cumsum((byte >= 0) & (byte & 0xC0 != 0x80))  # characters of such runs
            _, first, run = np.unique(begins, return_index=True, return_inverse=True)
            begins = np.where(byte >= 0, np.minimum(begins + begun - begun[first][run], places[:, 1] - 1), begins)
        return begins

    def changed(self, texts: Sequence[str], ids: Sequence[NDArray[np.int32]]) -> list[str | None]:
        decoded = self._backend.decode_batch([row.tolist() for row in ids], skip_special_tokens=False)
        seen = _proven(self, texts, ids, decoded)
        # A file without a fitting decoder, or one whose decoder does not lead back to the same tokens.
        processor, normalizer = self._backend.post_processor, self._backend.normalizer
        open_ = [k for k in range(len(texts)) if seen[k] is None and len(ids[k]) and not _is_same(texts[k], decoded[k])]
        if not open_:
            return seen
        try:
            self._backend.post_processor = None  # it may take spaces off the places of tokens
            for k in open_:
                places = self._backend.encode(texts[k], add_special_tokens=False).offsets
                covered = {position for start, end in places for position in range(start, end)}
                if len(covered) < len(texts[k]):
                    seen[k] = "".join(texts[k][position] for position in sorted(covered))
        finally:
            self._backend.post_processor = processor
        if normalizer is not None:
            rest = [k for k in open_ if seen[k] is None]
            normal = [normalizer.normalize_str(texts[k]).replace(_SPACE, " ") for k in rest]
            for k, text in zip(
                rest, _proven(self, [texts[k] for k in rest], [ids[k] for k in rest], normal), strict=True
            ):
                seen[k] = text
        return seen


class LibrarySegmenter:
    """Cuts texts as a tokenizer of transformers that is written in Python does.

    Parameters
    ----------
    library : transformers tokenizer
    """

    def __init__(self, library: Any) -> None:
        self._library = library

    def __call__(self, texts: Sequence[str]) -> Tokens:
        ids, unknown_id = self._ids(texts), self._library.unk_token_id
        unknown = np.zeros(len(texts), dtype=bool)
        if unknown_id is not None:
            for k in np.flatnonzero([(row == unknown_id).any() for row in ids]).tolist():
                # Without the unknown token's own spelling: is there one all the same?
                parts = [part for part in texts[k].split(self._library.unk_token) if part]
                unknown[k] = any((row == unknown_id).any() for row in self._ids(parts))
        return ids, unknown, None

    def changed(self, texts: Sequence[str], ids: Sequence[NDArray[np.int32]]) -> list[str | None]:
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        decoded = [str(self._library.decode(row.tolist(), **options)) for row in ids]
        return _proven(self, texts, ids, decoded)

    def _ids(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        if not texts:
            return []
        # verbose=False: texts past the context are expected, and left unscored later.
        options = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
        rows = self._library(list(texts), add_special_tokens=False, **options)["input_ids"]
        return [np.asarray(row, dtype=np.int32) for row in rows]


class SentencePieceSegmenter:
    """Cuts texts as the `sentencepiece` library does, and at the spellings of added tokens.

    Parameters
    ----------
    path : Path
        Of the model.
    library : transformers tokenizer
        Says which id a piece has (some classes do not number them as the file does), and which tokens were added.
    """

    def __init__(self, path: Path, library: Any) -> None:
        from sentencepiece import SentencePieceProcessor, sentencepiece_pb2
        from transformers.convert_slow_tokenizer import import_protobuf

        self._parse = sentencepiece_pb2.SentencePieceText.FromString
        self._processor = SentencePieceProcessor(model_file=str(path))
        pieces = [self._processor.id_to_piece(k) for k in range(self._processor.get_piece_size())]
        ids = library.convert_tokens_to_ids(pieces)
        # A piece that the library does not know is unknown, like the file's own unknown piece.
        names = library.convert_ids_to_tokens(ids)
        self._is_known = np.array([piece == name for piece, name in zip(pieces, names, strict=True)])
        self._is_known[self._processor.unk_id()] = False
        self._ids = np.asarray(ids, dtype=np.int32)
        # Pieces of the user's are cut out by the model itself, which then puts no space before what follows.
        described = import_protobuf().ModelProto()
        described.ParseFromString(self._processor.serialized_model_proto())
        own = {piece.piece for piece in described.pieces if piece.type == _USER_DEFINED}
        tokens = [
            (int(id_), token)
            for id_, token in library.added_tokens_decoder.items()
            if token.content.strip() and (token.special or token.content not in own)
        ]
        self._added = {token.content.strip(): id_ for id_, token in tokens}
        # The longest first, where one is the beginning of another.
        tokens.sort(key=lambda numbered: -len(numbered[1].content))
        self._split = re.compile(f"({'|'.join(_spelling(token) for _, token in tokens)})") if tokens else None

    def __call__(self, texts: Sequence[str]) -> Tokens:
        ids, unknown, begins = [], np.zeros(len(texts), dtype=bool), []
        for k, text in enumerate(texts):
            row: list[int] = []
            places: list[int] = []  # (token,), bytes
            num_bytes = 0  # of the parts before
            for part in self._split.split(text) if self._split else [text]:
                if self._split and self._split.fullmatch(part):
                    row.append(self._added[part.strip()])
                    places.append(num_bytes)
                elif part:
                    # The one form with places that every version has; they are those of bytes before normalisation.
                    pieces = self._parse(self._processor.encode(part, out_type="serialized_proto")).pieces
                    numbers = [piece.id for piece in pieces]
                    unknown[k] |= not self._is_known[numbers].all()
                    row += self._ids[numbers].tolist()
                    places += [num_bytes + piece.begin for piece in pieces]
                num_bytes += len(part.encode("utf-8"))
            ids.append(np.array(row, np.int32))
            begins.append(np.array(places, np.int32))
        return ids, unknown, begins

    def changed(self, texts: Sequence[str], ids: Sequence[NDArray[np.int32]]) -> list[str | None]:
        decoded = []
        for text in texts:
            parts = self._split.split(text) if self._split else [text]
            decoded.append(
                "".join(
                    part
                    if self._split and self._split.fullmatch(part)
                    else self._processor.decode(self._processor.encode(part, out_type=int))
                    for part in parts
                )
            )
        return _proven(self, texts, ids, decoded)
