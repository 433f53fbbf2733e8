"""Read the data in a pickle without running it.

A pickle is a program: most of its instructions make values, some call whatever function they name. Here its stack
machine knows the former only. Of functions it knows by name the few that numpy's arrays need, and does their work
itself, so that nothing a file names is ever imported or called. Sizes are judged before anything is made of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.importers.bounded import MAX_BYTES
from llreg.importers.machine import CONTAINER, Box, Machine, Symbol
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_DIMENSIONS = 4
_NUMPY = {
    **{
        (f"numpy.{core}.{module}", name): name
        for core in ("core", "_core")
        for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
    },
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",  # bytes in pickles of protocol 0 to 2
    ("__builtin__", "bytes"): "bytes",
    ("builtins", "bytes"): "bytes",
}
_NUMBERS = re.compile(r"[iu][1248]|f[248]|b1")
_MAGIC = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; get it with: git lfs pull"),
    (b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (b"PK\x03\x04", "a zip; if it is an .npz, use: llreg import npz"),
    (b"PAR1", "Parquet; use: llreg import parquet"),
)


def read_pickle(data: bytes, shown: str) -> Any:
    """The value in a pickle of numbers, text, lists, dicts and numpy arrays.

    Parameters
    ----------
    data : bytes
    shown : str
        Name of the file in messages.

    Returns
    -------
    object
        None, bool, int, float, str, bytes, list, tuple, dict with str keys, or numeric ndarray.

    Raises
    ------
    InputError
        If the pickle does anything else, is damaged, or holds more than `MAX_BYTES`.
    """
    for magic, what in _MAGIC:
        if data.startswith(magic):
            raise InputError(f"{shown}: expected a pickle; it is {what}")
    return _ArrayMachine(data, shown).run()


@dataclass(slots=True)
class _Function(Symbol):
    name: str


@dataclass(slots=True)
class _Dtype(Symbol):
    name: str
    order: str = ""


class _ArrayMachine(Machine):
    """A machine that knows how numpy's arrays and numbers are pickled."""

    def op_GLOBAL(self, name: str) -> None:
        module, _, name = name.partition(" ")
        self.name(module, name)

    def op_STACK_GLOBAL(self, _: None) -> None:
        name, module = self.pop(), self.pop()
        self.name(module, name)

    def name(self, module: Any, name: Any) -> None:
        """Push a stand-in of a function that numpy's arrays are pickled with; refuse any other name."""
        known = _NUMPY.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if known is None:
            called = f"{str(module)[:80]}.{str(name)[:80]}" if isinstance(module, str) else "a name that is no text"
            hint = ""
            if called.startswith("pandas."):
                hint = " (a pandas object: write it with to_parquet, then: llreg import parquet)"
            elif called.startswith("torch."):
                hint = " (a torch object: write it with numpy.savez, then: llreg import npz)"
            self.refuse(f"the name {called}{hint}")
        self.push(_Function(known))

    def op_REDUCE(self, _: None) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Function) or not isinstance(arguments, Box):
            self.refuse("a call of something else than a function of numpy")
        if not isinstance(arguments.value, tuple):
            self.damaged("a function's arguments are missing")
        call = getattr(self, f"call_{function.name.strip('_')}", None)
        if call is None:
            self.refuse(f"a call of {function.name}")
        call([_argument(item) for item in arguments.value])

    def op_BUILD(self, _: None) -> None:
        state, item = self.pop(), self.top()
        values = [_argument(part) for part in state.value] if isinstance(state, Box) else []
        if isinstance(item, _Dtype) and not item.order:
            self.build_dtype(item, values)
        elif isinstance(item, Box) and item.value is None:
            self.build_array(item, values)
        else:
            self.refuse("the state of an object")

    # What numpy's functions would do

    def call_encode(self, arguments: list[Any]) -> None:
        match arguments:
            case [str() as text, "latin1" | "latin-1"]:
                try:
                    self.op_text(text.encode("latin-1"))
                except UnicodeEncodeError:
                    self.damaged("bytes are expected")
            case _:
                self.refuse("a call of encode with other arguments than bytes have")

    def call_bytes(self, arguments: list[Any]) -> None:
        if arguments:
            self.refuse("a call of bytes with arguments")
        self.op_text(b"")

    def call_dtype(self, arguments: list[Any]) -> None:
        match arguments:
            case [str() as name, *flags] if all(isinstance(flag, (bool, int)) for flag in flags):
                if name.startswith("O"):
                    self.refuse("an array of Python objects")
                if not _NUMBERS.fullmatch(name):
                    self.refuse(f"an array of dtype {name[:40]!r} instead of numbers")
                self.push(_Dtype(name))
            case _:
                self.refuse("a dtype that is not named")

    def build_dtype(self, dtype: _Dtype, state: list[Any]) -> None:
        match state:
            case [3 | 4, "<" | ">" | "|" | "=" as order, None, None, None, *_]:
                dtype.order = order
            case _:
                self.refuse("a structured dtype")

    def call_reconstruct(self, arguments: list[Any]) -> None:
        match arguments:
            case [_Function(name="ndarray"), (0,), b"b"]:
                self.push(Box(None), CONTAINER)
            case _:
                self.refuse("an array of another class than numpy's own")

    def build_array(self, box: Box, state: list[Any]) -> None:
        match state:
            case [1, tuple() as shape, _Dtype() as dtype, bool() | int() as fortran, bytes() as data]:
                box.value = self.array(data, dtype, shape, "F" if fortran else "C")
            case _:
                self.refuse("an array without its bytes")

    def call_frombuffer(self, arguments: list[Any]) -> None:
        match arguments:
            case [bytes() as data, _Dtype() as dtype, tuple() as shape, "C" | "F" as order, *_]:
                self.push(Box(self.array(data, dtype, shape, order)), CONTAINER)
            case _:
                self.refuse("an array without its bytes")

    def call_scalar(self, arguments: list[Any]) -> None:
        match arguments:
            case [_Dtype() as dtype, bytes() as data]:
                self.op_number(self.array(data, dtype, (), "C").item())
            case _:
                self.refuse("a number without its bytes")

    def array(self, data: bytes, dtype: _Dtype, shape: tuple[Any, ...], order: Any) -> NDArray[np.generic]:
        """An array over bytes that are there already: no shape, however large, takes memory."""
        if not all(type(size) is int and 0 <= size <= MAX_BYTES for size in shape) or len(shape) > _MAX_DIMENSIONS:
            self.refuse(f"an array of shape {str(shape)[:80]}")
        kind = np.dtype((dtype.order or "|") + dtype.name)
        size = kind.itemsize
        for length in shape:
            size *= length
        if size != len(data):
            self.refuse(f"an array of {size:,} bytes by its shape, {len(data):,} by its data")
        values: NDArray[np.generic] = np.frombuffer(data, dtype=kind).reshape(shape, order=order)
        return values


def _argument(item: Any) -> Any:
    """An argument of a function: a container's content, else as it is."""
    return item.value if isinstance(item, Box) else item
