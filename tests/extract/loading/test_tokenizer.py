"""Token ids against the checkpoint's own files, read by `tokenizers` and `sentencepiece` themselves."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tests.tools.toy_tokenizers import BACKENDS, CL100K, CORPUS, PIECES, byte_level
from tokenizers import models, normalizers, pre_tokenizers, processors

import llreg_extract
from llreg_extract import Status
from llreg_extract.loading.tokenizer import follow_backend
from llreg_schemas.errors import ModelError

Editable = Callable[..., Path]

CLASSES = ("GPT2Tokenizer", "LlamaTokenizer", "PreTrainedTokenizerFast")


def write(folder: Path, backend: tokenizers.Tokenizer, tokenizer_class: str = "PreTrainedTokenizerFast") -> Path:
    """Give a checkpoint another tokenizer.json, to be loaded as a class of transformers."""
    backend.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": tokenizer_class, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def load_tokenizer(folder: Path, **options: Any) -> Any:
    return llreg_extract.load_tokenizer(llreg_extract.resolve(str(folder), **options), **options)


def ids_of(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return [row.tolist() for row in tokenizer.segmenter(texts)[0]]


def direct(backend: tokenizers.Tokenizer, texts: list[str]) -> list[list[int]]:
    return [backend.encode(text, add_special_tokens=False).ids for text in texts]


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory, toy_model: Callable[..., Path]) -> dict[tuple[str, str], Any]:
    """The tokenizers of checkpoints, by backend and class."""
    loaded = {}
    for name, backend in BACKENDS.items():
        for tokenizer_class in CLASSES:
            if name in ("unigram", "word piece") and tokenizer_class != "PreTrainedTokenizerFast":
                continue  # no such checkpoint loads
            folder = tmp_path_factory.mktemp("toy") / "toy"
            shutil.copytree(toy_model("llama"), folder)
            loaded[name, tokenizer_class] = load_tokenizer(write(folder, backend, tokenizer_class))
    return loaded


pieces = st.sampled_from(PIECES)
texts = st.lists(pieces | st.text(max_size=8), max_size=8).map("".join)


@given(st.lists(texts, min_size=1, max_size=4))
def test_ids_are_those_of_the_file(followed: dict[tuple[str, str], Any], texts: list[str]) -> None:
    for (name, tokenizer_class), tokenizer in followed.items():
        assert tokenizer.origin == "tokenizer.json"
        assert ids_of(tokenizer, texts) == direct(BACKENDS[name], texts), (name, tokenizer_class)


def test_transformers_would_have_cut_otherwise(followed: dict[tuple[str, str], Any]) -> None:
    """What this is good for; where a newer transformers does as the file says, take the class off."""
    for name, tokenizer_class, text in (
        ("digits", "GPT2Tokenizer", "a  12"),
        ("split", "GPT2Tokenizer", "(a, b):\n   return"),
        ("llama", "LlamaTokenizer", " a text that begins with a space"),
    ):
        library = followed[name, tokenizer_class].library
        assert list(library(text, add_special_tokens=False)["input_ids"]) != direct(BACKENDS[name], [text])[0]


def test_scores_are_of_these_ids(editable: Editable) -> None:
    folder = write(editable("llama", vocab_size=700), BACKENDS["digits"], "GPT2Tokenizer")
    model = llreg_extract.load(llreg_extract.resolve(str(folder)), device="cpu")
    (ids,) = direct(BACKENDS["digits"], [CORPUS[1]])
    assert llreg_extract.encode(model, [CORPUS[1]]).ids[0].tolist() == ids
    assert llreg_extract.score(model, [CORPUS[1]]).num_tokens.tolist() == [len(ids) - 1]


def test_a_tokenizer_is_read_once_for_a_model(editable: Editable) -> None:
    source = llreg_extract.resolve(str(editable("llama")))
    tokenizer = llreg_extract.load_tokenizer(source)
    encoded = llreg_extract.tokenise(tokenizer, CORPUS)
    assert llreg_extract.load(source, device="cpu", tokenizer=encoded.tokenizer).tokenizer is tokenizer
    elsewhere = pickle.loads(pickle.dumps(encoded))
    assert elsewhere.tokenizer is None
    assert all(map(np.array_equal, elsewhere.ids, encoded.ids))


def test_nothing_is_left_to_chance_cut_or_padded(editable: Editable) -> None:
    backend = tokenizers.Tokenizer.from_str(BACKENDS["byte level"].to_str())
    backend.model.dropout = 0.5
    backend.enable_truncation(3)
    backend.enable_padding(length=50)
    for tokenizer_class in CLASSES:
        tokenizer = load_tokenizer(write(editable("llama", name=tokenizer_class), backend, tokenizer_class))
        for _ in range(3):
            assert ids_of(tokenizer, CORPUS) == direct(BACKENDS["byte level"], CORPUS)


def test_a_regex_that_transformers_would_mend_stays_the_files(editable: Editable) -> None:
    """transformers warns of a wrong pattern in Mistral's files, or replaces it if the config asks: neither concerns the ids."""
    vocabulary = BACKENDS["split"].get_vocab() | {f"filler {k}": 1000 + k for k in range(100_000)}
    state = json.loads(BACKENDS["split"].to_str())
    backend = tokenizers.Tokenizer.from_str(json.dumps({**state, "model": {**state["model"], "vocab": vocabulary}}))
    folder = write(editable("mistral"), backend)
    for file, change in (
        ("config.json", {"transformers_version": "4.50.0"}),
        ("tokenizer_config.json", {"fix_mistral_regex": True}),
    ):
        config = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**config, **change}))
    text = "12345 don't HelloWorld 123"
    tokenizer = load_tokenizer(folder)
    assert ids_of(tokenizer, [text]) == direct(BACKENDS["split"], [text])
    assert list(tokenizer.library(text, add_special_tokens=False)["input_ids"]) != direct(BACKENDS["split"], [text])[0]


# Special tokens around a text


@pytest.mark.parametrize("kind", ["PreTrainedTokenizerFast", "GPTNeoXTokenizer", "LlamaTokenizer", "GPT2Tokenizer"])
@pytest.mark.parametrize("around", ["$A </s>", "<s> $A", "<s> $A </s> [UNK]", "<s> [UNK] $A", "$A"])
def test_what_goes_before_is_context_and_what_goes_behind_is_left_off(
    editable: Editable, around: str, kind: str
) -> None:
    """As tokenizer.json says: classes of transformers put what they have on their own around a text, or nothing."""
    backend = tokenizers.Tokenizer.from_str(BACKENDS["byte level"].to_str())
    backend.post_processor = processors.TemplateProcessing(
        single=around, special_tokens=[(token, backend.token_to_id(token)) for token in ("<s>", "</s>", "[UNK]")]
    )
    tokenizer = load_tokenizer(write(editable("llama"), backend, kind))
    before, behind = (part.split() for part in around.split("$A"))
    assert tokenizer.prefix.tolist() == [backend.token_to_id(token) for token in before]
    assert tokenizer.provenance.get("appended_tokens", 0) == len(behind)
    encoded = llreg_extract.tokenise(tokenizer, CORPUS)
    for ids, start, content in zip(encoded.ids, encoded.starts, direct(backend, CORPUS), strict=True):
        assert ids.tolist() == [*tokenizer.prefix.tolist(), *content]
        assert start == max(1, len(before))


# What the vocabulary has no token for


def test_a_part_without_a_token_makes_a_text_nan(editable: Editable) -> None:
    folder = write(editable("llama", vocab_size=700, max_position_embeddings=64), BACKENDS["word piece"])
    model = llreg_extract.load(llreg_extract.resolve(str(folder)), device="cpu")
    texts = ["the quick fox", "the 🦊 fox", "the [UNK] fox", "🦊 [UNK]", "[UNK]🦊", "🦊" * 99]
    scores = llreg_extract.score(model, texts)
    is_known = [True, False, True, False, False, False]
    assert scores.status.tolist() == [Status.SCORED if known else Status.UNKNOWN_TOKEN for known in is_known]
    assert np.isfinite(scores.log_likelihood).tolist() == is_known
    assert (scores.num_tokens > 0).tolist() == is_known
    np.testing.assert_allclose(
        scores.log_likelihood, llreg_extract.reference_scores(model, texts).log_likelihood, rtol=1e-5
    )


def unknown_in(backend: tokenizers.Tokenizer, texts: list[str]) -> list[bool]:
    library = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    return list(follow_backend("toy", backend, library, "tokenizer.json").segmenter(texts)[1].tolist())


def test_what_has_a_token() -> None:
    for name, unknown in (("unigram", True), ("word piece", True), ("byte level", False), ("llama", False)):
        assert unknown_in(BACKENDS[name], ["the", "a 🦊", "[UNK]", "a <right>  b", "<left>"]) == [
            False,
            unknown,
            *[False] * 3,
        ]


LOSSY = {
    "white space removed": (None, pre_tokenizers.Split(tokenizers.Regex(r"\s+"), "removed"), (5, 0)),
    "digits removed": (None, pre_tokenizers.Split(tokenizers.Regex(r"\d"), "removed"), (1, 1)),
    "white space split": (None, pre_tokenizers.WhitespaceSplit(), (5, 0)),
    "stripped": (normalizers.Strip(), None, (1, 0)),
    "small letters": (normalizers.Lowercase(), None, (2, 0)),
    "without accents": (normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]), None, (2, 0)),
    "replaced by nothing": (normalizers.Replace("x", ""), None, (3, 3)),
    "NFKC": (normalizers.NFKC(), None, (1, 0)),
    "NFC": (normalizers.NFC(), None, (1, 0)),
    "nothing": (None, None, (0, 0)),
}


@pytest.mark.parametrize("has_decoder", [True, False])
@pytest.mark.parametrize("change", LOSSY)
def test_texts_that_a_tokenizer_changes_are_counted(change: str, has_decoder: bool) -> None:
    """By the tokens alone, and with a post-processor that takes spaces off their places, as GPT-2's."""
    normalizer, first, counts = LOSSY[change]
    backend = tokenizers.Tokenizer.from_str(BACKENDS["byte level"].to_str())
    if normalizer is not None:
        backend.normalizer = normalizer
    if first is not None:
        last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([first, last])
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    if not has_decoder:
        backend.decoder = None
    texts = ["the fox", "The É axe 9 x.", "cafe\u0301 ﬁx\n\nX", "the  lazy dog ", "a, b"]
    library = transformers.PreTrainedTokenizerFast(tokenizer_object=BACKENDS["byte level"])
    encoded = llreg_extract.tokenise(follow_backend("toy", backend, library, "tokenizer.json"), texts)
    assert (encoded.altered_texts, encoded.shortened_texts) == counts


def test_whole_texts_are_not_taken_for_changed(followed: dict[tuple[str, str], Any]) -> None:
    texts = [*CORPUS, "Hello , world . it 's\t 5\r\n\n  x \n", " the fox", "a 🦊"]
    for (name, _), tokenizer in followed.items():
        if name in ("byte level", "digits", "split", "llama"):
            assert llreg_extract.tokenise(tokenizer, texts).altered_texts == 0, name
    assert (
        llreg_extract.tokenise(followed["word piece", "PreTrainedTokenizerFast"], ["the fox", "The fox"]).altered_texts
        == 1
    )


def test_what_a_vocabulary_would_drop_is_unknown() -> None:
    """BPE without an unknown token leaves out what it does not know, without a word."""
    letters = {letter: k for k, letter in enumerate("Tabcdefghijklmnopqrstuvwxyz ,.")}
    backend = tokenizers.Tokenizer(models.BPE(vocab=letters, merges=[]))
    assert len(tokenizers.Tokenizer.from_str(backend.to_str()).encode("a1b").ids) == 2
    assert unknown_in(backend, ["ab", "a1b", "1", "b"]) == [False, True, True, False]
    some_bytes = sorted(
        set(pre_tokenizers.ByteLevel.alphabet()) - {"©"}
    )  # "é" is two bytes, of which this is the second
    backend = tokenizers.Tokenizer(models.BPE(vocab={byte: k for k, byte in enumerate(some_bytes)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert unknown_in(backend, ["e", "é", "è"]) == [False, True, False]


# Files


def test_a_file_beside_the_hashed_ones_has_no_effect(editable: Editable) -> None:
    folder = editable("llama")
    before = llreg_extract.resolve(str(folder)).revision, ids_of(load_tokenizer(folder), CORPUS)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "other.jinja").write_text("x")
    for file in ("tekken.json", "spm.model", "vocab.bpe", "emoji.json"):
        (folder / file).write_text("{}")
    tokenizer = load_tokenizer(folder)
    assert (llreg_extract.resolve(str(folder)).revision, ids_of(tokenizer, CORPUS)) == before
    assert not tokenizer.library.chat_template


def test_mistrals_own_format(editable: Editable) -> None:
    folder = write(editable("mistral"), BACKENDS["split"])
    (folder / "tekken.json").write_text(json.dumps({"config": {"pattern": CL100K}, "vocab": []}))
    assert load_tokenizer(folder).provenance == {"tokenization": "tokenizer.json"}
    (folder / "tekken.json").write_text(json.dumps({"config": {"pattern": "[a-z]+"}, "vocab": []}))
    assert load_tokenizer(folder).provenance["tokenizer_conflict"] == "tekken.json splits texts by another pattern"
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"the only tokenizer of toy-mistral is tekken.json, Mistral's own format"):
        load_tokenizer(folder)


def test_files_that_contradict_each_other_are_recorded(editable: Editable) -> None:
    folder = write(editable("llama"), BACKENDS["byte level"])
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"add_bos_token": True, "added_tokens_decoder": {"900": {"content": "<|im_start|>"}}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "added_tokens.json").write_text(json.dumps({"fox": 901, "<left>": 5}))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.provenance["tokenizer_conflict"] == (
        "2 tokens of other files are not in tokenizer.json ('<|im_start|>', 'fox'); add_bos_token is true in tokenizer_config.json"
    )
    assert ids_of(tokenizer, ["<|im_start|> fox"]) == direct(BACKENDS["byte level"], ["<|im_start|> fox"])


@pytest.mark.parametrize(
    ("tokenizer_class", "stated", "in_file", "prefix"),
    [
        ("LlamaTokenizerFast", True, False, [0]),  # as DeepSeek's: huggingface/swift-transformers, issue 161
        ("LlamaTokenizer", False, True, []),
        (
            "PreTrainedTokenizerFast",
            True,
            False,
            [],
        ),  # passed over by transformers 4, too: huggingface/transformers, issue 30947
        ("PreTrainedTokenizerFast", False, True, [0]),
        ("LlamaTokenizerFast", None, False, []),  # as transformers 5 saves it: the file alone counts
    ],
)
def test_bos_that_tokenizer_config_states(
    editable: Editable, tokenizer_class: str, stated: bool | None, in_file: bool, prefix: list[int]
) -> None:
    backend = tokenizers.Tokenizer.from_str(BACKENDS["byte level"].to_str())
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    if in_file:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    folder = write(editable("llama"), backend, tokenizer_class)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config if stated is None else {**config, "add_bos_token": stated})
    )
    tokenizer = load_tokenizer(folder)
    assert tokenizer.prefix.tolist() == prefix
    assert ids_of(tokenizer, CORPUS) == direct(backend, CORPUS)
    if stated is not None:
        conflict = f"add_bos_token is {str(stated).lower()} in tokenizer_config.json"
        followed = ", and was followed" * (tokenizer_class != "PreTrainedTokenizerFast")
        assert tokenizer.provenance["tokenizer_conflict"] == conflict + followed


def test_vocabulary_and_merges(editable: Editable) -> None:
    """Without a tokenizer.json a class of transformers has to say how they are meant, and none of them does in general."""
    folder = editable("gpt2")
    backend = byte_level()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    write(folder, backend, "GPT2Tokenizer")
    (folder / "tokenizer.json").unlink()
    backend.model.save(str(folder))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.provenance == {"tokenization": "transformers"}
    assert ids_of(tokenizer, CORPUS) == direct(backend, CORPUS)
    write(folder, backend)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"toy-gpt2"):
        load_tokenizer(folder)


def test_a_list_of_words(editable: Editable) -> None:
    folder = editable("bert", is_decoder=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertLMHeadModel"]}))
    write(folder, BACKENDS["word piece"], "BertTokenizer")
    (folder / "tokenizer.json").unlink()
    words = sorted(BACKENDS["word piece"].get_vocab(with_added_tokens=False).items(), key=lambda item: item[1])
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word, _ in words))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.origin == "transformers"
    plain = ["the quick brown fox", "Jumps over, 12345", "a 🦊"]
    assert ids_of(tokenizer, plain) == direct(BACKENDS["word piece"], plain)
    assert tokenizer.segmenter(plain)[1].tolist() == [False, False, True]


def test_a_class_without_its_vocabulary(editable: Editable) -> None:
    folder = editable("llama")
    write(folder, BACKENDS["llama"], "LlamaTokenizer")
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text("{}")
    with pytest.raises(ModelError, match=r"the tokenizer of toy-llama (makes no tokens|cannot be loaded)|cuts a text"):
        load_tokenizer(folder)


def with_sentencepiece(folder: Path, **options: Any) -> Any:
    """Give a checkpoint a tokenizer.model in place of its tokenizer.json; sentencepiece's own reader of it."""
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    corpus = folder.parent / "corpus.txt"
    corpus.write_text("\n".join(line for text in CORPUS for line in text.splitlines()) * 3)
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "tokenizer"), vocab_size=340, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, hard_vocab_limit=False, minloglevel=2, **options,
    )  # fmt: skip
    write(folder, BACKENDS["llama"], "LlamaTokenizer")
    (folder / "tokenizer.json").unlink()
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def test_a_sentencepiece_model(editable: Editable) -> None:
    folder = editable("llama")
    processor = with_sentencepiece(folder)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.origin == "sentencepiece"
    plain = [*CORPUS, " one space", "  two", "▁▁", "a  b \n c", "🦊", ""]
    assert ids_of(tokenizer, plain) == [processor.encode(text) for text in plain]
    assert not tokenizer.segmenter(plain)[1].any()
    assert tokenizer.segmenter(["a</s>"])[0][0][-1] == processor.eos_id()
    conflict = "tokenizer_config.json has no add_bos_token, and no BOS goes before a text"
    assert tokenizer.provenance == {"tokenization": "sentencepiece", "tokenizer_conflict": conflict}
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "add_bos_token": True}))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.provenance == {"tokenization": "sentencepiece"}
    assert tokenizer.prefix.tolist() == [processor.bos_id()]


def test_a_piece_of_the_users_is_cut_out_by_sentencepiece(editable: Editable) -> None:
    """transformers calls it an added token; the text behind it would begin with a space of its own."""
    folder = editable("llama")
    processor = with_sentencepiece(folder, user_defined_symbols=["fox"])
    plain = ["the fox jumps", "foxfoxes", "a fox"]
    assert ids_of(load_tokenizer(folder), plain) == [processor.encode(text) for text in plain]


def test_a_class_that_prepares_a_text_for_sentencepiece(editable: Editable) -> None:
    folder = editable("llama")
    processor = with_sentencepiece(folder)
    (folder / "tokenizer.model").rename(folder / "spiece.model")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPTSw3Tokenizer"}))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.provenance == {"tokenization": "transformers"}
    # NFC, and characters that are not printed left out.
    assert ids_of(tokenizer, ["the cafe\u0301\u200b", "the fox"]) == [
        processor.encode(text) for text in ("the caf\u00e9", "the fox")
    ]


def test_a_class_of_its_own_is_named(editable: Editable) -> None:
    folder = editable("llama")
    (folder / "tokenizer.json").rename(folder / "qwen.tiktoken")
    config = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "tokenization_own.py").write_text("")
    with pytest.raises(ModelError, match=r"the tokenizer of toy-llama .*: add --trust-remote-code if you trust it"):
        load_tokenizer(folder)


CODE = """
import os
from transformers import PreTrainedTokenizer
class LetterTokenizer(PreTrainedTokenizer):
    def __init__(self, **kwargs):
        with open(os.path.join(kwargs["name_or_path"], FILE)) as stream:
            self.letters = {letter: k for k, letter in enumerate(["<unk>", *sorted(set(stream.read()))])}
        super().__init__(unk_token="<unk>", **kwargs)
    vocab_size = property(lambda self: len(self.letters))
    def get_vocab(self): return dict(self.letters)
    def _tokenize(self, text, **kwargs): return list(text)
    def _convert_token_to_id(self, token): return self.letters.get(token, 0)
    def _convert_id_to_token(self, index): return list(self.letters)[index]
"""


def test_code_reads_hashed_files_only(editable: Editable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = editable("llama")
    (folder / "tokenizer.json").unlink()
    config = {"auto_map": {"AutoTokenizer": ["tokenization_letters.LetterTokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "tokenization_letters.py").write_text(CODE.replace("FILE", '"my-letters.txt"'))
    (folder / "my-letters.txt").write_text(CORPUS[0])

    def pinned() -> str:
        return llreg_extract.resolve(str(folder), trust_remote_code=True).revision

    revision, tokenizer = pinned(), load_tokenizer(folder, trust_remote_code=True)
    assert tokenizer.provenance == {"tokenization": "transformers"}
    letters = ["<unk>", *sorted(set(CORPUS[0]))]
    assert ids_of(tokenizer, ["the fox"]) == [[letters.index(letter) for letter in "the fox"]]
    assert tokenizer.segmenter(["the fox", "fox 9", "a<unk>b", "9<unk>"])[1].tolist() == [False, True, False, True]
    (folder / "my-letters.txt").write_text(CORPUS[0] + "9")
    assert pinned() != revision
    (folder / "tokenization_letters.py").write_text(CODE.replace("FILE", '"my-letters.bin"'))
    os.rename(folder / "my-letters.txt", folder / "my-letters.bin")
    with pytest.raises(ModelError, match=r"tokenizer of toy-llama .* its code reads my-letters.bin, which"):
        load_tokenizer(folder, trust_remote_code=True)
