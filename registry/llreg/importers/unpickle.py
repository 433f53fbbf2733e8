"""Read the data in a pickle without running it.

A pickle is a program of a stack machine: most of its instructions make values, some call whatever function they name.
The machine here knows the former only. Of functions it knows by name the few that numpy's arrays need, and does their
work itself, so that nothing a file names is ever imported or called. Sizes are judged before anything is made of them.

Why not `pickle.Unpickler` with an allow-list in `find_class`: that judges names only. A file of nine bytes makes it
allocate 3 GiB (a high place in the memo), and 10 MB of empty dicts 800 MiB; it accepts a dict that holds a key twice
and a container that holds itself, and a file may set attributes of whatever stands in for a function.
"""

from __future__ import annotations

import io
import pickletools
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from llreg import settings
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_DEPTH = 16  # containers in containers
_MAX_DIMENSIONS = 4
_MAX_INTEGER = 1 << 64
# Bytes, about: of a number or of what a text takes beside its letters, of a list or dict, and of a place in the memo.
_ATOM, _CONTAINER, _MEMO = 56, 240, 120

_FUNCTIONS = {
    **{
        (f"numpy.{core}.{module}", name): name
        for core in ("core", "_core")  # of numpy 1 and 2
        for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
    },
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",  # bytes in pickles of protocol 0 to 2
    ("__builtin__", "bytes"): "bytes",
    ("builtins", "bytes"): "bytes",
}
_NUMBERS = re.compile(r"[iu][1248]|f[248]|b1")  # dtypes

_OTHER_FILES = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; get it with: git lfs pull"),
    (b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (b"PK\x03\x04", "a zip; if it is an .npz, use: llreg import npz"),
    (b"PAR1", "Parquet; use: llreg import parquet"),
)
_REASONS = {  # why an instruction is refused
    **dict.fromkeys(("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"), "makes an object of a class"),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), "names a registered function"),
    **dict.fromkeys(("PERSID", "BINPERSID", "NEXT_BUFFER", "READONLY_BUFFER"), "refers to data outside the file"),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), "is text of Python 2"),
    **dict.fromkeys(("EMPTY_SET", "ADDITEMS", "FROZENSET"), "makes a set"),
}
_ADVICE = "only numbers, text, lists, dicts and numpy arrays are read, because a pickle can run programs"


def read_pickle(data: bytes, name: str) -> Any:
    """The value in a pickle of numbers, text, lists, dicts and numpy arrays.

    Parameters
    ----------
    data : bytes
    name : str
        Of the file, in messages.

    Returns
    -------
    object
        None, bool, int, float, str, bytes, list, tuple, dict with str keys, or numeric ndarray.

    Raises
    ------
    InputError
        If the pickle does anything else, is damaged, or holds more than `settings.MAX_IMPORT_BYTES`.
    """
    for magic, kind in _OTHER_FILES:
        if data.startswith(magic):
            raise InputError(f"{name}: expected a pickle; it is {kind}")
    return _Machine(data, name).run()


@dataclass(slots=True)
class _Box:
    """A list, dict, tuple or array on the stack.

    `used` once it is in another one: a pickle of plain data fills a container before that, so one that is filled later
    is refused, and with it every structure that holds itself. `size` counts the values in it, shared ones as often as
    they are shared. `ready` once a tuple holds values only, and nothing that stands for a function.
    """

    value: Any  # None: an array without its state
    depth: int = 1
    size: int = 1
    used: bool = False
    ready: bool = False


@dataclass(slots=True)
class _Function:
    """What stands on the stack for a function."""

    name: str


@dataclass(slots=True)
class _Dtype:
    """What stands on the stack for a dtype; its byte order comes later, as its state."""

    name: str
    order: str = ""


class _Machine:
    """A pickle's stack, marks and memo, and what each instruction does to them.

    An instruction that is not a method ``op_...`` here does not exist: it is refused by name, before its argument is
    read. Each method takes the instruction's argument, None where it has none.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self.stream, self.name = io.BytesIO(data), name
        self.limit = settings.MAX_IMPORT_BYTES
        self.stack: list[Any] = []  # values, boxes, functions and dtypes
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, Any] = {}
        self.memory = 0  # bytes, about
        self.offset = 0  # of the instruction, for messages

    def run(self) -> Any:
        """Carry out the instructions; what they leave."""
        instructions: dict[bytes, tuple[pickletools.OpcodeInfo, Callable[[Any], None] | None]] = {
            op.code.encode("latin-1"): (op, getattr(self, f"op_{op.name}", None)) for op in pickletools.opcodes
        }
        while True:
            self.offset = self.stream.tell()
            code = self.stream.read(1)
            if code == b".":
                break
            if code not in instructions:
                self.damaged("there is no such instruction" if code else "it is truncated")
            op, act = instructions[code]
            if act is None:
                self.refuse(f"{op.name}, which {_REASONS.get(op.name, 'plain data do not need')}")
            try:
                argument = op.arg.reader(self.stream) if op.arg else None
            except (ValueError, OverflowError, struct.error, MemoryError) as error:
                self.damaged(str(error)[:200])
            act(argument)
        result = self.pop()
        if self.stack or self.marks:
            self.damaged("values are left over")
        return self.plain(result)

    def refuse(self, what: str) -> NoReturn:
        raise InputError(f"{self.name}: at byte {self.offset:,}: refused {what}; {_ADVICE}")

    def damaged(self, why: str) -> NoReturn:
        raise InputError(f"{self.name}: at byte {self.offset:,}: expected a pickle; {why}")

    # The stack

    def charge(self, cost: int) -> None:
        """Count bytes of memory, before they are taken."""
        self.memory += cost
        if self.memory > self.limit:
            self.refuse(f"what takes more than {self.limit >> 20:,} MiB of memory")

    def push(self, item: Any, cost: int = _ATOM) -> None:
        self.charge(cost)
        self.stack.append(item)

    def pop(self) -> Any:
        self.top()
        return self.stack.pop()

    def top(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            self.damaged("a value is missing")
        return self.stack[-1]

    def pop_marked(self) -> list[Any]:
        if not self.marks:
            self.damaged("a mark is missing")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def plain(self, item: Any) -> Any:
        """A value as it may stand in a list or dict, or be the result."""
        if not isinstance(item, (_Box, _Function, _Dtype)):
            return item
        if not isinstance(item, _Box) or item.value is None:
            self.refuse("a function, a dtype or an unfinished array in the place of a value")
        if isinstance(item.value, tuple) and not item.ready:
            item.value = tuple(map(self.plain, item.value))
            item.ready = True
        item.used = True
        return item.value

    def fill(self, box: Any, items: list[Any]) -> None:
        """Account for values that come into a container."""
        if not isinstance(box, _Box) or box.used:
            self.refuse("a container that is filled after it was used, as one that holds itself")
        boxes = [item for item in items if isinstance(item, _Box)]
        if any(item is box for item in boxes):
            self.refuse("a container that holds itself")
        box.depth = max([box.depth, *(item.depth + 1 for item in boxes)])
        box.size += len(items) - len(boxes) + sum(item.size for item in boxes)
        if box.depth > _MAX_DEPTH:
            self.refuse(f"containers in containers, more than {_MAX_DEPTH} deep")
        if box.size > self.limit // _ATOM:
            self.refuse("containers that repeat one another, with more values in all than memory holds")

    # Instructions that make values

    def op_PROTO(self, version: int) -> None:
        if version > 5:
            self.damaged(f"protocol {version} is not known; write it with protocol 4")

    def op_FRAME(self, _: int) -> None:
        pass

    def op_MARK(self, _: None) -> None:
        self.charge(8)
        self.marks.append(len(self.stack))

    def op_NONE(self, _: None) -> None:
        self.push(None, 8)

    def op_NEWTRUE(self, _: None) -> None:
        self.push(True, 8)

    def op_NEWFALSE(self, _: None) -> None:
        self.push(False, 8)

    def op_number(self, value: float) -> None:
        if isinstance(value, int) and abs(value) > _MAX_INTEGER:
            self.refuse("an integer of more than 64 bits")
        self.push(value)

    op_INT = op_BININT = op_BININT1 = op_BININT2 = op_LONG = op_LONG1 = op_LONG4 = op_FLOAT = op_BINFLOAT = op_number

    def op_text(self, value: str | bytes | bytearray) -> None:
        self.push(bytes(value) if isinstance(value, bytearray) else value, _ATOM + len(value))

    op_UNICODE = op_BINUNICODE = op_SHORT_BINUNICODE = op_BINUNICODE8 = op_text
    op_BINBYTES = op_SHORT_BINBYTES = op_BINBYTES8 = op_BYTEARRAY8 = op_text

    def op_EMPTY_LIST(self, _: None) -> None:
        self.push(_Box([]), _CONTAINER)

    def op_EMPTY_DICT(self, _: None) -> None:
        self.push(_Box({}), _CONTAINER)

    def op_EMPTY_TUPLE(self, _: None) -> None:
        self.push(_Box(()), _CONTAINER)

    def op_LIST(self, _: None) -> None:
        items = self.pop_marked()
        self.op_EMPTY_LIST(None)
        self.append(items)

    def op_DICT(self, _: None) -> None:
        items = self.pop_marked()
        self.op_EMPTY_DICT(None)
        self.set_items(items)

    def op_TUPLE(self, _: None) -> None:
        self.push_tuple(self.pop_marked())

    def op_TUPLE1(self, _: None) -> None:
        self.push_tuple([self.pop()])

    def op_TUPLE2(self, _: None) -> None:
        self.push_tuple([self.pop(), self.pop()][::-1])

    def op_TUPLE3(self, _: None) -> None:
        self.push_tuple([self.pop(), self.pop(), self.pop()][::-1])

    def push_tuple(self, items: list[Any]) -> None:
        """Push a tuple: a value, or the arguments of a function, so functions and dtypes may be in it."""
        box = _Box(tuple(items))
        self.fill(box, items)
        for item in items:
            if isinstance(item, _Box) and item.value is not None:
                item.used = True
        self.push(box, _CONTAINER)

    def op_APPEND(self, _: None) -> None:
        self.append([self.pop()])

    def op_APPENDS(self, _: None) -> None:
        self.append(self.pop_marked())

    def append(self, items: list[Any]) -> None:
        box = self.top()
        if not isinstance(box, _Box) or not isinstance(box.value, list):
            self.damaged("a list is missing")
        self.fill(box, items)
        self.charge(8 * len(items))
        box.value.extend(map(self.plain, items))

    def op_SETITEM(self, _: None) -> None:
        value = self.pop()
        self.set_items([self.pop(), value])

    def op_SETITEMS(self, _: None) -> None:
        self.set_items(self.pop_marked())

    def set_items(self, items: list[Any]) -> None:
        box = self.top()
        if not isinstance(box, _Box) or not isinstance(box.value, dict) or len(items) % 2:
            self.damaged("a dict, a key or a value is missing")
        self.fill(box, items)
        self.charge(_MEMO * len(items) // 2)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                self.refuse(f"a dict's key of type {type(key).__name__.lstrip('_')} instead of text")
            if key in box.value:
                self.refuse(f"a dict that holds {key[:100]!r} twice")
            box.value[key] = self.plain(value)

    def op_MEMOIZE(self, _: None) -> None:
        self.put(len(self.memo))

    def put(self, key: int) -> None:
        self.charge(_MEMO)
        self.memo[key] = self.top()

    op_PUT = op_BINPUT = op_LONG_BINPUT = put

    def get(self, key: int) -> None:
        if key not in self.memo:
            self.damaged("it refers to a value that is not there")
        self.push(self.memo[key], 8)

    op_GET = op_BINGET = op_LONG_BINGET = get

    # Instructions that name and call functions

    def op_GLOBAL(self, name: str) -> None:
        module, _, name = name.partition(" ")
        self.push_function(module, name)

    def op_STACK_GLOBAL(self, _: None) -> None:
        name, module = self.pop(), self.pop()
        self.push_function(module, name)

    def push_function(self, module: Any, name: Any) -> None:
        """Push a stand-in of a function that numpy's arrays are pickled with; refuse any other name."""
        are_text = isinstance(module, str) and isinstance(name, str)
        function = _FUNCTIONS.get((module, name)) if are_text else None
        if function is None:
            full = f"{module[:80]}.{str(name)[:80]}" if isinstance(module, str) else "a name that is no text"
            hint = ""
            if full.startswith("pandas."):
                hint = " (a pandas object: write it with to_parquet, then: llreg import parquet)"
            elif full.startswith("torch."):
                hint = " (a torch object: write it with numpy.savez, then: llreg import npz)"
            self.refuse(f"the name {full}{hint}")
        self.push(_Function(function))

    def op_REDUCE(self, _: None) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Function) or not isinstance(arguments, _Box):
            self.refuse("a call of something else than a function of numpy")
        if not isinstance(arguments.value, tuple):
            self.damaged("a function's arguments are missing")
        call = getattr(self, f"call_{function.name.strip('_')}", None)
        if call is None:
            self.refuse(f"a call of {function.name}")
        call(_unboxed(arguments.value))

    def op_BUILD(self, _: None) -> None:
        state, item = self.pop(), self.top()
        values = _unboxed(state.value) if isinstance(state, _Box) and isinstance(state.value, tuple) else []
        if isinstance(item, _Dtype) and not item.order:
            self.build_dtype(item, values)
        elif isinstance(item, _Box) and item.value is None:
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
                self.push(_Box(None), _CONTAINER)
            case _:
                self.refuse("an array of another class than numpy's own")

    def build_array(self, box: _Box, state: list[Any]) -> None:
        match state:
            case [1, tuple() as shape, _Dtype() as dtype, bool() | int() as fortran, bytes() as data]:
                box.value = self.array(data, dtype, shape, "F" if fortran else "C")
            case _:
                self.refuse("an array without its bytes")

    def call_frombuffer(self, arguments: list[Any]) -> None:
        match arguments:
            case [bytes() as data, _Dtype() as dtype, tuple() as shape, "C" | "F" as order, *_]:
                self.push(_Box(self.array(data, dtype, shape, order)), _CONTAINER)
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
        if not all(type(size) is int and 0 <= size <= self.limit for size in shape) or len(shape) > _MAX_DIMENSIONS:
            self.refuse(f"an array of shape {str(shape)[:80]}")
        kind = np.dtype((dtype.order or "|") + dtype.name)
        num_bytes = kind.itemsize
        for size in shape:
            num_bytes *= size
        if num_bytes != len(data):
            self.refuse(f"an array of {num_bytes:,} bytes by its shape, {len(data):,} by its data")
        values: NDArray[np.generic] = np.frombuffer(data, dtype=kind).reshape(shape, order=order)
        return values


def _unboxed(items: tuple[Any, ...]) -> list[Any]:
    """Arguments of a function, or the parts of an object's state: of containers what they hold."""
    return [item.value if isinstance(item, _Box) else item for item in items]
