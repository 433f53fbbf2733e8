"""Plans against what an `add` then does, and every problem that a plan can tell."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llreg.add import add
from llreg.registry import Registry
from llreg.store.rowfile import Row, write_row
from llreg_schemas.errors import InputError, NotFoundError

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

from llreg.add.plan import Plan, PlannedModel, plan

ToyModel = Callable[..., Path]
MakeRow = Callable[..., Row]


def _one(registry: Registry, model: Any, **options: Any) -> PlannedModel:
    (found,) = plan(registry, [model], **options).models
    return found


def test_a_model_that_is_there_to_be_added(small_registry: Registry, toy_model: ToyModel) -> None:
    made = plan(small_registry, [str(toy_model())], dtype="bfloat16")
    (found,) = made.models
    assert (found.state, found.problem, found.row_id) == ("to do", None, None)
    assert (found.name, found.dtype, found.device) == ("toy", "bfloat16", "cpu")
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", found.revision or "")
    assert found.num_parameters is not None
    assert found.memory_bytes == int(found.num_parameters * 2 * 1.2) + (512 << 20)
    assert (found.download_bytes, made.download_bytes) == (0, 0)
    assert found.texts == 6
    assert found.tokens == round(sum(small_registry.texts.num_bytes) / 4)
    assert (found.seconds, made.seconds) == (None, None)  # no row yet to know a speed from
    assert made.problems == []
    assert made.good == [str(toy_model())]
    assert made.disk_free > 0


def test_planning_writes_nothing(small_registry: Registry, toy_model: ToyModel) -> None:
    before = sorted(small_registry.path.rglob("*"))
    plan(small_registry, [str(toy_model()), "./nowhere"])
    assert sorted(small_registry.path.rglob("*")) == before


def test_what_was_added_is_present(small_registry: Registry, toy_model: ToyModel) -> None:
    (result,) = add.add(small_registry, [{"model": str(toy_model()), "dtype": "bfloat16"}], dtype="float32")
    record = small_registry.find("toy")
    assert (result.status, record.identity.weight_dtype) == ("added", "bfloat16")
    found = _one(small_registry, {"model": str(toy_model()), "dtype": "bfloat16"})
    assert (found.state, found.row_id, found.texts, found.tokens) == ("present", record.row_id, 0, 0)
    assert _one(small_registry, str(toy_model())).state == "to do"  # in float32
    assert _one(small_registry, str(toy_model()), dtype="bfloat16", overwrite="always").state == "to do"
    small_registry.retract("toy", why="a test")
    problem = _one(small_registry, str(toy_model()), dtype="bfloat16").problem or ""
    assert "was retracted (a test); to measure it again all the same: --overwrite always" in problem


def test_what_is_left_of_a_run_and_of_a_row(small_registry: Registry, toy_model: ToyModel) -> None:
    import numpy as np

    from llreg.add.journal import make_entries
    from llreg.add.request import read_requests
    from llreg.add.task import Task

    model = str(toy_model())
    sizes = small_registry.texts.num_bytes
    (request,) = read_requests(small_registry, [model], {})
    journal = Task(small_registry, request).journal
    done = np.array([1, 4])
    counts, segments = np.array([3, 3]), [np.array([-800, -480], np.int32), np.array([-1536, 0], np.int32)]
    values = np.array([-5.0, -6.0])
    with journal.writing(make_entries(done, values, counts, counts, np.zeros(2, np.int32), segments)):
        pass
    found = _one(small_registry, model)
    assert (found.state, found.texts) == ("unfinished", 4)
    assert found.tokens == round((sum(sizes) - sizes[1] - sizes[4]) / 4)
    assert _one(small_registry, model, overwrite="always").state == "to do"
    assert add.add(small_registry, [model])[0].status == "added"
    assert _one(small_registry, model).state == "present"


def test_a_row_that_lacks_texts(small_registry: Registry, toy_model: ToyModel, make_row: MakeRow) -> None:
    import numpy as np

    from llreg.add.request import read_requests
    from llreg.add.task import Task
    from llreg_schemas import row_digest

    model = str(toy_model())
    (request,) = read_requests(small_registry, [model], {})
    row = make_row(small_registry, "toy")
    values, tokens = row.log_likelihood.copy(), row.num_tokens.copy()
    values[:2], tokens[:2] = np.nan, 0
    identity = Task(small_registry, request).identity
    provenance = {**row.record.provenance, "tokens": int(tokens.sum()), "over_context": 0}
    digest = row_digest(identity.to_json(), values, tokens)
    record = replace(row.record, identity=identity, provenance=provenance, digest=digest)
    write_row(small_registry.path, Row(record, values, tokens))
    found = _one(small_registry, model)
    assert (found.state, found.texts) == ("incomplete", 2)
    assert _one(small_registry, model, overwrite="never").state == "present"


def test_a_subset_costs_its_texts_only(small_registry: Registry, toy_model: ToyModel, tmp_path: Path) -> None:
    from llreg.store.subsets import dump_subset

    subset = small_registry.subset(3, method="uniform")
    (tmp_path / "subset.json").write_bytes(dump_subset(subset))
    made = plan(
        small_registry, [{"model": str(toy_model()), "subset": str(tmp_path / "subset.json")}, str(toy_model())]
    )
    assert [model.texts for model in made.models] == [3, 6]
    sizes = small_registry.texts.num_bytes
    assert made.models[0].tokens == round(sum(sizes[text] for text in subset["texts"]) / 4)
    results = add.add(small_registry, made.good)
    assert [result.status for result in results] == ["added", "added"]
    assert [record.identity.subset for record in small_registry.records()] == [subset["id"], None]


class TestTime:
    """Estimated from rows made on a device of the same name."""

    def _row(self, registry: Registry, make_row: MakeRow, k: int, device: str, **over: Any) -> None:
        parameters = over.pop("parameters")
        row = make_row(
            registry,
            f"org/m{k}",
            k,
            declared={"num_parameters": parameters},
            provenance={"device": {"type": "cpu", "name": device}, "seconds": over.pop("seconds")},
            **over,
        )
        write_row(registry.path, row)

    def test_by_parameters_and_tokens(self, small_registry: Registry, toy_model: ToyModel, make_row: MakeRow) -> None:
        import llreg_extract

        here = llreg_extract.device_memory("cpu").name
        tokens = int(make_row(small_registry).num_tokens.sum())
        self._row(small_registry, make_row, 0, here, parameters=10**6, seconds=100.0)
        self._row(small_registry, make_row, 1, "another device", parameters=10**6, seconds=1e9)
        self._row(small_registry, make_row, 2, here, parameters=10**6, seconds=1e9, weight_dtype="float16")
        self._row(small_registry, make_row, 3, here, parameters=0, seconds=5.0)
        found = _one(small_registry, str(toy_model()))
        assert found.num_parameters is not None
        assert found.tokens == tokens  # as many as these rows took
        assert found.seconds == pytest.approx(100.0 / tokens / 10**6 * found.num_parameters * found.tokens)

    def test_rows_of_nearest_size_and_their_median(
        self, small_registry: Registry, toy_model: ToyModel, make_row: MakeRow
    ) -> None:
        import llreg_extract

        here = llreg_extract.device_memory("cpu").name
        size = _one(small_registry, str(toy_model())).num_parameters or 0
        tokens = int(make_row(small_registry).num_tokens.sum())
        for k, seconds in enumerate([1.0, 2.0, 3.0, 40.0, 50.0]):
            self._row(small_registry, make_row, k, here, parameters=size + k, seconds=seconds)
        for k in range(5, 12):
            self._row(small_registry, make_row, k, here, parameters=1000 * size, seconds=1e6)
        found = _one(small_registry, str(toy_model()))
        assert found.seconds == pytest.approx(3.0 / tokens * found.tokens, rel=1e-3)


class TestProblems:
    """Told for each model; the others go on."""

    def test_of_local_models(self, small_registry: Registry, toy_model: ToyModel, tmp_path: Path) -> None:
        bare = Path(shutil.copytree(toy_model(), tmp_path / "bare"))
        (bare / "tokenizer.json").unlink()
        (tmp_path / "empty").mkdir()
        models = [str(toy_model()), str(bare), str(tmp_path / "empty"), str(tmp_path / "nothing")]
        made = plan(small_registry, models)
        assert made.good == models[:1]
        told = dict(zip(models[1:], (model.problem or "" for model in made.problems), strict=True))
        assert "bare has no tokenizer" in told[str(bare)]
        assert "has no weights" in told[str(tmp_path / "empty")]
        assert "does not exist: check the path" in told[str(tmp_path / "nothing")]
        assert all("\n" not in problem for problem in told.values())

    def test_too_large_for_the_device(self, small_registry: Registry, toy_model: ToyModel, tmp_path: Path) -> None:
        """Its header claims more parameters than any machine holds; no byte of them is there."""
        gguf = pytest.importorskip("gguf")
        import numpy as np

        huge = tmp_path / "huge.gguf"
        writer = gguf.GGUFWriter(huge, "llama")
        writer.add_tensor("token_embd.weight", np.zeros((300, 32), dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        size = (300).to_bytes(8, "little")
        data = huge.read_bytes()
        assert data.count(size) == 1
        huge.write_bytes(data.replace(size, (300 << 40).to_bytes(8, "little")))
        made = plan(small_registry, [str(huge), str(toy_model())])
        problem = made.models[0].problem or ""
        assert re.search(r"it needs about [\d,]+ TiB of memory in float32 and .* has left .*: use a larger", problem)
        assert [model.state for model in made.models] == ["problem", "to do"]

    @pytest.mark.parametrize(
        ("model", "options", "told"),
        [
            ("a/b", {"dtpye": "auto"}, r"no option 'dtpye': did you mean dtype\?"),
            ({"model": "a/b", "dtpye": "auto"}, {}, r"no option 'dtpye': did you mean dtype\?"),
            ({"dtype": "auto"}, {}, "expected a model's name, or a mapping with a 'model'"),
            ({"model": "a/b", "overwrite": "sometimes"}, {}, "overwrite: expected one of never, only-missing, always"),
            ({"model": "a/b", "batch_tokens": 0}, {}, "batch_tokens: expected at least 1; got 0"),
            ({"model": "a/b", "subset": "nowhere.json"}, {}, r"nowhere\.json: expected a subset file"),
        ],
    )
    def test_options_are_wrong_before_anything_is_looked_up(
        self, small_registry: Registry, model: Any, options: dict[str, Any], told: str
    ) -> None:
        for work in (plan, add.add):
            with pytest.raises(InputError, match=told):
                work(small_registry, ["org/first", model], **options)

    def test_texts_that_are_not_copied(self, small_registry: Registry, toy_model: ToyModel) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = small_registry.path / "texts.parquet"
        columns = pq.read_table(path).to_pydict()
        columns["text"][0] = None
        pq.write_table(pa.table(columns), path)
        with pytest.raises(NotFoundError, match="1 of 6 texts of six are not copied"):
            plan(Registry(small_registry.path), [str(toy_model())])


def test_the_plan_as_json(small_registry: Registry, toy_model: ToyModel) -> None:
    made: Plan = plan(small_registry, [str(toy_model()), "no where"])
    document = made.to_json()
    assert [model["state"] for model in document["models"]] == ["to do", "problem"]
    assert (document["problems"], document["download_bytes"], document["seconds"]) == (1, 0, None)
    assert document["devices"]["cpu"]["num_bytes"] > 0


def test_a_run_that_is_planned_first(small_registry: Registry, toy_model: ToyModel) -> None:
    """A problem fails untried; what the check raises ends the run before it begins."""
    models, plans = ["no where", str(toy_model())], []
    results = add.add(small_registry, models, on_plan=plans.append)
    assert [result.status for result in results] == ["failed", "added"]
    assert results[0].message == plans[0].models[0].problem

    def refuse(plan: Plan) -> None:
        raise InputError("nothing was added")

    with pytest.raises(InputError, match="nothing was added"):
        add.add(small_registry, models, on_plan=refuse, overwrite="always")
    with pytest.raises(InputError, match="on_plan gets what this machine can do, and not a cluster elsewhere"):
        add.add(small_registry, models, on_plan=refuse, cluster="tcp://127.0.0.1:9")
