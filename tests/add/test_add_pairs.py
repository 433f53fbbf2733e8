"""`add` to registries of pairs, with real toy models that have a chat template or none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import SMALL_PAIRS, MakeRow
from tests.tools.rows import without_texts

from llreg.add.journal import Journal
from llreg.add.reporter import Reporter
from llreg.geometry.view.view import View
from llreg.locate import init
from llreg.registry import Registry
from llreg.store.rowfile import Row, row_path, write_row
from llreg_schemas import sha256_text

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

ToyModel = Callable[..., Path]

TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[assistant] "
N = len(SMALL_PAIRS)


@pytest.fixture(scope="session")
def chat_model(toy_model: ToyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy model with a chat template, as transformers saves one."""
    folder = Path(shutil.copytree(toy_model(), tmp_path_factory.mktemp("chat") / "chat"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="session")
def chat_row(chat_model: Path, small_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Row:
    """Its row, computed."""
    registry = init(tmp_path_factory.mktemp("chat") / "pairs", texts=small_pairs, prompt="chat-template")
    (result,) = registry.add([str(chat_model)])
    assert result.status == "added", result.message
    return registry.row("chat")


@pytest.fixture
def chat_registry(pair_registry: Registry, chat_row: Row) -> Registry:
    """A registry that has it."""
    write_row(pair_registry.path, chat_row)
    return pair_registry


class Recorder(Reporter):
    """A reporter that keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def plain(folder: Path, prompts: list[str], responses: list[str]) -> tuple[list[float], list[int]]:
    """Sums of ln p over the responses' tokens in float64, by transformers alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    sums, counts = [], []
    for prompt, response in zip(prompts, responses, strict=True):
        before, after = (tokenizer.encode(text, add_special_tokens=False) for text in (prompt, response))
        ids = torch.tensor([before + after])
        with torch.no_grad():
            log_p = module(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
        scored = log_p[max(len(before), 1) - 1 :]
        sums.append(float(scored.sum()) if len(scored) else np.nan)
        counts.append(len(scored))
    return sums, counts


def rendered(item: dict[str, Any]) -> str:
    """What the template makes of a prompt."""
    prompt = item["prompt"]
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return "".join(f"[{m['role']}] {m['content']}\n" for m in messages) + "[assistant] "


def test_values_are_those_of_the_definition(chat_model: Path, chat_row: Row) -> None:
    responses = [item["response"] for item in SMALL_PAIRS]
    for name, prompts in (("", [rendered(item) for item in SMALL_PAIRS]), ("_response", [""] * N)):
        sums, counts = plain(chat_model, prompts, responses)
        np.testing.assert_allclose(chat_row.arrays[f"log_likelihood{name}"], sums, rtol=2e-5)
        assert chat_row.arrays[f"num_tokens{name}"].tolist() == counts
    assert np.isnan(chat_row.arrays["log_likelihood_response"][4])  # a response of one token, and no BOS before it


def test_record(chat_registry: Registry, chat_row: Row) -> None:
    told = chat_row.record.provenance
    assert told["prompt_rendering"] == "chat-template"
    assert told["chat_template"] == f"sha256:{sha256_text(TEMPLATE)}"
    assert (told["tokens"], told["tokens_response"]) == (
        chat_row.num_tokens.sum(),
        chat_row.arrays["num_tokens_response"].sum(),
    )
    counts = [told[f"{name}{end}"] for name in ("over_context", "unscored") for end in ("", "_response")]
    assert counts == [0, 0, 0, 1]
    assert chat_registry.validate() == []
    (line,) = chat_registry.summary()
    bits = -chat_row.log_likelihood.astype(np.float64).sum() / np.log(2) / sum(chat_registry.texts.num_bytes)
    assert (line["texts_scored"], line["bits_per_byte"]) == (N, pytest.approx(bits))


def test_a_row_that_is_there_is_left(chat_registry: Registry, chat_model: Path, chat_row: Row) -> None:
    (result,) = chat_registry.add([str(chat_model)])
    assert (result.status, result.row_id) == ("present", chat_row.record.row_id)


def test_an_interrupted_run_goes_on(pair_registry: Registry, chat_model: Path, chat_row: Row, tmp_path: Path) -> None:
    """What was scored of either kind before is not scored again, and the row is the same."""

    class Interrupted(Reporter):
        seen = 0

        def advance(self, tokens: int) -> None:
            self.seen += 1
            if self.seen == 2:
                raise KeyboardInterrupt

    other = Registry(init(tmp_path / "other", texts=pair_registry.path / "texts.parquet", prompt="chat-template").path)
    with pytest.raises(KeyboardInterrupt):
        other.add([str(chat_model)], reporter=Interrupted(), batch_tokens=1)
    (path,) = (other.path / ".llreg" / "runs").glob("*.journal")
    kept = Journal(path).read()["text"]
    assert 0 < len(kept) < 2 * N
    assert kept.max() >= N  # of the responses alone, too
    (result,) = other.add([str(chat_model)], batch_tokens=1)
    assert result.status == "added"
    assert other.row("chat").record.digest == chat_row.record.digest


def test_raw(chat_model: Path, tmp_path: Path) -> None:
    items = [item for item in SMALL_PAIRS if isinstance(item["prompt"], str)]
    texts = tmp_path / "raw.jsonl"
    texts.write_text("".join(json.dumps(item) + "\n" for item in items))
    registry = init(tmp_path / "raw", texts=texts, prompt="raw")
    (result,) = registry.add([str(chat_model)])
    row = registry.row(result.row_id or result.message)
    sums, counts = plain(chat_model, [item["prompt"] for item in items], [item["response"] for item in items])
    np.testing.assert_allclose(row.log_likelihood, sums, rtol=2e-5)
    assert row.num_tokens.tolist() == counts
    assert row.record.provenance["prompt_rendering"] == "raw"
    assert "chat_template" not in row.record.provenance


def test_no_chat_template(pair_registry: Registry, toy_model: ToyModel) -> None:
    (result,) = pair_registry.add([str(toy_model())])
    assert result.status == "failed"
    assert result.message.startswith("toy has no chat template, and this registry's prompts go through it")
    assert pair_registry.records() == []


def test_subset(chat_registry: Registry, chat_model: Path, chat_row: Row) -> None:
    subset = chat_registry.subset(3, method="uniform", seed=1)
    (result,) = chat_registry.add([str(chat_model)], subset=subset, overwrite="always")
    row = chat_registry.row(result.row_id or result.message)
    assert chat_registry.cuts is not None
    expected = without_texts(chat_row, sorted({*range(N)} - {*subset["texts"]}), chat_registry.cuts)
    for name, array in expected.arrays.items():
        np.testing.assert_allclose(row.arrays[name], array, rtol=1e-5)
    assert np.isnan(row.arrays["log_likelihood_response"]).sum() >= N - 3
    assert chat_registry.validate() == []


def test_lacking_texts_are_completed(chat_registry: Registry, chat_row: Row, chat_model: Path) -> None:
    """A row that lacks pairs for no reason keeps what it has of both kinds, and gets the rest."""
    assert chat_registry.cuts is not None
    lacking = without_texts(chat_row, [0, 1], chat_registry.cuts)
    (chat_registry.path / row_path(chat_row.record)).unlink()
    write_row(chat_registry.path, lacking)
    recorder = Recorder()
    (result,) = chat_registry.add([str(chat_model)], reporter=recorder)
    assert recorder.notes == [f"chat: {2 * (N - 2) - 1} of {2 * N} texts are scored already; going on"]
    assert chat_registry.row(result.row_id or result.message).record.digest == chat_row.record.digest


def test_neighbours_of_a_model_that_is_scored_now(
    chat_registry: Registry, chat_model: Path, chat_row: Row, make_row: MakeRow
) -> None:
    from llreg.score import score_model

    write_row(chat_registry.path, make_row(chat_registry, "org/other", 1))
    vector = score_model(chat_registry, str(chat_model))
    assert vector.shape == (2, N)
    for name in ("conditional", "response", "pmi"):
        nearest = chat_registry.neighbors(vector, 1, view=View(vector=name)).nearest[0]  # type: ignore[arg-type]
        assert (nearest.model, nearest.kl) == ("chat", pytest.approx(0, abs=1e-9))
