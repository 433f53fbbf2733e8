"""Rows of models as users hold them: an adapter, packed weights, a folder, code of its own; from `add` to what is shown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import llreg_extract
from llreg.registry import Registry
from llreg.store.rowfile import write_row
from llreg_schemas.errors import InputError

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]

Cli = Callable[..., Any]
ToyModel = Callable[..., Path]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, toy_model: ToyModel) -> Path:
    """A LoRA adapter on the toy model."""
    peft = pytest.importorskip("peft")
    import transformers

    module = transformers.AutoModelForCausalLM.from_pretrained(toy_model())
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM", target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False
    )
    folder = tmp_path_factory.mktemp("adapters") / "my-adapter"
    peft.get_peft_model(module, settings).save_pretrained(folder)
    return folder


def test_an_adapters_row(small_registry: Registry, toy_model: ToyModel, adapter: Path) -> None:
    results = small_registry.add([str(adapter), str(toy_model())])
    assert [result.status for result in results] == ["added", "added"]
    row, base = small_registry.find("my-adapter"), small_registry.find("toy")
    assert row.row_id == results[0].row_id == f"my-adapter@{row.digest[:8]}"
    assert row.identity.to_json() == {
        **base.identity.to_json(),
        "adapter": {"model": "my-adapter", "revision": (row.identity.adapter or {})["revision"]},
    }
    assert "peft" in row.provenance["versions"]
    assert small_registry.add([str(adapter)])[0].status == "present"
    assert small_registry.validate() == []
    small_registry.build()
    assert [(line["model"], line["base"]) for line in small_registry.summary()] == [
        ("my-adapter", "toy"),
        ("toy", None),
    ]
    (nearest,) = small_registry.neighbors("my-adapter", k=1).nearest
    assert (nearest.model, nearest.relation) == ("toy", "declared base")
    assert nearest.kl > 0


@pytest.mark.parametrize(("quantize", "label"), [("int8", "bitsandbytes:int8"), ("int4", "bitsandbytes:nf4")])
def test_a_row_of_packed_weights(small_registry: Registry, toy_model: ToyModel, quantize: str, label: str) -> None:
    pytest.importorskip("bitsandbytes")
    results = small_registry.add([str(toy_model()), {"model": str(toy_model()), "quantize": quantize}])
    plain, packed = (small_registry.find(str(result.row_id)) for result in results)
    assert packed.identity.to_json() == {**plain.identity.to_json(), "quantization": label}
    assert packed.digest != plain.digest
    assert "bitsandbytes" in packed.provenance["versions"]
    with pytest.raises(InputError, match=rf"toy has 2 rows; .*\(float32\), toy@\w+ \(float32, {label}\)"):
        small_registry.find("toy")
    assert small_registry.summary()[1]["weights"] == f"float32 ({label})"


def test_a_checkpoint_whose_library_is_missing_fails_alone(
    small_registry: Registry, toy_model: ToyModel, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(toy_model(), tmp_path / "fancy"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "novel"}}))
    results = small_registry.add([str(folder), str(toy_model())])
    assert [result.status for result in results] == ["failed", "added"]
    assert results[0].message.startswith("fancy is quantised with novel and cannot be loaded on ")


REMOTE = """
from transformers import GPT2Config, GPT2LMHeadModel
class NovelConfig(GPT2Config):
    model_type = "novel"
class NovelModel(GPT2LMHeadModel):
    config_class = NovelConfig
"""


def test_code_of_a_models_own(
    small_registry: Registry, toy_model: ToyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = Path(shutil.copytree(toy_model(), tmp_path / "novel"))
    (folder / "modeling_novel.py").write_text(REMOTE)
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "modeling_novel.NovelConfig", "AutoModelForCausalLM": "modeling_novel.NovelModel"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "novel", "auto_map": names}))
    (refused,) = small_registry.add([str(folder)])
    assert refused.message == "novel needs trust_remote_code: add --trust-remote-code if you trust its code"
    (added,) = small_registry.add([str(folder)], trust_remote_code=True)
    record = small_registry.find("novel")
    assert (added.status, record.provenance["trust_remote_code"]) == ("added", True)
    small_registry.add([str(toy_model())])
    assert (small_registry.values([record]) == small_registry.values([small_registry.find("toy")])).all()
    (folder / "modeling_novel.py").write_text(REMOTE + "# other code\n")
    pinned = llreg_extract.resolve(str(folder), trust_remote_code=True)
    assert pinned.revision != record.identity.revision


def test_the_commands(
    cli: Cli, small_registry: Registry, toy_model: ToyModel, adapter: Path, tmp_path: Path, make_row: Callable[..., Any]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(adapter, run / "checkpoint-9")
    other = toy_model(name="other", seed=1)
    label = "bitsandbytes:nf4" if find_spec("bitsandbytes") else None
    args = ["add", run, "--subfolder", "checkpoint-9", "--base", other, *(["--quantize", "int4"] if label else [])]
    planned = cli("-r", small_registry.path, *args, "--dry-run", "--json")
    (model,) = json.loads(planned.out)["models"]
    assert (model["name"], model["base"], model["subfolder"]) == ("run", "other", "checkpoint-9")
    assert (model["state"], model["quantization"], model["download_bytes"]) == ("to do", label, 0)
    write_row(small_registry.path, make_row(small_registry, adapter={"model": "me/lora", "revision": "a" * 40}))
    assert "me/lora (on a/b)" in cli("-r", small_registry.path, "ls").out
    assert small_registry.find("me/lora").identity.model == "a/b"


def test_one_models_missing_library_does_not_stop_the_others(
    small_registry: Registry, toy_model: ToyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "llreg_extract.libraries.find_spec", lambda name: None if name == "bitsandbytes" else find_spec(name)
    )
    results = small_registry.add([{"model": str(toy_model()), "quantize": "int8"}, str(toy_model())])
    assert [result.status for result in results] == ["failed", "added"]
    assert results[0].message == 'bitsandbytes is needed here and not installed: pip install "llreg[quantize]"'
