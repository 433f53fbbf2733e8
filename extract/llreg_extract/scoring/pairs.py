"""Pairs of a prompt and a response -> token ids and log-likelihoods, by protocol ``conditional-1``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from llreg_extract.libraries import first_line
from llreg_extract.model import Model
from llreg_extract.scoring.encoding import Encoded, Tokenizer, check_range, tokenise
from llreg_extract.scoring.scores import Cuts, Scores, gather, iter_scores
from llreg_schemas import Pair
from llreg_schemas.errors import ModelError, UnsupportedModelError
from llreg_schemas.records import Rendering

# What strftime writes at midnight of llreg_schemas.records.PROMPT_DATE, in the C locale.
# fmt: off
_CLOCK = {
    "%-d": "26", "%-m": "7", "%-y": "24", "%-j": "208", "%-H": "0", "%-I": "12", "%-M": "0", "%-S": "0",
    "%d": "26", "%e": "26", "%m": "07", "%y": "24", "%Y": "2024", "%j": "208", "%D": "07/26/24", "%F": "2024-07-26",
    "%a": "Fri", "%A": "Friday", "%u": "5", "%w": "5", "%U": "29", "%V": "30", "%W": "30", "%b": "Jul", "%B": "July",
    "%H": "00", "%I": "12", "%M": "00", "%S": "00", "%p": "AM", "%T": "00:00:00", "%Z": "", "%z": "", "%%": "%",
}
# fmt: on


def encode_pairs(model: Model, pairs: Sequence[Pair], rendering: Rendering) -> Encoded:
    """Tokenise pairs for a model: `tokenise_pairs`, checked against the model's embeddings.

    Raises
    ------
    UnsupportedModelError
        The model has no chat template where one is asked for, or no embedding for one of the ids.
    ModelError
        Its chat template refuses a prompt.
    """
    encoded = tokenise_pairs(model.tokenizer, pairs, rendering, name=model.source.name)
    check_range(model, encoded)
    return encoded


def tokenise_pairs(tokenizer: Tokenizer, pairs: Sequence[Pair], rendering: Rendering, *, name: str) -> Encoded:
    """Tokenise pairs twice: every response behind its prompt, then every response alone.

    Prompt and response are tokenised apart and laid end to end, so that the prompt's tokens are a prefix whatever the
    response is, and the response's tokens the same in both sequences. Special tokens that go before a text (BOS) go before the
    prompt, too, unless its chat template has written them, and none goes behind.

    Parameters
    ----------
    tokenizer : Tokenizer
    pairs : sequence of Pair
    rendering : {"chat-template", "raw"}
    name : str
        The model, for messages.

    Returns
    -------
    Encoded
        2 n_pairs sequences. Of the first half `starts` is the number of tokens of the prompt; where that is 0, the first
        token of the response has nothing to be predicted from, and `starts` is 1. `special_token_texts` and the like count responses.

    Raises
    ------
    UnsupportedModelError
        There is no chat template where one is asked for.
    ModelError
        The chat template refuses a prompt.
    """
    responses = [pair.response for pair in pairs]
    if rendering == "chat-template":
        texts = _templated(tokenizer.library, pairs, name)
    else:  # conversations are never raw
        texts = [pair.prompt if isinstance(pair.prompt, str) else "" for pair in pairs]
    prompts, unknown, _ = tokenizer.segmenter(texts)
    # A chat template may write the special tokens that go before a text itself.
    prefix = tokenizer.prefix
    is_bare = [rendering == "raw" or not np.array_equal(prompt[: len(prefix)], prefix) for prompt in prompts]
    prompts = [
        np.concatenate([prefix, prompt]) if bare else prompt for prompt, bare in zip(prompts, is_bare, strict=True)
    ]
    alone = tokenise(tokenizer, responses)
    behind = [np.concatenate([prompt, ids[len(prefix) :]]) for prompt, ids in zip(prompts, alone.ids, strict=True)]
    starts = np.array([max(1, len(prompt)) for prompt in prompts], dtype=np.int64)
    offsets = None
    if alone.offsets is not None:
        in_responses = zip(prompts, alone.offsets, strict=True)
        offsets = (*(np.pad(row[len(prefix) :], (len(prompt), 0)) for prompt, row in in_responses), *alone.offsets)
    return Encoded(
        ids=(*behind, *alone.ids),
        special_token_texts=alone.special_token_texts,
        altered_texts=alone.altered_texts,
        shortened_texts=alone.shortened_texts,
        starts=np.concatenate([starts, alone.starts]),
        unknown=np.concatenate([unknown | alone.unknown, alone.unknown]),
        offsets=offsets,
        tokenizer=tokenizer,
        prefixed_prompts=sum(is_bare) if rendering == "chat-template" and len(prefix) else 0,
    )


def _templated(library: Any, pairs: Sequence[Pair], name: str) -> list[str]:
    """Prompts through the chat template, up to where the model's answer begins."""
    if not getattr(library, "chat_template", None):
        raise UnsupportedModelError(
            f"{name} has no chat template, and this registry's prompts go through it: add it to a registry of raw "
            "prompts (llreg init DIR --texts FILE --prompt raw)"
        )
    try:
        template = _fixed_clock() + str(library.get_chat_template())
    except ValueError as error:  # several, and none of them is the default one
        raise UnsupportedModelError(f"{name} has no one chat template: {first_line(error)}") from error
    options = {"chat_template": template, "tokenize": False, "add_generation_prompt": True}
    rendered: list[str] = []
    for pair in pairs:
        try:
            rendered.append(str(library.apply_chat_template(pair.messages, **options)))
        except Exception as error:  # a template is a program of the model's maker, and may raise anything
            raise ModelError(
                f"the chat template of {name} on the prompt of pair {len(rendered)} fails: {first_line(error)}; leave such "
                "pairs out, or use a registry of raw prompts"
            ) from error
    return rendered


def _fixed_clock() -> str:
    """A line of Jinja that stops the clock: many templates write the date, and a row must be the same tomorrow.

    Templates ask for the time through `strftime_now`, a function that transformers gives them; a macro of that name goes
    before it. It has a line of its own, so that nothing of the template's white space changes.
    """
    filters = "".join(f"|replace('{directive}', '{text}')" for directive, text in _CLOCK.items())
    return f"{{%- macro strftime_now(format) -%}}{{{{ format{filters} }}}}{{%- endmacro %}}\n"


def prompt_provenance(tokenizer: Tokenizer, rendering: Rendering, encoded: Encoded) -> dict[str, Any]:
    """How prompts were rendered: pieces of a row's provenance.

    Parameters
    ----------
    tokenizer : Tokenizer
    rendering : {"chat-template", "raw"}
    encoded : Encoded
        From `tokenise_pairs`.

    Returns
    -------
    dict
        "prompt_rendering"; "chat_template" where one was used: the sha256 of its UTF-8 bytes; "prefixed_prompts" where
        there are such: see `Encoded`.
    """
    if rendering == "raw":
        return {"prompt_rendering": rendering}
    template = str(tokenizer.library.get_chat_template())
    return {
        "prompt_rendering": rendering,
        "chat_template": f"sha256:{hashlib.sha256(template.encode('utf-8')).hexdigest()}",
        **({"prefixed_prompts": encoded.prefixed_prompts} if encoded.prefixed_prompts else {}),
    }


def score_pairs(
    model: Model,
    pairs: Sequence[Pair],
    rendering: Rendering,
    *,
    batch_tokens: int | None = None,
    cuts: Cuts | None = None,
) -> tuple[Scores, Scores]:
    """Log-likelihood of each response given its prompt, and alone.

    ll(y | x) = sum over the tokens y_t of the response of ln p(y_t | x, y_<t); ll(y) as `llreg_extract.score`.

    Parameters
    ----------
    model : Model
    pairs : sequence of Pair
    rendering : {"chat-template", "raw"}
    batch_tokens : int, optional
        Padded tokens of a batch at most.
    cuts : sequence of int32 arrays of shape (n_segments,), optional
        Byte of each response at which each of its segments begins, the first at 0.

    Returns
    -------
    with_prompts, alone : Scores
        In the order of the pairs.

    Raises
    ------
    ModelError
        As `encode_pairs`; or a pair does not fit in memory, or the model fails on it.
    """
    twice = None if cuts is None else [*cuts, *cuts]
    batches = iter_scores(model, encode_pairs(model, pairs, rendering), batch_tokens=batch_tokens, cuts=twice)
    both = gather(batches, 2 * len(pairs))
    with_prompts, alone = (
        Scores(
            both.log_likelihood[half],
            both.num_tokens[half],
            both.num_correct[half],
            both.status[half],
            None if both.segments is None else both.segments[half],
        )
        for half in (slice(None, len(pairs)), slice(len(pairs), None))
    )
    return with_prompts, alone
