"""Registries of (prompt, response) pairs: the text set, row files with four arrays, and builds."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import xarray as xr
from tests.conftest import SMALL_PAIRS, Cli, MakeRow

from llreg.locate import init
from llreg.registry import Registry
from llreg.store.arrays import PAIR_VARIABLES, TEXT_VARIABLES, store_variables
from llreg.store.fine import store_form
from llreg.store.layout import STORE
from llreg.store.rowfile import Row, parse_row, read_row, to_zip, write_row
from llreg.store.zarr_read import StoreReader
from llreg.texts.textset import load_texts
from llreg_schemas import Message, Pair, conditional_protocol, hash_json, pretty_json
from llreg_schemas.errors import InputError, InvalidFileError

N = len(SMALL_PAIRS)


@pytest.fixture
def rows(pair_registry: Registry, make_row: MakeRow) -> list[Row]:
    """Three rows of random values, one of which lacks values of either kind; none is written."""
    made = [make_row(pair_registry, f"org/m{k}", k) for k in range(2)]
    values = -np.arange(1.0, N + 1)
    given, alone = np.where(np.arange(N) == 1, np.nan, values), np.where(np.arange(N) > 3, np.nan, values * 1.5)
    return [*made, make_row(pair_registry, "org/m2", 2, log_likelihood=given, log_likelihood_response=alone)]


def lines(path: Path, *items: Any) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


class TestTextSet:
    def test_ids_are_of_prompt_and_response(self, small_pairs: Path) -> None:
        """The definition, by hand: canonical JSON of an item, its sha256, and the sha256 of these."""
        plain = [{"prompt": item["prompt"], "response": item["response"]} for item in SMALL_PAIRS]
        texts = [json.dumps(item, sort_keys=True, separators=(",", ":"), ensure_ascii=False) for item in plain]
        hashes = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
        made = load_texts(small_pairs)
        assert list(made.sha256) == hashes
        assert made.info.id == hashlib.sha256("".join(f"{digest}\n" for digest in hashes).encode()).hexdigest()

    def test_sizes_are_of_responses(self, small_pairs: Path) -> None:
        made = load_texts(small_pairs)
        assert list(made.num_bytes) == [len(item["response"].encode()) for item in SMALL_PAIRS]
        assert made.info.mean_bytes == sum(made.num_bytes) / N
        assert made.prompt_bytes[0] == len(SMALL_PAIRS[0]["prompt"])
        assert made.prompt_bytes[1] == sum(len(message["content"].encode()) for message in SMALL_PAIRS[1]["prompt"])
        assert (made.info.kind, made.info.mean_prompt_bytes) == ("pairs", sum(made.prompt_bytes) / N)
        assert list(made.info.subsets) == ["facts", "talk", "code", "all"]

    def test_registry_keeps_them(self, pair_registry: Registry, small_pairs: Path) -> None:
        back = Registry(pair_registry.path)
        assert back.texts.texts == load_texts(small_pairs).texts
        assert back.texts.complete([4]) == [Pair("2 + 2 =", "4")]
        assert back.texts.complete([1])[0].prompt[-1] == Message("user", "Und wo liegt das?")
        assert (back.rendering, back.info["protocol"]["name"]) == ("chat-template", "conditional-1")
        assert back.info["protocol"] == conditional_protocol(back.texts.info.id, "chat-template")
        assert back.validate() == []

    def test_parquet_says_what_it_is(self, pair_registry: Registry) -> None:
        table = pq.read_table(pair_registry.path / "texts.parquet").to_pydict()
        assert table["text"] == [None] * N
        assert table["response"] == [item["response"] for item in SMALL_PAIRS]
        assert table["prompt"] == [None if k == 1 else item["prompt"] for k, item in enumerate(SMALL_PAIRS)]
        assert table["messages"] == [item["prompt"] if k == 1 else None for k, item in enumerate(SMALL_PAIRS)]

    def test_another_registry_takes_it(self, pair_registry: Registry, tmp_path: Path) -> None:
        other = init(tmp_path / "other", texts=pair_registry.path / "texts.parquet", prompt="chat-template")
        assert other.info["protocol"]["id"] == pair_registry.info["protocol"]["id"]

    def test_rendering_is_part_of_the_protocol(self, tmp_path: Path) -> None:
        texts = lines(tmp_path / "x.jsonl", {"prompt": "a", "response": "b"})
        both = [init(tmp_path / prompt, texts=texts, prompt=prompt) for prompt in ("raw", "chat-template")]  # type: ignore[arg-type]
        assert both[0].info["text_set"]["id"] == both[1].info["text_set"]["id"]
        assert both[0].info["protocol"]["id"] != both[1].info["protocol"]["id"]

    @pytest.mark.parametrize(
        ("items", "prompt", "told"),
        [
            ([{"prompt": "a", "response": "b"}, {"text": "c"}], "raw", "item 2 is a text and item 1 is not"),
            ([{"text": "c"}, {"prompt": "a", "response": "b"}], "raw", "item 2 is a pair and item 1 is not"),
            ([{"prompt": "a", "response": "b"}], None, "say how models shall see them, --prompt chat-template"),
            ([{"prompt": "a", "response": "b"}], "jinja", "--prompt raw (as they are); got 'jinja'"),
            ([{"text": "c"}], "raw", "prompt 'raw' is for pairs of prompt and response"),
            ([{"prompt": "a"}], "raw", r"x.jsonl:1: response: expected a value; the field is missing"),
            ([{"response": "a"}], "raw", r"x.jsonl:1: prompt: expected a value; the field is missing"),
            ([{"prompt": "a", "response": " \n"}], "raw", "pair 1 is empty"),
            ([{"prompt": "a", "response": "b"}] * 2, "raw", "pair 2 repeats pair 1"),
            ([{"prompt": "a", "response": "\ud800"}], "raw", "pair 1 is not valid Unicode"),
            (
                [{"prompt": [{"role": "assistant", "content": "a"}], "response": "b"}],
                "chat-template",
                "pair 1: expected a prompt that ends with a message of the user; got assistant",
            ),
            (
                [{"prompt": [{"role": "user", "content": "a"}], "response": "b"}],
                "raw",
                "the prompt of pair 1 is a list of messages, which only a chat template can render",
            ),
        ],
    )
    def test_what_is_no_set_of_pairs(self, tmp_path: Path, items: list[Any], prompt: Any, told: str) -> None:
        path = lines(tmp_path / "x.jsonl", *items)
        with pytest.raises((InputError, InvalidFileError)) as caught:
            init(tmp_path / "r", texts=path, prompt=prompt)
        assert told in str(caught.value)
        assert not (tmp_path / "r").exists()

    @pytest.mark.parametrize(
        ("column", "value", "told"),
        [
            ("response", "Am Rhein.", "text 1 was changed"),
            ("prompt", "Name the capital of Spain.", "text 0 was changed"),
            ("messages", [{"role": "user", "content": "Wie?"}], "text 1 was changed"),
            (
                "messages",
                [{"role": "narrator", "content": "Wie?"}],
                "text 1: expected a response, and either a prompt or",
            ),
            ("messages", [], "text 1: expected a response, and either a prompt or messages"),
            ("messages", [{"role": "user", "content": None}], "text 1: expected a response, and either a prompt or"),
            ("prompt", None, "text 0: expected a response, and either a prompt or messages"),
            ("response", None, "text 1: expected a response, and either a prompt or messages"),
            ("prompt_bytes", 4, "prompt_bytes: expected"),
        ],
    )
    def test_changed_texts_are_found(self, pair_registry: Registry, column: str, value: Any, told: str) -> None:
        path = pair_registry.path / "texts.parquet"
        table = pq.read_table(path)
        values = table[column].to_pylist()
        values[0 if column == "prompt" else 1] = value
        place = table.column_names.index(column)
        import pyarrow as pa

        pq.write_table(table.set_column(place, column, pa.array(values, table.schema.field(column).type)), path)
        with pytest.raises(InvalidFileError, match=told):
            Registry(pair_registry.path).texts  # noqa: B018

    def test_header_and_protocol_belong_together(self, pair_registry: Registry, small_registry: Registry) -> None:
        path = pair_registry.path / "registry.json"
        document = json.loads(path.read_text())
        rules = {**small_registry.info["protocol"], "text_set": document["text_set"]["id"]}
        rules.pop("id")
        path.write_text(pretty_json({**document, "protocol": {**rules, "id": hash_json(rules)}}))
        with pytest.raises(InvalidFileError, match="text_set: expected the protocol conditional-1, kind pairs"):
            Registry(pair_registry.path)


class TestRowFile:
    def test_reads_back(self, pair_registry: Registry, rows: list[Row]) -> None:
        for row in rows:
            back = read_row(write_row(pair_registry.path, row), N)
            assert (list(back.arrays), back.record) == (list(PAIR_VARIABLES), row.record)
            for name, array in row.arrays.items():
                np.testing.assert_array_equal(back.arrays[name], array)
                assert back.arrays[name].dtype == array.dtype
        assert Registry(pair_registry.path).validate() == []

    def test_opens_in_other_tools(self, pair_registry: Registry, rows: list[Row]) -> None:
        from zarr.storage import ZipStore

        path = write_row(pair_registry.path, rows[0])
        data = xr.open_zarr(ZipStore(path, mode="r"), consolidated=False)
        assert sorted(data.data_vars) == sorted(PAIR_VARIABLES)  # of a row without segments
        assert data["log_likelihood"].attrs["long_name"] == "log-likelihood of the response, given its prompt"
        np.testing.assert_array_equal(data["log_likelihood_response"].values, rows[0].arrays["log_likelihood_response"])

    def test_digest_covers_the_responses(self, pair_registry: Registry, rows: list[Row]) -> None:
        """As documented: identity, newline, and all four arrays one after the other."""
        row = rows[0]
        text = json.dumps(row.record.identity.to_json(), sort_keys=True, separators=(",", ":")).encode() + b"\n"
        values = b"".join(array.astype(array.dtype.newbyteorder("<")).tobytes() for array in row.arrays.values())
        assert row.record.digest == hashlib.sha256(text + values).hexdigest()
        for name in ("log_likelihood_response", "num_tokens_response"):
            changed = row.arrays[name].copy()
            changed[0] -= 1
            with pytest.raises(InvalidFileError, match="digest: expected the digest of the values"):
                parse_row(to_zip(replace(row, **{name: changed})), N, label="row")

    @pytest.mark.parametrize(
        "name", ["log_likelihood_response/zarr.json", "num_tokens_response/c/0", "num_tokens/c/0", "log_likelihood/c/0"]
    )
    def test_a_member_less_is_refused(self, rows: list[Row], name: str) -> None:
        with zipfile.ZipFile(io.BytesIO(to_zip(rows[0]))) as archive:
            members = {entry: archive.read(entry) for entry in archive.namelist() if entry != name}
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for entry, data in members.items():
                archive.writestr(entry, data)
        with pytest.raises(InvalidFileError, match="expected the members"):
            parse_row(buffer.getvalue(), N, label="row")

    def test_rows_of_texts_are_refused_here(self, pair_registry: Registry, rows: list[Row]) -> None:
        halved = replace(rows[0], log_likelihood_response=None, num_tokens_response=None)
        with pytest.raises(
            InvalidFileError, match="expected the arrays log_likelihood, num_tokens, log_likelihood_resp"
        ):
            pair_registry.check_row(halved, "row")

    def test_rows_of_pairs_are_refused_elsewhere(
        self, small_registry: Registry, make_row: MakeRow, rows: list[Row]
    ) -> None:
        row = make_row(small_registry)
        more = replace(row, **{name: rows[0].arrays[name] for name in PAIR_VARIABLES[2:]})
        with pytest.raises(InvalidFileError, match="expected the arrays log_likelihood, num_tokens; got"):
            small_registry.check_row(more, "row")

    @pytest.mark.parametrize(
        ("over", "told"),
        [
            ({"log_likelihood_response": [1.0] * N}, "log_likelihood_response: expected at most 0 nats"),
            ({"log_likelihood_response": [-np.inf] * N}, "log_likelihood_response: expected a finite number or NaN"),
            (
                {"num_tokens_response": [0, *[1] * (N - 1)]},
                "num_tokens_response: expected 0 exactly where log_likelihood_r",
            ),
            (
                {"num_tokens_response": [9999] * N},
                "num_tokens_response: expected no more tokens than the text can hold",
            ),
            (
                {"provenance": {"tokens_response": 1}},
                "provenance.tokens_response: expected .*, the sum of num_tokens_resp",
            ),
            ({"provenance": {"over_context_response": 1}}, "provenance: expected at most 0 texts over the context"),
        ],
    )
    def test_impossible_values_are_refused(
        self, pair_registry: Registry, make_row: MakeRow, over: dict[str, Any], told: str
    ) -> None:
        write_row(pair_registry.path, make_row(pair_registry, "org/bad", **over))
        (problem,) = pair_registry.validate()
        assert problem.message.startswith(told.partition(".*")[0])
        with pytest.raises(InvalidFileError, match=told):
            pair_registry.records(strict=True)

    def test_a_record_without_the_counts_is_refused(self, pair_registry: Registry, rows: list[Row]) -> None:
        provenance = {key: value for key, value in rows[0].record.provenance.items() if key != "tokens_response"}
        row = replace(rows[0], record=replace(rows[0].record, provenance=provenance))
        with pytest.raises(InvalidFileError, match=r"provenance\.tokens_response: expected .*; got nothing"):
            pair_registry.check_row(row, "row")


class TestBuild:
    def test_from_scratch_is_merged(self, pair_registry: Registry, rows: list[Row], tmp_path: Path) -> None:
        """Older build and a new row, or all row files: the same bytes."""
        for row in rows[:2]:
            write_row(pair_registry.path, row)
        pair_registry.build()
        shutil.rmtree(pair_registry.path / "rows")  # what is left of the first two is in the build
        write_row(pair_registry.path, rows[2])
        pair_registry.build()
        other = Registry(shutil.copytree(pair_registry.path, tmp_path / "other"))
        for part in (STORE, "rows"):
            shutil.rmtree(other.path / part)
        for row in rows:
            write_row(other.path, row)
        other.build()
        for part in (STORE, "models.parquet", "README.md"):
            mine, theirs = pair_registry.path / part, other.path / part
            assert tree(mine) == tree(theirs) if mine.is_dir() else mine.read_bytes() == theirs.read_bytes()

    def test_is_lossless(self, pair_registry: Registry, rows: list[Row]) -> None:
        for row in rows:
            write_row(pair_registry.path, row)
        pair_registry.build()
        shutil.rmtree(pair_registry.path / "rows")
        back = Registry(pair_registry.path)
        for row in rows:
            found = back.row(row.record.row_id)
            assert found.record == row.record
            assert to_zip(found) == to_zip(row)
        assert (back.validate(), back.check_build()) == ([], [])

    def test_in_other_tools(self, pair_registry: Registry, rows: list[Row]) -> None:
        for row in rows:
            write_row(pair_registry.path, row)
        pair_registry.build()
        data = xr.open_zarr(pair_registry.path / STORE)
        table = pq.read_table(pair_registry.path / "models.parquet").to_pydict()
        for k, row in enumerate(rows):
            for name in PAIR_VARIABLES:
                np.testing.assert_array_equal(data[name].values[k], row.arrays[name])
            for name in ("log_likelihood", "log_likelihood_response"):
                np.testing.assert_array_equal(np.array(table[name][k], np.float32), row.arrays[name])
        card = (pair_registry.path / "README.md").read_text()
        assert "ln p(response | prompt)" in card
        assert "prompts through each model's chat template" in card

    @pytest.mark.parametrize("built", [False, True])
    def test_dataset_has_both(self, pair_registry: Registry, rows: list[Row], built: bool) -> None:
        for row in rows:
            write_row(pair_registry.path, row)
        if built:
            pair_registry.build()
        data = pair_registry.dataset()
        assert list(data.data_vars) == list(store_variables(pairs=True, fine=True))
        for name in PAIR_VARIABLES:
            np.testing.assert_array_equal(data[name].values, np.stack([row.arrays[name] for row in rows]))
        records = pair_registry.records()
        found = pair_registry.values(records, slice(2, 4), variable="num_tokens_response")
        np.testing.assert_array_equal(found, np.stack([row.arrays["num_tokens_response"][2:4] for row in rows]))

    def test_only_variables_that_are_there(self, small_registry: Registry) -> None:
        with pytest.raises(InputError, match="no variable 'log_likelihood_response' in small: its rows have"):
            small_registry.values([], variable="log_likelihood_response")

    def test_a_store_must_have_the_registrys_arrays(
        self, pair_registry: Registry, rows: list[Row], small_registry: Registry, fill: Callable[..., list[Row]]
    ) -> None:
        write_row(pair_registry.path, rows[0])
        fill(small_registry, 1)
        for registry in (pair_registry, small_registry):
            registry.build()
            reader = StoreReader(registry.path / STORE)
            form = reader.form = replace(store_form(registry.info), pairs=registry is small_registry)
            with pytest.raises(
                InvalidFileError, match=f"expected the arrays {', '.join(form.variables)}, as the registry's rows"
            ):
                reader.records()

    def test_a_shard_of_responses_is_missing(self, pair_registry: Registry, rows: list[Row]) -> None:
        write_row(pair_registry.path, rows[0])
        pair_registry.build()
        (pair_registry.path / STORE / "num_tokens_response" / "c.0.0").unlink()
        with pytest.raises(InvalidFileError, match=r"num_tokens_response/c\.0\.0 is missing"):
            Registry(pair_registry.path).records()

    def test_subset_rows_hold_both_on_its_texts_only(self, pair_registry: Registry, rows: list[Row]) -> None:
        from llreg.store.subsets import store_subset

        subset = pair_registry.subset(3, method="uniform")
        store_subset(pair_registry.path, subset)
        inside = np.isin(np.arange(N), subset["texts"])
        for complete in (True, False):
            row = _on_subset(rows[0], subset["id"], inside, responses_too=complete)
            path = write_row(pair_registry.path, row)
            problems = pair_registry.validate()
            path.unlink()
            told = [problem.message.partition(";")[0] for problem in problems]
            wrong = "log_likelihood_response: expected NaN outside the row's text subset"
            assert told == ([] if complete else [wrong])


def _on_subset(row: Row, subset: str, inside: Any, *, responses_too: bool) -> Row:
    from llreg_schemas import row_digest

    names = PAIR_VARIABLES if responses_too else TEXT_VARIABLES
    arrays = dict(row.arrays)
    for name in names:
        arrays[name] = np.where(inside, arrays[name], np.nan if name.startswith("log") else 0).astype(
            arrays[name].dtype
        )
    identity = replace(row.record.identity, subset=subset)
    sums = {"tokens": "num_tokens", "tokens_response": "num_tokens_response"}
    provenance = {**row.record.provenance, **{key: int(arrays[name].sum()) for key, name in sums.items()}}
    record = replace(
        row.record, identity=identity, provenance=provenance, digest=row_digest(identity.to_json(), **arrays)
    )
    return Row(record, **arrays)


def test_command_line(cli: Cli, small_pairs: Path, tmp_path: Path) -> None:
    root = tmp_path / "r"
    made = cli("init", root, "--texts", small_pairs, "--prompt", "chat-template")
    assert (made.code, f"{N} pairs, prompts by chat template" in made.err) == (0, True)
    shown = cli("-r", root, "texts", "show", "1")
    assert shown.out.splitlines()[:2] == ["--- system", "Answer in German."]
    assert shown.out.splitlines()[-2:] == ["--- response", "Am Rhein, wo es öfter regnet."]
    document = json.loads(cli("-r", root, "texts", "show", "4", "--json").out)
    assert (document["text"], document["prompt"], document["response"]) == (None, "2 + 2 =", "4")
    assert "It is Paris." in cli("-r", root, "texts", "ls").out
