"""Pickles of plain data and arrays are read as `pickle` reads them; anything else is refused, and nothing is ever run."""

from __future__ import annotations

import io
import math
import os
import pickle
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llreg import settings
from llreg.importers.unpickle import read_pickle
from llreg_schemas.errors import InputError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
DUMPS: list[Callable[[Any, int], bytes]] = [pickle.dumps, pickle._dumps]  # type: ignore[attr-defined]

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


def _same(a: Any, b: Any) -> bool:
    if isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(b, float):
        return type(a) is float and (a == b or (math.isnan(a) and math.isnan(b)))
    if isinstance(b, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(_same, a, b))
    if isinstance(b, dict):
        return type(a) is dict and list(a) == list(b) and all(_same(a[key], b[key]) for key in b)
    return type(a) is type(b) and bool(a == b)


@given(PLAIN, st.sampled_from(PROTOCOLS), st.sampled_from(DUMPS))
def test_plain_data(value: Any, protocol: int, dumps: Callable[[Any, int], bytes]) -> None:
    assert _same(read_pickle(dumps(value, protocol), "f"), value)


ARRAYS = [
    np.array([-684.61989939, float("nan"), -0.0]),
    np.array([1.5, -2.5], dtype="float16"),
    np.arange(6, dtype=">i4").reshape(2, 3),
    np.asfortranarray(np.arange(6, dtype="float32").reshape(2, 3)),
    np.arange(20, dtype="uint8")[::3],
    np.array([], dtype="float64"),
    np.array([True, False]),
    np.array(3.5),
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_arrays(array: np.ndarray, protocol: int) -> None:
    for dumps in DUMPS:
        found = read_pickle(dumps({"a/b": array, "again": array}, protocol), "f")
        assert _same(found, {"a/b": array, "again": array})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_of_numpy_1(protocol: int) -> None:
    """numpy 2 renamed numpy.core; the published files were written before. Names of equal length keep frames true."""
    data = pickle.dumps({"a": np.arange(3.0)}, protocol)
    if protocol < 4:
        old = data.replace(b"numpy._core.", b"numpy.core.")
    else:
        name = b"numpy._core.multiarray" if protocol == 4 else b"numpy._core.numeric"
        prefix = bytes([len(name)]) + name
        old = data.replace(prefix, bytes([len(name) - 1]) + name.replace(b"_core", b"core"))
    assert old != data
    assert _same(read_pickle(old, "f"), {"a": np.arange(3.0)})


@pytest.mark.parametrize("value", [np.float64(-590.1384971457811), np.float32(0.5), np.int64(-3), np.bool_(True)])
def test_numbers_of_numpy(value: Any) -> None:
    for protocol in PROTOCOLS:
        assert read_pickle(pickle.dumps([value], protocol), "f") == [value.item()]


# What is refused


class _Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def _named(module: str, name: str, rest: bytes = b"(tR.") -> bytes:
    """A pickle that calls a function of that name, which need not be importable."""
    return b"\x80\x02c" + module.encode() + b"\n" + name.encode() + b"\n" + rest


def _stacked(module: str, name: str, rest: bytes = b")R.") -> bytes:
    parts = [b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name)]
    return b"\x80\x04" + b"".join(parts) + b"\x93" + rest


class _Subclass(np.ndarray):
    pass


class _Object:
    def __init__(self) -> None:
        self.x = 1


def _out_of_band() -> bytes:
    return pickle.dumps(np.arange(9.0), 5, buffer_callback=lambda _: None)


def _persistent() -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return "file" if obj == 1 else None

    stream = io.BytesIO()
    Pickler(stream, 2).dump([1])
    return stream.getvalue()


def _cycle(kind: type) -> bytes:
    value: Any = kind()
    value.append(value) if kind is list else value.update(x=value)
    return pickle.dumps(value)


def _mutual_cycle() -> bytes:
    one: list[Any] = []
    two = [one]
    one.append(two)
    return pickle.dumps(one)


def _laughs() -> bytes:
    value: Any = ["ha"] * 10
    for _ in range(9):
        value = [value] * 10
    return pickle.dumps(value)


def _deep() -> bytes:
    return b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."


def _array(shape: bytes, data: bytes = bytes(8), dtype: bytes = b"f8") -> bytes:
    """An array of any shape by opcode: shape is pickled by hand."""
    return (
        b"\x80\x04cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01"
        + shape
        + b"cnumpy\ndtype\n\x8c"
        + bytes([len(dtype)])
        + dtype
        + b"\x89\x88\x87R(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89C"
        + bytes([len(data)])
        + data
        + b"tb."
    )


def test_array_by_hand() -> None:
    assert read_pickle(_array(b"K\x01\x85"), "f").tolist() == [0.0]


ATTACKS: dict[str, tuple[Any, str]] = {
    "os.system": (_Call(os.system, "touch {marker}"), r"the name (posix|nt)\.system"),
    "eval": (_Call(eval, "open('{marker}', 'w')"), r"the name (builtins|__builtin__)\.eval"),
    "open": (_Call(open, "{marker}", "w"), r"the name _?io\.open"),
    "getattr": (_named("builtins", "getattr"), "the name builtins.getattr"),
    "inside a dict": ({"a": [_Call(os.system, "touch {marker}")]}, "the name posix.system"),
    "numpy.load": (_Call(np.load, "{marker}"), r"the name numpy(\.\w+)*\.load"),
    "numpy.fromfile": (_named("numpy", "fromfile"), "the name numpy.fromfile"),
    "numpy.memmap": (_named("numpy", "memmap"), "the name numpy.memmap"),
    "numpy.ctypeslib": (_named("numpy.ctypeslib", "load_library"), "the name numpy.ctypeslib.load_library"),
    "numpy.core.multiarray.fromfile": (_named("numpy.core.multiarray", "fromfile"), "multiarray.fromfile"),
    "numpy.testing": (_named("numpy.testing._private.utils", "runstring"), "the name numpy.testing"),
    "dotted": (_stacked("numpy", "ndarray.tofile"), "the name numpy.ndarray.tofile"),
    "dotted module": (_stacked("numpy.core", "multiarray._reconstruct"), "the name numpy.core.multiarray._reconstruct"),
    "module as a number": (b"\x80\x04K\x01K\x02\x93)R.", "a name that is no text"),
    "not imported": (_named("antigravity", "fly"), "the name antigravity.fly"),
    "INST": (b"(S'x'\nios\nsystem\n.", "refused STRING"),
    "INST first": (b"(ios\nsystem\n.", "refused INST, which makes an object"),
    "OBJ": (b"(cos\nsystem\no.", "the name os.system"),
    "NEWOBJ": (_stacked("numpy", "dtype", b")\x81."), "refused NEWOBJ, which makes an object"),
    "object": (_Object(), "the name .*(_Object|copy_?reg)"),
    "EXT1": (b"\x80\x02\x82\x01.", "refused EXT1, which names a registered function"),
    "persistent id": (_persistent(), "refused BINPERSID, which refers to data outside"),
    "out of band": (_out_of_band(), "refused NEXT_BUFFER, which refers to data outside"),
    "REDUCE of a text": (b"\x80\x04\x8c\x01x)R.", "a call of something else"),
    "call of ndarray": (_stacked("numpy", "ndarray"), "a call of ndarray"),
    "call of bytes": (_named("builtins", "bytes", b"J\xff\xff\xff\x7f\x85R."), "a call of bytes with arguments"),
    "other encoding": (_named("_codecs", "encode", b"X\x01\x00\x00\x00xX\x03\x00\x00\x00hex\x86R."), "encode"),
    "BUILD of a dict": (b"\x80\x04}}b.", "the state of an object"),
    "BUILD of a function": (_stacked("numpy", "dtype", b"}\x8c\x01x\x8c\x01ysb."), "the state of an object"),
    "array as an argument": (
        _named("_codecs", "encode", b"X\x01\x00\x00\x00x" + _array(b"K\x02\x85", bytes(16))[2:-1] + b"\x86R."),
        "encode",
    ),
    "BUILD with an unfinished array": (
        _array(b"K\x01\x85").partition(b"R(")[0]
        + b"Rcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87Rb.",
        "an array without its bytes",
    ),
    "BUILD with an array": (
        _array(b"K\x01\x85").partition(b"R(")[0] + b"R" + _array(b")")[2:-1] + b"b.",
        "an array without its bytes",
    ),
    "function as value": (b"\x80\x04]" + _stacked("numpy", "dtype", b"a.")[2:], "in the place of a value"),
    "function as result": (_stacked("numpy", "ndarray", b"."), "in the place of a value"),
    "function in a tuple": (b"\x80\x04]" + _stacked("numpy", "ndarray", b"\x85a.")[2:], "in the place of a value"),
    "unfinished array": (_array(b"K\x01\x85").partition(b"R(")[0] + b"R.", "unfinished array"),
    "object array": (np.array([{}, os.system], dtype=object), "an array of Python objects"),
    "structured array": (np.zeros(2, dtype=[("a", "f8")]), "an array of dtype 'V8'"),
    "text array": (np.array(["a", "b"]), "an array of dtype 'U1'"),
    "complex array": (np.zeros(2, complex), "an array of dtype 'c16'"),
    "subclass of ndarray": (np.zeros(2).view(_Subclass), "the name .*_Subclass"),
    "huge shape": (_array(b"J\xff\xff\xff\x7f\x85"), "an array of"),
    "huge product": (_array(b"J\xff\xff\xff\x0fJ\xff\xff\xff\x0f\x86"), "an array of"),
    "overflowing product": (_array(b"\x8a\x09" + bytes(8) + b"\x01\x85"), "an array of shape"),
    "negative shape": (_array(b"J\xff\xff\xff\xff\x85"), "an array of shape"),
    "shape of text": (_array(b"\x8c\x01x\x85"), "an array of shape"),
    "too little data": (_array(b"K\x02\x85"), "16 bytes by its shape, 8 by its data"),
    "too many dimensions": (_array(b"(" + b"K\x01" * 40 + b"t"), "an array of shape"),
    "dtype by hand": (_array(b"K\x01\x85", dtype=b"O8"), "an array of Python objects"),
    "set": ({1, 2}, "refused EMPTY_SET, which makes a set|the name"),
    "ordered dict": (pickle.dumps(OrderedDict(a=1)), "the name collections.OrderedDict"),
    "number as key": ({1: 2}, "a dict's key of type int"),
    "key twice": (b"\x80\x04}(\x8c\x01aK\x01\x8c\x01aK\x02u.", "holds 'a' twice"),
    "list in itself": (_cycle(list), "holds itself"),
    "dict in itself": (_cycle(dict), "holds itself"),
    "lists in each other": (_mutual_cycle(), "holds itself"),
    "billion laughs": (_laughs(), "containers that repeat one another"),
    "deep": (_deep(), "containers in containers"),
    "big integer": (10**40, "an integer of more than 64 bits"),
    "pandas": (_named("pandas.core.frame", "DataFrame"), "pandas object: write it with to_parquet.*import parquet"),
    "pandas itself": (_named("pandas", "DataFrame"), "pandas object: write it with to_parquet.*import parquet"),
    "torch itself": (_named("torch", "FloatStorage"), "torch object: write it with numpy.savez"),
    "torch": (_named("torch._utils", "_rebuild_tensor_v2"), "torch object: write it with numpy.savez"),
    "later protocol": (b"\x80\x63N.", "protocol 99"),
    "no instruction": (b"\x80\x04\xff.", "no such instruction"),
    "nothing": (b"", "truncated"),
    "text length": (b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"x.", "expected a pickle"),
    "bytes length": (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x.", "expected a pickle"),
    "integer length": (b"\x80\x04\x8b" + struct.pack("<i", 1 << 30) + b"x.", "expected a pickle"),
    "no value": (b".", "a value is missing"),
    "below the mark": (b"K\x01(a.", "a value is missing"),
    "no mark": (b"]e.", "a mark is missing"),
    "no memo": (b"h\x07.", "not there"),
    "left over": (b"K\x01K\x02.", "left over"),
    "append to a number": (b"K\x01K\x02a.", "a list is missing"),
    "half an item": (b"}(\x8c\x01au.", "a dict, a key or a value is missing"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "gzip": (b"\x1f\x8b\x08\x00", "compressed with gzip"),
    "npz": (b"PK\x03\x04", "import npz"),
}


def _marked(value: Any, marker: Path) -> Any:
    """The attack with the marker's path in the arguments of its call."""
    if isinstance(value, dict):
        return {key: _marked(item, marker) for key, item in value.items()}
    if isinstance(value, list):
        return [_marked(item, marker) for item in value]
    if isinstance(value, _Call):
        function, arguments = value.call
        return _Call(function, *(a.format(marker=marker) if isinstance(a, str) else a for a in arguments))
    return value


@pytest.mark.parametrize("name", ATTACKS)
def test_refused(name: str, tmp_path: Path) -> None:
    attack, message = ATTACKS[name]
    marker = tmp_path / "marker"
    for protocol in (0, 2, 4) if not isinstance(attack, bytes) else (4,):
        value = _marked(attack, marker)
        data = value if isinstance(value, bytes) else pickle.dumps(value, protocol)
        with pytest.raises(InputError, match=message) as caught:
            read_pickle(data, "evil.pkl")
        assert "evil.pkl" in str(caught.value)
    assert not marker.exists()
    assert "antigravity" not in sys.modules


def test_the_attacks_would_run(tmp_path: Path) -> None:
    """That the marker is not there says something: pickle itself makes it."""
    for name in ("os.system", "eval", "open"):
        marker = tmp_path / name
        pickle.loads(pickle.dumps(_marked(ATTACKS[name][0], marker)))
        assert marker.exists()


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists, dicts, tuples, memo and marks all count, so that few bytes cannot take much memory."""
    monkeypatch.setattr(settings, "MAX_IMPORT_BYTES", 1 << 20)
    for data in (
        b"\x80\x04(" + b"]" * 9000 + b"l.",
        b"(" + b"}" * 9000 + b"l.",
        b"(" + b")" * 9000 + b"l.",
        b"N" + b"\x94" * 9000 + b".",
        b"(" * 200_000,
        b"N(" + b"N" * 200_000 + b"t.",
        pickle.dumps([float(k) for k in range(30_000)]),
        pickle.dumps(["x" * 1_000_000, "y" * 50_000]),
    ):
        with pytest.raises(InputError, match="more than 1 MiB of memory"):
            read_pickle(data, "f")
    assert len(read_pickle(pickle.dumps([0.5] * 5000), "f")) == 5000


VALID = pickle.dumps([{"model_name": "a/b", "x": np.arange(3.0), "tags": ["q", "r"], "y": np.float64(2), "n": None}], 2)


def test_every_truncation_is_refused() -> None:
    read_pickle(VALID, "f")
    for length in range(len(VALID)):
        with pytest.raises(InputError, match=r"^f"):
            read_pickle(VALID[:length], "f")


@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_damage_gives_plain_data_or_an_error(changes: list[tuple[int, int]]) -> None:
    data = bytearray(VALID)
    for place, byte in changes:
        data[place] = byte
    try:
        _only_data(read_pickle(bytes(data), "f"))
    except InputError:
        pass


@given(st.lists(st.sampled_from([bytes([code]) for code in b"().0NKajlptu}]\x81\x85\x86\x87\x88\x94RbKhq\x00\x01"])))
def test_any_instructions_give_plain_data_or_an_error(codes: list[bytes]) -> None:
    try:
        _only_data(read_pickle(b"".join(codes) + b".", "f"))
    except InputError:
        pass


def _only_data(value: Any) -> None:
    if isinstance(value, (list, tuple)):
        for item in value:
            _only_data(item)
    elif isinstance(value, dict):
        assert all(type(key) is str for key in value)
        _only_data(list(value.values()))
    else:
        assert value is None or type(value) in (bool, int, float, str, bytes, np.ndarray)
