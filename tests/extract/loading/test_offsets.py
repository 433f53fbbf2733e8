"""Where tokens begin, against the tokens' own spellings laid end to end."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tokenizers
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tests.tools.toy_tokenizers import BACKENDS, CORPUS, PIECES
from tokenizers import models, normalizers, pre_tokenizers, processors

import llreg_extract
from llreg_extract.loading.gguf_tokenizer import _byte_symbols
from llreg_extract.loading.tokenizer import BackendSegmenter, LibrarySegmenter, SentencePieceSegmenter, follow_backend
from llreg_extract.scoring.encoding import Tokenizer
from llreg_extract.scoring.pairs import tokenise_pairs
from llreg_schemas import Pair

Normal = Callable[[str], str]  # what a tokenizer makes of a text before it cuts it

# Without control characters: what counts as white space among them is not the same everywhere.
letters = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=8)
texts = st.lists(st.sampled_from(PIECES) | letters, max_size=8).map("".join)


def copied(backend: Any) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(backend.to_str())


def begins_of(segmenter: Any, text: str) -> list[int]:
    """Bytes at which tokens begin, of a text; what holds for all tokenizers is checked."""
    (ids,), _, (begins,) = segmenter([text])
    assert begins.dtype == np.int32
    assert len(begins) == len(ids)
    starts = list(itertools.accumulate((len(character.encode()) for character in text), initial=0))
    assert set(begins.tolist()) <= set(starts[:-1])
    assert (np.diff(begins) >= 0).all()
    return list(begins.tolist())


def added(backend: Any) -> dict[int, Any]:
    """Patterns of how added tokens stand in a text, by id."""
    return {
        number: re.compile(r"\s*" * token.lstrip + re.escape(token.content) + r"\s*" * token.rstrip)
        for number, token in backend.get_added_tokens_decoder().items()
        if not re.fullmatch("<0x..>", token.content)
    }


def laid_end_to_end(backend: Any, text: str) -> Iterator[int]:
    """Where the tokens of a byte-level tokenizer begin: each holds some bytes of the text, and together they hold all."""
    bytes_of, spellings = {symbol: byte for byte, symbol in enumerate(_byte_symbols())}, added(backend)
    data, at = text.encode(), 0
    for number in backend.encode(text, add_special_tokens=False).ids:
        begin = at
        while data[begin] & 0xC0 == 0x80:  # inside a character
            begin -= 1
        yield begin
        if number in spellings:
            at += len(spellings[number].match(data[at:].decode()).group().encode())
        else:
            token = bytes(bytes_of[symbol] for symbol in backend.id_to_token(number))
            assert data[at : at + len(token)] == token
            at += len(token)
    assert at == len(data)


@given(texts)
def test_tokens_of_bytes(text: str) -> None:
    for name in ("byte level", "digits", "split"):
        assert begins_of(BackendSegmenter(BACKENDS[name]), text) == list(laid_end_to_end(BACKENDS[name], text)), name


def spelled(tokens: list[str]) -> str:
    """Tokens laid end to end, with their byte tokens as the characters that these make."""
    parts = [bytes([int(t[3:5], 16)]) if re.fullmatch("<0x..>", t) else t.removeprefix("##").encode() for t in tokens]
    return b"".join(parts).decode()


def check_spellings(begins: list[int], tokens: list[Any], text: str, normal: Normal) -> None:
    """The text from where a token begins to where the next one does is what the token spells, once it is normalised.

    Tokens that begin together spell it together. An added token is given as the pattern of its places in a text.
    """
    data, is_first = text.encode(), True
    places = np.unique(begins).tolist()
    assert not normal(data[: [*places, len(data)][0]].decode()).strip()
    for start, end in itertools.pairwise([*places, len(data)]):
        part, here = data[start:end].decode(), [t for t, begin in zip(tokens, begins, strict=True) if begin == start]
        is_added = isinstance(here[-1], re.Pattern)
        if is_added:  # maybe with white space around it
            match = here[-1].search(part)
            assert match is not None
            assert not (part[: match.start()] + part[match.end() :]).replace("▁", " ").strip()
            assert set(here[:-1]) <= {"▁"}
        else:
            found, expected = spelled(here), normal(part)
            # White space may be dropped; and "▁" may come before what stands at the beginning.
            assert found in (expected, expected.strip(), *(["▁" + expected] if is_first else [])), (text, part)
        is_first = is_added


NORMAL: dict[str, Normal] = {
    "llama": lambda part: part.replace(" ", "▁"),
    "unigram": lambda part: BACKENDS["unigram"].normalizer.normalize_str(part).replace(" ", "▁"),
    "unigram over bytes": lambda part: part.replace(" ", "▁"),
    "word piece": lambda part: BACKENDS["word piece"].normalizer.normalize_str(part),
}


@given(texts)
def test_tokens_of_characters(text: str) -> None:
    for name, normal in NORMAL.items():
        backend = BACKENDS[name]
        segmenter, patterns = BackendSegmenter(backend), added(backend)
        if name == "word piece":  # its normaliser puts spaces around ideographs, which <left> takes for its own
            text = text.replace("<left>", "")
        (ids,), unknown, _ = segmenter([text])
        begins = begins_of(segmenter, text)
        if not unknown[0]:
            tokens = [patterns.get(number) or backend.id_to_token(number) for number in ids.tolist()]
            check_spellings(begins, tokens, text, normal)


@given(texts)
def test_normal_forms(text: str) -> None:
    symbols = _byte_symbols()
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        backend = tokenizers.Tokenizer(models.BPE({symbol: byte for byte, symbol in enumerate(symbols)}, []))
        backend.normalizer, backend.pre_tokenizer = getattr(normalizers, form)(), pre_tokenizers.ByteLevel(False)
        normal = partial(unicodedata.normalize, form)
        begins, places = begins_of(BackendSegmenter(backend), text), [0, len(text.encode())]
        places = sorted({*begins, *places})
        parts = [text.encode()[start:end].decode() for start, end in itertools.pairwise(places)]
        # Else marks change places; or this Python knows another version of Unicode.
        if "".join(map(normal, parts)) == normal(text) == backend.normalizer.normalize_str(text):
            check_spellings(begins, [f"<0x{n:02X}>" for n in backend.encode(text).ids], text, normal)


def test_spaces_that_a_post_processor_would_take_off() -> None:
    for processor in (processors.ByteLevel(trim_offsets=True), processors.RobertaProcessing(("</s>", 1), ("<s>", 0))):
        backend = copied(BACKENDS["byte level"])
        backend.post_processor = processor
        library = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
        text = CORPUS[0] + "  and \n more"
        tokenizer = follow_backend("toy", backend, library, "tokenizer.json")
        assert begins_of(tokenizer.segmenter, text) == list(laid_end_to_end(BACKENDS["byte level"], text))
        assert len(tokenizer.prefix) == isinstance(processor, processors.RobertaProcessing)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("rule", ["identity", "nmt_nfkc"])
def test_sentencepiece(tmp_path: Path, kind: str, rule: str) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    (tmp_path / "corpus.txt").write_text("\n".join(line for text in CORPUS for line in text.splitlines()) * 3)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "corpus.txt"), model_prefix=str(tmp_path / "toy"), vocab_size=330, model_type=kind, byte_fallback=True,
        normalization_rule_name=rule, remove_extra_whitespaces=rule != "identity", hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "toy.model"))
    pieces = [processor.id_to_piece(number) for number in range(processor.get_piece_size())]

    added_tokens = [tokenizers.AddedToken("<left>", lstrip=True), tokenizers.AddedToken("<right>", rstrip=True)]
    library = SimpleNamespace(  # what a segmenter asks of a tokenizer of transformers
        added_tokens_decoder=dict(enumerate(added_tokens, len(pieces))),
        convert_tokens_to_ids=lambda tokens: [pieces.index(token) for token in tokens],
        convert_ids_to_tokens=lambda ids: [pieces[number] for number in ids],
    )
    segmenter = SentencePieceSegmenter(tmp_path / "toy.model", library)
    patterns = added(tokenizers.Tokenizer.from_str(BACKENDS["llama"].to_str()))

    def normal(part: str) -> str:
        return (part if rule == "identity" else unicodedata.normalize("NFKC", part)).replace(" ", "▁")

    for text in [
        *CORPUS,
        "",
        " ",
        "  two",
        "a  b \n c",
        "🦊🦊 数 x",
        "ﬃ e\u0301 Å²",
        "x<left> y",
        "x  <left><right>  y é",
        "\u3000x",
    ]:
        begins, (ids, *_) = begins_of(segmenter, text), segmenter([text])[0]
        tokens = [pieces[n] if n < len(pieces) else list(patterns.values())[n - len(pieces) - 2] for n in ids.tolist()]
        if rule == "identity" or text == " ".join(text.split()):  # else white space is taken out, too
            check_spellings(begins, tokens, text, normal)


def test_pairs(toy_tokenizer: Callable[..., Any]) -> None:
    """Of a response, behind its prompt and alone; what is before it has no place in it."""
    for bos in (True, False):
        library = toy_tokenizer(bos=bos)
        tokenizer = follow_backend("toy", copied(library.backend_tokenizer), library, "tokenizer.json")
        pairs = [Pair("Where?", "In Köln, am Rhein."), Pair("", " x"), Pair("数学", "数学")]
        encoded = tokenise_pairs(tokenizer, pairs, "raw", name="toy")
        for k, pair in enumerate(pairs):
            expected = list(laid_end_to_end(library.backend_tokenizer, pair.response))
            for number in (k, k + len(pairs)):
                before = len(encoded.ids[number]) - len(expected)
                assert encoded.offsets[number].tolist() == [0] * before + expected
        assert [row.tolist() for row in encoded.take(np.array([4, 0])).offsets] == [
            encoded.offsets[k].tolist() for k in (4, 0)
        ]


def test_a_tokenizer_without_places() -> None:
    """One that is written in Python tells ids and no more."""
    library = transformers.ByT5Tokenizer()
    assert LibrarySegmenter(library)(["a text"])[2] is None
    tokenizer = Tokenizer(LibrarySegmenter(library), "transformers", np.empty(0, np.int32), 0, {}, library)
    assert llreg_extract.tokenise(tokenizer, ["a text"]).take(np.array([0])).offsets is None
    assert tokenise_pairs(tokenizer, [Pair("a", "b")], "raw", name="toy").offsets is None
