"""`llreg add` with real toy models: what is computed, skipped, completed, refused and told."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tools.rows import without_texts

from llreg.add.reporter import Reporter
from llreg.add.request import read_requests
from llreg.add.task import Task
from llreg.registry import Registry
from llreg.store.rowfile import Row, write_row
from llreg_schemas import Identity
from llreg_schemas.errors import InputError, NotFoundError

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

Cli = Callable[..., Any]
ToyModel = Callable[..., Path]


class Recorder(Reporter):
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.begun: list[str] = []
        self.starts: list[tuple[str, int, int]] = []
        self.advanced = 0
        self.results: list[Any] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def begin(self, model: str) -> None:
        self.begun.append(model)

    def start(self, model: str, tokens: int, done: int) -> None:
        self.starts.append((model, tokens, done))

    def advance(self, tokens: int) -> None:
        self.advanced += tokens

    def finish(self, result: Any) -> None:
        self.results.append(result)


def _half_missing(row: Row, registry: Registry) -> Row:
    """The row with every other text NaN for no reason given, and the rest shifted so that rescoring would show."""
    assert registry.cuts is not None
    return without_texts(row, [0, 2, 4], registry.cuts, shift=-1, added_at="2026-01-01T00:00:00Z")


@pytest.fixture(scope="session")
def toy_row(tmp_path_factory: pytest.TempPathFactory, small_texts: Path, toy_model: ToyModel) -> Row:
    """The row of the toy model on the small text set."""
    from llreg.locate import init

    registry = init(tmp_path_factory.mktemp("toy") / "small", texts=small_texts)
    (result,) = registry.add([str(toy_model())])
    assert result.status == "added"
    return registry.row("toy")


def test_row_is_complete_and_valid(
    small_registry: Registry, toy_model: ToyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLREG_CONTRIBUTOR", "Ada Lövelace")
    recorder = Recorder()
    (result,) = small_registry.add([str(toy_model())], reporter=recorder)
    row = small_registry.row("toy")
    record = row.record
    assert (result.status, result.row_id) == ("added", record.row_id)
    assert result.message == f"added as {record.row_id}"
    assert recorder.results == [result]
    assert recorder.begun == [str(toy_model())]
    assert (record.identity.source, record.identity.weight_dtype) == ("local", "float32")
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", record.identity.revision or "")
    assert record.provenance["contributor"] == "Ada Lövelace"
    assert {"llreg", "torch", "transformers", "python"} <= set(record.provenance["versions"])
    assert record.provenance["device"]["type"] == "cpu"
    assert record.provenance["first_token_scored"] is False
    assert record.declared["architecture"] == "GPT2LMHeadModel"
    assert record.declared["num_parameters"] > 10_000
    assert np.isfinite(row.log_likelihood).all()
    assert (row.log_likelihood < 0).all()
    sizes = np.array(small_registry.texts.num_bytes)
    assert ((row.num_tokens > 0) & (row.num_tokens < sizes)).all()
    assert sum(tokens for _, tokens, _ in recorder.starts) == recorder.advanced
    assert small_registry.validate() == []
    assert list((small_registry.path / ".llreg" / "runs").glob("*.journal")) == []


def test_a_name_that_any_run_has(small_registry: Registry, toy_model: ToyModel, make_row: Any, tmp_path: Path) -> None:
    """Told when its row is added: the directory's name says nothing, or is the name of another model here."""
    folder = tmp_path / "run-a" / "checkpoint-500"
    shutil.copytree(toy_model(), folder)

    def advice(model: Path, **options: Any) -> str | None:
        return Task(small_registry, read_requests(small_registry, [str(model)], options)[0]).name_advice()

    said = advice(folder)
    assert said is not None
    assert said.startswith("checkpoint-500 is a name that any run may have")
    assert said.endswith("give it one of its own with --name, for example run-a-checkpoint-500")
    assert advice(folder, name="mine") is None
    assert advice(toy_model()) is None
    write_row(small_registry.path, make_row(small_registry, "mine", source="local", revision="sha256:" + "1" * 64))
    assert re.match(
        "mine is the name of other weights here, too .*for example mine-", advice(folder, name="mine") or ""
    )
    recorder = Recorder()
    small_registry.add([str(folder)], reporter=recorder, name="mine")
    assert [note for note in recorder.notes if "other weights" in note]
    (folder / "tokenizer.json").write_text("{}")
    assert small_registry.add([str(folder)], reporter=(failing := Recorder()))[0].status == "failed"
    assert not [note for note in failing.notes if "any run" in note]


def test_values_are_those_of_the_plain_formula(small_registry: Registry, toy_model: ToyModel, toy_row: Row) -> None:
    """One text, straight through transformers."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(toy_model())
    module = transformers.AutoModelForCausalLM.from_pretrained(toy_model()).eval()
    text = small_registry.texts.complete()[0]
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    logits = module(ids).logits[0, :-1].double().log_softmax(-1)
    expected = logits.gather(1, ids[0, 1:, None]).sum().item()
    assert toy_row.log_likelihood[0] == pytest.approx(expected, rel=1e-5)
    assert toy_row.num_tokens[0] == ids.shape[1] - 1


def test_same_model_twice_is_there_already(small_registry: Registry, toy_model: ToyModel, toy_row: Row) -> None:
    write_row(small_registry.path, toy_row)
    for overwrite in ("never", "only-missing"):
        recorder = Recorder()
        (result,) = small_registry.add([str(toy_model())], overwrite=overwrite, reporter=recorder)
        assert (result.status, result.row_id) == ("present", toy_row.record.row_id)
        assert "is there already as" in result.message
        assert recorder.starts == []  # nothing was loaded or scored
    assert len(small_registry.row_files()) == 1


def test_always_scores_again_and_says_that_it_is_equal(
    small_registry: Registry, toy_model: ToyModel, toy_row: Row
) -> None:
    write_row(small_registry.path, toy_row)
    recorder = Recorder()
    (result,) = small_registry.add([str(toy_model())], overwrite="always", reporter=recorder)
    assert (result.status, result.message) == (
        "present",
        f"gave exactly the row that is there, {toy_row.record.row_id}",
    )
    assert len(recorder.starts) == 1
    assert len(small_registry.row_files()) == 1


def test_retracted_row_is_not_added_again_unasked(small_registry: Registry, toy_model: ToyModel, toy_row: Row) -> None:
    write_row(small_registry.path, toy_row)
    small_registry.retract("toy", why="wrong tokenizer")
    recorder = Recorder()
    (result,) = small_registry.add([str(toy_model())], reporter=recorder)
    assert result.status == "failed"
    assert "was retracted (wrong tokenizer); to measure it again all the same: --overwrite always" in result.message
    assert recorder.starts == []
    (again,) = small_registry.add([str(toy_model())], overwrite="always")
    assert (again.status, again.message) == (
        "failed",
        f"it gave exactly the row that was retracted, {toy_row.record.row_id}; nothing was added",
    )
    assert small_registry.records() == []


def test_no_run_is_left_behind(small_registry: Registry, toy_model: ToyModel) -> None:
    runs = small_registry.path / ".llreg" / "runs"
    small_registry.add([str(toy_model())])
    assert list(runs.glob("*.journal")) == []
    assert small_registry.status()["unfinished"] == 0


def test_contributor_is_checked_before_anything_is_scored(
    small_registry: Registry, toy_model: ToyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLREG_CONTRIBUTOR", "Ann\tB")
    recorder = Recorder()
    with pytest.raises(InputError, match="LLREG_CONTRIBUTOR: expected one printable line"):
        small_registry.add([str(toy_model())], reporter=recorder)
    assert recorder.begun == []


class TestIncompleteRow:
    """A row of the same identity lacks half its texts."""

    @pytest.fixture
    def planted(self, small_registry: Registry, toy_row: Row) -> Row:
        row = _half_missing(toy_row, small_registry)
        write_row(small_registry.path, row)
        assert small_registry.validate() == []
        return row

    def test_never(self, small_registry: Registry, toy_model: ToyModel, planted: Row) -> None:
        (result,) = small_registry.add([str(toy_model())], overwrite="never")
        assert (result.status, result.row_id) == ("present", planted.record.row_id)
        assert len(small_registry.row_files()) == 1

    def test_only_missing(self, small_registry: Registry, toy_model: ToyModel, planted: Row, toy_row: Row) -> None:
        recorder = Recorder()
        (result,) = small_registry.add([str(toy_model())], reporter=recorder)
        assert result.status == "added"
        row = small_registry.row("toy")
        assert result.row_id == row.record.row_id
        assert row.log_likelihood[1::2].tobytes() == planted.log_likelihood[1::2].tobytes()  # bit for bit
        np.testing.assert_allclose(row.log_likelihood[::2], toy_row.log_likelihood[::2], rtol=1e-5)
        np.testing.assert_array_equal(row.num_tokens, toy_row.num_tokens)
        ((_, tokens, done),) = recorder.starts
        assert recorder.advanced == tokens - done == int((toy_row.num_tokens[::2] + 1).sum())
        assert "3 of 6 texts are scored already; going on" in recorder.notes[0]
        (retraction,) = small_registry.retractions().values()
        assert retraction["digest"] == planted.record.digest
        assert f"superseded by {row.record.row_id}" in retraction["why"]
        assert small_registry.validate() == []
        assert small_registry.add([str(toy_model())])[0].status == "present"

    def test_row_of_other_libraries_is_not_completed(
        self, small_registry: Registry, toy_model: ToyModel, toy_row: Row
    ) -> None:
        old = _half_missing(toy_row, small_registry)
        versions = {**old.record.provenance["versions"], "torch": "1.0"}
        provenance = {**old.record.provenance, "versions": versions}
        write_row(small_registry.path, replace(old, record=replace(old.record, provenance=provenance)))
        (result,) = small_registry.add([str(toy_model())])
        assert result.status == "failed"
        assert "was scored with other library versions" in result.message
        assert len(small_registry.row_files()) == 1

    def test_always(self, small_registry: Registry, toy_model: ToyModel, planted: Row, toy_row: Row) -> None:
        (result,) = small_registry.add([str(toy_model())], overwrite="always")
        assert (result.status, result.row_id) == ("added", toy_row.record.row_id)
        kept = {record.digest for record in small_registry.replicates(toy_row.record.identity)}
        assert kept == {planted.record.digest, toy_row.record.digest}
        assert small_registry.retractions() == {}


def test_texts_that_the_tokenizer_changes(small_registry: Registry, toy_model: ToyModel, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy_model(), tmp_path / "lower"))
    document = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**document, "normalizer": {"type": "Lowercase"}}))
    (result,) = small_registry.add([str(folder)])
    changed = sum(text != text.lower() for text in small_registry.texts.complete())
    provenance = small_registry.row("lower").record.provenance
    assert (provenance["altered_texts"], provenance["shortened_texts"]) == (changed, 0)
    assert f"{changed} texts are shown to the model as its tokenizer changes them" in result.message


def test_context_shorter_than_some_texts(small_registry: Registry, toy_model: ToyModel) -> None:
    short = toy_model("short", n_positions=45)
    (result,) = small_registry.add([str(short)])
    row = small_registry.row("short")
    missing = np.isnan(row.log_likelihood)
    assert 0 < missing.sum() < 6
    assert row.record.provenance["over_context"] == missing.sum()
    assert row.record.declared["context_length"] == 45
    assert (row.num_tokens[missing] == 0).all()
    assert (row.num_tokens[~missing] < 45).all()
    assert f"{missing.sum()} texts are longer than the model's context and NaN" in result.message
    assert small_registry.add([str(short)])[0].status == "present"  # the reason is known: nothing to complete
    assert small_registry.validate() == []


def test_context_shorter_than_every_text(small_registry: Registry, toy_model: ToyModel) -> None:
    (result,) = small_registry.add([str(toy_model("tiny", n_positions=4))])
    assert result.status == "failed"
    assert "can score none of the 6 texts" in result.message
    assert small_registry.row_files() == {}


def test_overflow_in_float16_is_refused_with_advice(small_registry: Registry, toy_model: ToyModel) -> None:
    loud = str(toy_model("loud", gain=3e3))
    (result,) = small_registry.add([loud], dtype="float16")
    assert (result.status, result.row_id) == ("failed", None)
    assert "loud gives NaN or inf in float16" in result.message
    assert "no row was written: use --dtype bfloat16 or --dtype float32" in result.message
    assert small_registry.row_files() == {}
    assert list((small_registry.path / ".llreg" / "runs").glob("*.journal")) == []
    assert small_registry.add([loud], dtype="float32")[0].status == "added"


def test_dtypes_are_different_measurements(small_registry: Registry, toy_model: ToyModel) -> None:
    for dtype in ("float32", "bfloat16"):
        assert small_registry.add([str(toy_model())], dtype=dtype)[0].status == "added"
    records = small_registry.records()
    assert [record.identity.weight_dtype for record in records] == ["float32", "bfloat16"]
    assert small_registry.kl()["kl"].values[0, 1] > 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"overwrite": "sometimes"}, "overwrite: expected one of never, only-missing, always; got 'sometimes'"),
        ({"batch_tokens": 0}, "batch_tokens: expected at least 1; got 0"),
        ({"name": "x"}, "name goes with one model; got 2"),
        ({"revision": "main"}, "revision goes with one model; got 2"),
    ],
)
def test_options_that_do_not_fit(small_registry: Registry, options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        small_registry.add(["a", "b"], **options)


def test_texts_that_are_not_copied(small_registry: Registry, toy_model: ToyModel) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = small_registry.path / "texts.parquet"
    columns = pq.read_table(path).to_pydict()
    columns["text"][0] = None
    pq.write_table(pa.table(columns), path)
    with pytest.raises(NotFoundError, match="1 of 6 texts of six are not copied"):
        Registry(small_registry.path).add([str(toy_model())])


def test_name_of_a_local_model(small_registry: Registry, toy_model: ToyModel) -> None:
    (result,) = small_registry.add([str(toy_model())], name="org/my-toy")
    assert (result.row_id or "").startswith("org/my-toy@")
    assert isinstance(small_registry.find("org/my-toy").identity, Identity)


class TestCommand:
    """`llreg add` itself."""

    def test_many_models_of_which_one_fails(self, cli: Cli, toy_model: ToyModel, tmp_path: Path) -> None:
        """--from-file with comments, into one's own registry; a failure stops nothing, is named, and makes the code 1."""
        (tmp_path / "broken").mkdir()
        sizes = {"n_layer": 1, "n_embd": 16, "n_head": 1}  # their own registry has 128 texts
        names = [toy_model(**sizes), tmp_path / "broken", toy_model("second", seed=1, **sizes)]
        listed = tmp_path / "models.txt"
        listed.write_text(f"# three\n\n{names[0]}   # the first\n  {names[1]}\n{names[2]}")
        result = cli("add", "--from-file", listed, "--json")
        assert result.code == 1
        assert [entry["status"] for entry in json.loads(result.out)] == ["added", "failed", "added"]
        own = Registry(Path(os.environ["XDG_DATA_HOME"]) / "llreg" / "default")
        assert [record.identity.model for record in own.records()] == ["toy", "second"]
        assert "made your own registry on the text set mini" in result.err
        assert re.search(r"toy: added as toy@[0-9a-f]{8}", result.err)
        assert len([line for line in result.err.splitlines() if f"{names[1]}: " in line]) == 1
        assert f"2 added, 0 present, 1 failed: {names[1]}" in result.err
        assert "Traceback" not in result.err
        assert "\r" not in result.err
        assert "\u001b" not in result.err

    def test_quiet_prints_ids_and_failures_only(
        self, cli: Cli, small_registry: Registry, toy_model: ToyModel, toy_row: Row, tmp_path: Path
    ) -> None:
        write_row(small_registry.path, toy_row)
        (tmp_path / "broken").mkdir()
        result = cli("-r", small_registry.path, "add", toy_model(), tmp_path / "broken", "-q")
        assert (result.code, result.out) == (1, f"{toy_row.record.row_id}\n")
        assert f"{tmp_path / 'broken'}: " in result.err
        assert "is there already" not in result.err

    def test_list_that_is_no_text(self, cli: Cli, small_registry: Registry, tmp_path: Path) -> None:
        (tmp_path / "list").write_bytes(b"\xff\xfe")
        result = cli("-r", small_registry.path, "add", "--from-file", tmp_path / "list")
        assert (result.code, result.out) == (1, "")
        assert "expected UTF-8 text, a model a line" in result.err
