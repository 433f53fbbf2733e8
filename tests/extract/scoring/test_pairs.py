"""Pairs of a prompt and a response: where their tokens meet, and their log-likelihoods against a float64 computation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st

import llreg_extract
from llreg_extract import Status
from llreg_extract.loading.tokenizer import follow_backend
from llreg_extract.scoring.encoding import Tokenizer
from llreg_extract.scoring.pairs import _CLOCK, encode_pairs, prompt_provenance, score_pairs, tokenise_pairs
from llreg_schemas import Message, Pair, sha256_text
from llreg_schemas.errors import ModelError, UnsupportedModelError
from llreg_schemas.records import PROMPT_DATE

ToyModel = Callable[..., Path]

TEMPLATE = (
    "{% for message in messages %}{{ '<s>' + message['role'] + ': ' + message['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant: ' }}{% endif %}"
)
PAIRS = [
    Pair("Name the capital of France.", "It is Paris."),
    Pair((Message("system", "Be brief."), Message("user", "Wie geht's?")), "Gut, danke.\n"),
    Pair("", " a response without a question"),
    Pair("2 + 2 =", "4"),
    Pair("明日は?", "数学を続ける。"),
    Pair("Say it.", "</s> is what a text ends with"),
]
RAW = [pair for pair in PAIRS if isinstance(pair.prompt, str)]


def open_model(folder: Path, template: str | None = None) -> llreg_extract.Model:
    """The model, with a chat template of its own if one is given."""
    model = llreg_extract.load(llreg_extract.resolve(str(folder)), device="cpu")
    model.tokenizer.library.chat_template = template
    return model


def followed(library: Any) -> Tokenizer:
    """The tokenizer of a checkpoint that was saved from one of transformers."""
    backend = tokenizers.Tokenizer.from_str(library.backend_tokenizer.to_str())
    return follow_backend("toy", backend, library, "tokenizer.json")


def plain_scores(model: llreg_extract.Model, prompts: list[list[int]], targets: list[list[int]]) -> np.ndarray:
    """Sums of ln p(y_t | x, y_<t) in float64, one sequence at a time; what no token comes before has no value."""
    module = copy.deepcopy(model.module).double()
    found = []
    for prompt, target in zip(prompts, targets, strict=True):
        ids = torch.tensor([[*prompt, *target]])
        with torch.inference_mode():
            log_p = torch.log_softmax(module(ids).logits[0], dim=-1)
        places = range(max(1, len(prompt)), ids.shape[1])
        found.append(sum(float(log_p[t - 1, ids[0, t]]) for t in places) if len(places) else np.nan)
    return np.array(found)


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_through_the_chat_template(toy_model: ToyModel, kind: str, bos: bool) -> None:
    model = open_model(toy_model(kind, bos=bos), TEMPLATE)
    given, alone = score_pairs(model, PAIRS, "chat-template")
    rendered = [
        "".join(f"<s>{m['role']}: {m['content']}</s>" for m in pair.messages) + "<s>assistant: " for pair in PAIRS
    ]
    prompts = [ids_of(model.tokenizer.library, text) for text in rendered]  # the template begins with BOS itself
    responses = [ids_of(model.tokenizer.library, pair.response) for pair in PAIRS]
    np.testing.assert_allclose(given.log_likelihood, plain_scores(model, prompts, responses), rtol=1e-5)
    assert given.num_tokens.tolist() == [len(response) for response in responses]
    np.testing.assert_allclose(
        alone.log_likelihood, plain_scores(model, [[0] * bos] * len(PAIRS), responses), rtol=1e-5
    )


@pytest.mark.parametrize(("bos", "eos"), [(False, False), (True, False), (True, True)])
def test_raw(toy_model: ToyModel, bos: bool, eos: bool) -> None:
    """The tokens before a text go before the prompt, and what the tokenizer puts behind a text is left off."""
    model = open_model(toy_model("gpt2", bos=bos, eos=eos))
    given, alone = score_pairs(model, RAW, "raw")
    prompts = [[0] * bos + ids_of(model.tokenizer.library, str(pair.prompt)) for pair in RAW]
    responses = [ids_of(model.tokenizer.library, pair.response) for pair in RAW]
    np.testing.assert_allclose(given.log_likelihood, plain_scores(model, prompts, responses), rtol=1e-5)
    np.testing.assert_allclose(alone.log_likelihood, plain_scores(model, [[0] * bos] * len(RAW), responses), rtol=1e-5)
    scored_first = [bool(prompt) for prompt in prompts]
    assert given.num_tokens.tolist() == [len(r) - (not first) for r, first in zip(responses, scored_first, strict=True)]


def test_a_prompt_gets_the_tokens_that_its_template_does_not_write(toy_model: ToyModel) -> None:
    """BOS, where the tokenizer adds one and the template leaves that to it; once, and the record counts such prompts."""
    bare = TEMPLATE.replace("<s>", "|")
    for bos, template, num_prefixed in ((True, bare, len(PAIRS)), (True, TEMPLATE, 0), (False, bare, 0)):
        model = open_model(toy_model("llama", bos=bos), template)
        encoded = encode_pairs(model, PAIRS, "chat-template")
        begins = [ids[:2].tolist().count(0) for ids in encoded.ids[: len(PAIRS)]]
        assert begins == [int(bos or template is TEMPLATE)] * len(PAIRS)
        record = prompt_provenance(model.tokenizer, "chat-template", encoded)
        assert record.get("prefixed_prompts", 0) == num_prefixed


def test_response_alone_is_what_a_text_is(toy_model: ToyModel) -> None:
    model = open_model(toy_model("llama", bos=True), TEMPLATE)
    _, alone = score_pairs(model, PAIRS, "chat-template")
    texts = llreg_extract.score(model, [pair.response for pair in PAIRS])
    np.testing.assert_allclose(alone.log_likelihood, texts.log_likelihood, rtol=1e-6)
    assert alone.num_tokens.tolist() == texts.num_tokens.tolist()


def test_nothing_to_predict_from(toy_model: ToyModel) -> None:
    """Without a prompt and without BOS the first token has no probability; where it is the only one, there is no value."""
    model = open_model(toy_model("gpt2"))
    pairs = [Pair("", "4"), Pair("2 + 2 =", "4"), Pair("", "4 and more")]
    given, alone = score_pairs(model, pairs, "raw")
    assert given.status.tolist() == [Status.UNSCORED, Status.SCORED, Status.SCORED]
    assert alone.status.tolist() == [Status.UNSCORED, Status.UNSCORED, Status.SCORED]
    assert given.num_tokens[0] == 0
    assert np.isnan(given.log_likelihood[0])
    assert given.log_likelihood[2] == alone.log_likelihood[2]


def test_past_the_context(toy_model: ToyModel) -> None:
    model = open_model(toy_model("gpt2"))  # of 128 tokens
    length = len(ids_of(model.tokenizer.library, "x " * 60))
    pairs = [Pair("x " * 60, "y" * (128 - length)), Pair("x " * 60, "y" * (129 - length)), Pair("a", "y" * 129)]
    given, alone = score_pairs(model, pairs, "raw")
    assert given.status.tolist() == [Status.SCORED, Status.OVER_CONTEXT, Status.OVER_CONTEXT]
    assert alone.status.tolist() == [Status.SCORED, Status.SCORED, Status.OVER_CONTEXT]


texts = st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=30)


@given(st.lists(st.tuples(texts, texts.filter(bool)), min_size=1, max_size=4))
def test_prompt_is_a_prefix(toy_tokenizer: Callable[..., Any], items: list[tuple[str, str]]) -> None:
    """Whatever the two are, nothing is tokenised across the boundary, and the prompt's tokens do not know the response."""
    tokenizer = toy_tokenizer(bos=True)
    encoded = tokenise_pairs(followed(tokenizer), [Pair(*item) for item in items], "raw", name="toy")
    assert len(encoded.ids) == len(encoded.starts) == 2 * len(items)
    for k, (prompt, response) in enumerate(items):
        start = encoded.starts[k]
        assert encoded.ids[k][:start].tolist() == list(tokenizer(prompt)["input_ids"])
        assert encoded.ids[k][start:].tolist() == ids_of(tokenizer, response)
        assert encoded.ids[len(items) + k].tolist() == list(tokenizer(response)["input_ids"])
        assert encoded.starts[len(items) + k] == 1


def test_a_template_sees_the_same_day_for_ever(toy_tokenizer: Callable[..., Any]) -> None:
    """Many templates write the date; a row would not be the same tomorrow."""
    tokenizer = toy_tokenizer()
    tokenizer.chat_template = "\n  {% if strftime_now is defined %}{{ strftime_now('%d %b %Y, 100%%') }}{% endif %}\n|"
    encoded = tokenise_pairs(followed(tokenizer), [Pair("a", "b")], "chat-template", name="toy")
    assert tokenizer.decode(encoded.ids[0]) == "\n26 Jul 2024, 100%|b"
    tokenizer.chat_template = tokenizer.chat_template.replace("%d %b %Y, 100%%", "(always)")
    plain = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    assert plain == "\n(always)|"  # white space is left as it is without the clock


def test_the_day_is_the_protocols() -> None:
    day = datetime.fromisoformat(PROMPT_DATE)
    assert {directive: day.strftime(directive) for directive in _CLOCK} == _CLOCK


def test_record_names_the_template(toy_tokenizer: Callable[..., Any]) -> None:
    tokenizer = followed(toy_tokenizer())
    tokenizer.library.chat_template = {"tool_use": "x", "default": TEMPLATE}
    encoded = tokenise_pairs(tokenizer, PAIRS, "chat-template", name="toy")
    assert prompt_provenance(tokenizer, "chat-template", encoded) == {
        "prompt_rendering": "chat-template",
        "chat_template": f"sha256:{sha256_text(TEMPLATE)}",
    }
    assert prompt_provenance(tokenizer, "raw", encoded) == {"prompt_rendering": "raw"}


@pytest.mark.parametrize(
    ("template", "kind", "told"),
    [
        (
            None,
            UnsupportedModelError,
            "toy has no chat template, and this registry's prompts go through it: .*--prompt raw",
        ),
        ({"a": "x", "b": "y"}, UnsupportedModelError, "toy has no one chat template: .*no default"),
        (
            "{{ raise_exception('no system messages') if messages[0]['role'] == 'system' else '' }}",
            ModelError,
            r"the chat template of toy on the prompt of pair 1 fails: .*no system messages; leave such pairs out",
        ),
        ("{{ messages[0]['content'] + 1 }}", ModelError, "on the prompt of pair 0 fails: TypeError"),
        ("{% for %}", ModelError, "on the prompt of pair 0 fails: TemplateSyntaxError"),
    ],
)
def test_templates_that_cannot_be_used(
    toy_tokenizer: Callable[..., Any], template: Any, kind: type[Exception], told: str
) -> None:
    tokenizer = toy_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(kind, match=told) as caught:
        tokenise_pairs(followed(tokenizer), PAIRS, "chat-template", name="toy")
    assert type(caught.value) is kind


def test_tokens_without_an_embedding(editable: ToyModel) -> None:
    folder = editable("gpt2")
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.add_tokens(["wonder"])
    backend.save(str(folder / "tokenizer.json"))
    model = open_model(folder)
    with pytest.raises(UnsupportedModelError, match="makes token id 300 and the model has 300 embeddings"):
        encode_pairs(model, [Pair("no wonder", "so")], "raw")


def test_no_pairs(toy_model: ToyModel) -> None:
    encoded = encode_pairs(open_model(toy_model("gpt2")), [], "raw")
    assert (encoded.ids, len(encoded.starts)) == ((), 0)


def test_special_tokens_in_responses_are_counted(toy_tokenizer: Callable[..., Any]) -> None:
    assert tokenise_pairs(followed(toy_tokenizer()), RAW, "raw", name="toy").special_token_texts == 1
