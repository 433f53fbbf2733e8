"""The tokenizer that a GGUF file describes in its metadata, as llama.cpp reads it.

Names and regular expressions of the pre-tokenizers are those of llama.cpp, src/llama-vocab.cpp at commit 00ad355e (`llm_tokenizer_bpe`
and `llama_vocab::impl::load`); where that file cites the expression of the model's own tokenizer.json beside an adapted one, the former stands here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llreg_extract.files.gguf_header import GGUFHeader
from llreg_schemas.errors import UnsupportedModelError

# Pieces that several expressions have in common.
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_OTHERS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*" + _SPACES
_OTHERS_SLASH = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _SPACES
_WORD = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_PUNCTUATED = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+"
_CHINESE, _CHINESE_KOREAN = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"


def _cased(contraction: str) -> str:
    """Words that end where capitals begin, perhaps with a contraction behind them."""
    before = r"[^\r\n\p{L}\p{N}]?"
    return f"{before}{_UPPER}*{_LOWER}+{contraction}|{before}{_UPPER}+{_LOWER}*{contraction}"


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTION + _WORD + r"|\p{N}{1,3}" + _OTHERS
_QWEN2 = _CONTRACTION + _WORD + r"|\p{N}" + _OTHERS
_GPT4O = _cased(_CONTRACTION + "?") + r"|\p{N}{1,3}" + _OTHERS_SLASH
_BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
# Letters of alphabets with two cases.
_BICAMERAL = (
    "A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f"
    "\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-"
    "\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d"
    "\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-"
    "\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-"
    "\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3"
    "\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-"
    "\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-"
    "\U000118df\U0001e900-\U0001e943"
)


@dataclass(frozen=True)
class PreTokenizer:
    """How a text is cut into the pieces within which byte pairs are merged.

    Attributes
    ----------
    splits : tuple of str
        Regular expressions, applied one after another to the pieces of the one before.
    whole_pieces : bool
        Whether a piece that is a token stays one, whatever the merges say.
    add_bos : bool
        Whether a text begins with BOS where the file does not say.
    """

    splits: tuple[str, ...]
    whole_pieces: bool = False
    add_bos: bool = False


def _table() -> dict[str, PreTokenizer]:
    """Pre-tokenizers by the name that ``tokenizer.ggml.pre`` gives."""
    deepseek3 = (r"\p{N}{1,3}", _CHINESE, _PUNCTUATED + r"[\r\n]*" + _SPACES)
    tiny_aya = (r"\d{1,3}(?=(?:\d{3})*\b)", _cased(_CONTRACTION + "?") + r"|\p{N}" + _OTHERS_SLASH)
    bailing = (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
    )
    runs = "|".join(rf"\s{{{size}}}(?!\S)" for size in (512, 256, 128, 64, 32, 16, 8, 4, "1,2"))
    youtu = (
        "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+|[\u3105-\u312f]+|"
        + _CHINESE
    )
    exaone_moe = (
        _CONTRACTION
        + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
    )
    groups: list[tuple[str, PreTokenizer]] = [
        (
            "gpt-2 phi-2 gigachat a.x-4.0 mellum mpt olmo jais trillion granite-docling exaone4",
            PreTokenizer((_GPT2,)),
        ),
        (
            "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2",
            PreTokenizer((r"\p{N}", _GPT2)),
        ),
        (
            "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2",
            PreTokenizer((_LLAMA3,), whole_pieces=True, add_bos=True),
        ),
        ("dbrx smaug-bpe glm4 chatglm-bpe", PreTokenizer((_LLAMA3,))),
        (
            "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2",
            PreTokenizer((_QWEN2,)),
        ),
        (
            "qwen35",
            PreTokenizer(
                (_CONTRACTION + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + _SPACES,)
            ),
        ),
        ("gpt-4o llama4 kanana2 talkie minimax-m2", PreTokenizer((_GPT4O,))),
        ("tekken", PreTokenizer((_cased("") + r"|\p{N}" + _OTHERS_SLASH,), whole_pieces=True, add_bos=True)),
        (
            "deepseek-llm",
            PreTokenizer(
                (
                    r"[\r\n]",
                    rf"\s?[{_BICAMERAL}]+",
                    "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
                    r"\s+$",
                    _CHINESE_KOREAN,
                    r"\p{N}+",
                )
            ),
        ),
        (
            "deepseek-coder",
            PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CHINESE_KOREAN, r"\p{N}")),
        ),
        ("deepseek-v3 hunyuan-dense joyai-llm hy_v4", PreTokenizer(deepseek3)),
        ("falcon", PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"))),
        ("default", PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"))),
        ("bloom poro-chat gpt3-finnish", PreTokenizer((_BLOOM,))),
        ("viking", PreTokenizer((_BLOOM, r"\p{N}"))),
        ("tiny_aya cohere2moe", PreTokenizer(tiny_aya)),
        ("bailingmoe bailingmoe2 llada-moe", PreTokenizer((bailing,))),
        (
            "seed-coder",
            PreTokenizer((_CONTRACTION + _WORD + r"|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+" + _SPACES,)),
        ),
        (
            "jais-2",
            PreTokenizer(
                (_CONTRACTION + _WORD + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|" + runs + r"|\s{1}",)
            ),
        ),
        ("youtu", PreTokenizer((youtu, _cased(_CONTRACTION + "?") + r"|\p{N}" + _OTHERS_SLASH), whole_pieces=True)),
        ("minicpm5", PreTokenizer((r"\p{N}{1,3}", _CONTRACTION + _WORD + r"|\p{N}+" + _OTHERS), whole_pieces=True)),
        ("exaone-moe", PreTokenizer((exaone_moe,))),
        ("ufakzeka", PreTokenizer((_WORD[1:] + r"|\p{N}" + _OTHERS,))),
    ]
    return {name: pre for names, pre in groups for name in names.split()}


PRE_TOKENIZERS = _table()

_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = (
    2,
    3,
    4,
    6,
)  # of tokenizer.ggml.token_type; 1 is a normal token, 5 an unused one
_LLAMAS = {"bos": 1, "eos": 2}  # in a vocabulary of SentencePiece that names no other
_UNSTRIPPED = ("<unk>", "<s>", "<|endoftext|>")  # of Phi-3's tokens, those that take no white space
_SPACE = "▁"
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
# Bytes that no text in UTF-8 has.
_NO_TEXT = frozenset((0xC0, 0xC1, *range(0xF5, 0x100)))
# Metadata that has no effect on the tokens of a text: names of special tokens, and what llama.cpp reads for other kinds of vocabulary.
_INERT = re.compile(
    r"tokenizer\.(chat_template.*|huggingface\.json|ggml\.(\w+_token_ids?|token_type_count|add_sep_token|suppress_tokens"
    r"|(normalizer|normaliser)\..*))"
)
_HEEDED = frozenset(
    f"tokenizer.ggml.{key}"
    for key in (
        *("model", "pre", "tokens", "token_type", "merges", "scores"),
        *("add_bos_token", "add_eos_token", "add_space_prefix"),
    )
)


def gguf_tokenizer(header: GGUFHeader, name: str) -> Any:
    """The tokenizer that the metadata of a GGUF file describe.

    Parameters
    ----------
    header : GGUFHeader
        With its lists.
    name : str
        The model, for messages.

    Returns
    -------
    transformers.PreTrainedTokenizerFast
        Its backend cuts texts as llama.cpp does where the spelling of a special token is that token.

    Raises
    ------
    UnsupportedModelError
        The file does not say how a text is cut, or says it in a way not known here.
    """
    from tokenizers import AddedToken, processors
    from transformers import PreTrainedTokenizerFast

    metadata, arrays = header.metadata, header.arrays
    for key in (*metadata, *arrays):
        # What removes or replaces characters is written for the vocabularies of other kinds only.
        if (
            key.startswith("tokenizer.")
            and key not in _HEEDED
            and not _INERT.fullmatch(key)
            and metadata.get(key) is not False
        ):
            raise _bad(name, f"{key} is not known to llreg")
    tokens = arrays.get("tokenizer.ggml.tokens", [])
    if not tokens:
        raise _bad(name, "there is no tokenizer.ggml.tokens")
    tokens = [token or f"[EMPTY_{number}]" for number, token in enumerate(tokens)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        raise _bad(name, f"{len(tokens) - len(vocabulary)} of its tokens are there twice")
    kinds = arrays.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    if len(kinds) != len(tokens):
        raise _bad(name, f"{len(tokens)} tokens have {len(kinds)} token types")
    model = metadata.get("tokenizer.ggml.model")
    if model == "gpt2":
        backend, add_bos = _byte_level(header, name, vocabulary)
    elif model == "llama":
        backend, add_bos = _by_scores(header, name, vocabulary, kinds)
    else:
        raise _bad(name, f"its tokenizer.ggml.model is {str(model)[:100]!r}, and llreg reads gpt2 and llama")
    # llama.cpp knows by the name alone that white space behind such a token is part of it (llama_vocab::impl::load).
    strips = re.search("phi-?3", str(metadata.get("general.name")).lower()) is not None
    for special, chosen in ((True, (_CONTROL, _UNKNOWN)), (False, (_USER_DEFINED,))):
        add = backend.add_special_tokens if special else backend.add_tokens
        add(
            [
                AddedToken(token, normalized=False, special=special, rstrip=strips and token not in _UNSTRIPPED)
                for token, kind in zip(tokens, kinds, strict=True)
                if kind in chosen
            ]
        )
    named = {}
    for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        number = metadata.get(f"tokenizer.ggml.{key}_token_id", 1 if (role, model) == ("bos", "llama") else None)
        # A normal token that is named here would be taken out of texts by transformers.
        if isinstance(number, int) and 0 <= number < len(tokens) and kinds[number] in (_CONTROL, _UNKNOWN):
            named[f"{role}_token"] = tokens[number]
    bos, eos = (
        metadata.get(f"tokenizer.ggml.{role}_token_id", number if model == "llama" else None)
        for role, number in _LLAMAS.items()
    )
    before: list[int] = []
    behind: list[int] = []
    if metadata.get("tokenizer.ggml.add_bos_token", add_bos):
        if not isinstance(bos, int) or not 0 <= bos < len(tokens):
            raise _bad(name, f"a text begins with BOS, and tokenizer.ggml.bos_token_id is {bos}")
        before = [bos]
    if metadata.get("tokenizer.ggml.add_eos_token", False) and isinstance(eos, int) and 0 <= eos < len(tokens):
        behind = [eos]
    if before or behind:
        first, last = [tokens[number] for number in before], [tokens[number] for number in behind]
        backend.post_processor = processors.TemplateProcessing(
            single=[*first, "$A", *last],
            pair=[*first, "$A", "$B", *last],
            special_tokens=[(tokens[number], number) for number in {*before, *behind}],
        )
    template = metadata.get("tokenizer.chat_template")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        chat_template=template if isinstance(template, str) else None,
        **named,
    )


def _bad(name: str, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"the tokenizer in the GGUF of {name} cannot be followed exactly: {why}; score the model's safetensors, or a file that a "
        "current llama.cpp converts"
    )


def _byte_level(header: GGUFHeader, name: str, vocabulary: Mapping[str, int]) -> tuple[Any, bool]:
    """Pairs of bytes, merged in the order of the file's list; and whether BOS comes first where the file does not say."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    if header.metadata.get("tokenizer.ggml.add_space_prefix"):
        raise _bad(name, "tokenizer.ggml.add_space_prefix is true for byte pairs")
    if "tokenizer.ggml.merges" not in header.arrays:
        raise _bad(name, "there is no tokenizer.ggml.merges")
    # A token may begin with a space, and none has one inside.
    cuts = ((merge, merge.find(" ", 1)) for merge in header.arrays["tokenizer.ggml.merges"])
    pairs = [(merge[:cut], merge[cut + 1 :]) for merge, cut in cuts]
    pre = header.metadata.get("tokenizer.ggml.pre")
    if pre is None:
        if not _is_gpt2s([left + right for left, right in pairs]):
            raise _bad(name, "there is no tokenizer.ggml.pre, and its merges are not those of GPT-2's pre-tokenizer")
        pre = "gpt-2"
    if pre not in PRE_TOKENIZERS:
        raise _bad(name, f"its tokenizer.ggml.pre is {str(pre)[:100]!r}, which llreg does not know")
    rule = PRE_TOKENIZERS[pre]
    symbols = _byte_symbols()
    absent = [byte for byte in range(256) if byte not in _NO_TEXT and symbols[byte] not in vocabulary]
    unknown = header.metadata.get("tokenizer.ggml.unknown_token_id")
    if absent and not isinstance(unknown, int):
        raise _bad(name, f"{len(absent)} bytes have no token, so that parts of a text would be left out")
    try:
        model = models.BPE(
            dict(vocabulary),
            pairs,
            unk_token=next(t for t, number in vocabulary.items() if number == unknown) if absent else None,
            ignore_merges=rule.whole_pieces,
        )
    except Exception as error:  # of the library's own kind: a merge of what is no token
        raise _bad(name, str(error).partition("\n")[0][:200]) from error
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(split), behavior="isolated") for split in rule.splits),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend, rule.add_bos


def _byte_symbols() -> list[str]:
    """The printable character that stands for each byte in a vocabulary of byte pairs (Radford et al. 2019, encoder.py)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _is_gpt2s(merged: Sequence[str]) -> bool:
    """Whether tokens that merges made can be those of a vocabulary with GPT-2's pre-tokenizer, so that none is more than one of its pieces.

    Llama 3's and others' have such, as "(name"; those that cut numbers digit by digit have no number.
    """
    from tokenizers import Regex, pre_tokenizers

    bytes_of = {symbol: byte for byte, symbol in enumerate(_byte_symbols())}
    split = pre_tokenizers.Split(Regex(_GPT2), behavior="isolated")
    numbers = broken = 0
    for token in merged:
        text = bytes(bytes_of.get(symbol, 0) for symbol in token).decode("utf-8", errors="ignore")
        numbers += text.strip().isdigit()
        broken += len(split.pre_tokenize_str(text)) > 1
    return broken <= len(merged) // 100 and (numbers > 0 or len(merged) < 5000)


def _by_scores(header: GGUFHeader, name: str, vocabulary: Mapping[str, int], kinds: Sequence[int]) -> tuple[Any, bool]:
    """SentencePiece's byte pairs: of neighbours that make a token, those of the highest score are merged first; and that BOS comes first."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = header.arrays.get("tokenizer.ggml.scores", [])
    if len(scores) != len(vocabulary):
        raise _bad(name, f"{len(vocabulary)} tokens have {len(scores)} scores")
    merges = list(_merges(vocabulary, scores, kinds))
    merged = {vocabulary[left + right] for left, right in merges}
    if len({scores[number] for number in merged}) < len(merged):
        raise _bad(name, "several tokens have the same score, so that the order of merges is open")
    metadata = header.metadata
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0)
    tokens = list(vocabulary)
    backend = Tokenizer(
        models.BPE(
            dict(vocabulary),
            merges,
            unk_token=tokens[unknown] if isinstance(unknown, int) and 0 <= unknown < len(tokens) else None,
            fuse_unk=True,
            byte_fallback=sum(map(bool, map(_BYTE_TOKEN.fullmatch, tokens))) == 256,
        )
    )
    replace = normalizers.Replace(" ", _SPACE)
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), replace]) if prefix else replace
    backend.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return backend, True


def _merges(vocabulary: Mapping[str, int], scores: Sequence[float], kinds: Sequence[int]) -> Iterator[tuple[str, str]]:
    """The pairs of tokens that make a token, in the order in which they are merged."""
    ranked = sorted(vocabulary.items(), key=lambda item: (-scores[item[1]], item[1]))
    for token, number in ranked:
        # A token of the user's was cut out of the text before, but for spaces that were not written as such.
        is_cut_out = kinds[number] == _USER_DEFINED and _SPACE not in token
        if len(token) < 2 or is_cut_out or kinds[number] in (_UNKNOWN, _CONTROL, _BYTE):
            continue
        for cut in range(1, len(token)):
            if token[:cut] in vocabulary and token[cut:] in vocabulary:
                yield token[:cut], token[cut:]
