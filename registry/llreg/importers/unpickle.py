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
_INSTRUCTIONS = {op.code.encode("latin-1"): op for op in pickletools.opcodes}
_NUMBERS = re.compile(r"[iu][1248]|f[248]|b1")  # dtypes

_OTHER_FILES = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; get it with: git lfs pull"),
    (b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (b"PK\x03\x04", "a zip; if it is an .npz, use: llreg import npz"),
    (b"PAR1", "Parquet; use: llreg import parquet"),
)
_REFUSED = {  # instructions, before their argument is read, and what each does
    **dict.fromkeys(("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"), "makes an object of a class"),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), "names a registered function"),
    **dict.fromkeys(("PERSID", "BINPERSID", "NEXT_BUFFER", "READONLY_BUFFER"), "refers to data outside the file"),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), "is text of Python 2"),
    **dict.fromkeys(("EMPTY_SET", "ADDITEMS", "FROZENSET"), "makes a set"),
}
_BAD_CALLS = {  # what is refused, if a function is called with other arguments than arrays need
    "encode": "a call of encode with other arguments than bytes have",
    "bytes": "a call of bytes with arguments",
    "dtype": "a dtype that is not named",
    "_reconstruct": "an array of another class than numpy's own",
    "_frombuffer": "an array without its bytes",
    "scalar": "a number without its bytes",
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
    """A pickle's stack, marks and memo, and what each instruction does to them."""

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
        while True:
            self.offset = self.stream.tell()
            code = self.stream.read(1)
            if code == b".":
                break
            op = _INSTRUCTIONS.get(code)
            if op is None:
                self.damaged("there is no such instruction" if code else "it is truncated")
            if op.name in _REFUSED:
                self.refuse(f"{op.name}, which {_REFUSED[op.name]}")
            try:
                argument = op.arg.reader(self.stream) if op.arg else None  # no longer than the file is
            except (ValueError, OverflowError, struct.error, MemoryError) as error:
                self.damaged(str(error)[:200])
            self.act(op.name, argument)
        result = self.pop()
        if self.stack or self.marks:
            self.damaged("values are left over")
        return self.plain(result)

    def act(self, instruction: str, argument: Any) -> None:
        """Carry out one instruction; one that is not here is refused."""
        match instruction:
            # Values
            case "BINFLOAT" | "FLOAT" | "BININT" | "BININT1" | "BININT2" | "INT" | "LONG" | "LONG1" | "LONG4":
                self.push_number(argument)
            case "SHORT_BINUNICODE" | "BINUNICODE" | "BINUNICODE8" | "UNICODE":
                self.push_text(argument)
            case "SHORT_BINBYTES" | "BINBYTES" | "BINBYTES8" | "BYTEARRAY8":
                self.push_text(bytes(argument))
            case "NONE":
                self.push(None, 8)
            case "NEWTRUE" | "NEWFALSE":
                self.push(instruction == "NEWTRUE", 8)
            # Containers: those that are empty, and those of what lies above the mark
            case "MARK":
                self.charge(8)
                self.marks.append(len(self.stack))
            case "EMPTY_LIST":
                self.push(_Box([]), _CONTAINER)
            case "EMPTY_DICT":
                self.push(_Box({}), _CONTAINER)
            case "EMPTY_TUPLE":
                self.push(_Box(()), _CONTAINER)
            case "LIST":
                items = self.pop_marked()
                self.push(_Box([]), _CONTAINER)
                self.append(items)
            case "DICT":
                items = self.pop_marked()
                self.push(_Box({}), _CONTAINER)
                self.set_items(items)
            case "TUPLE":
                self.push_tuple(self.pop_marked())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.push_tuple(self.pop_many(int(instruction[-1])))
            # What comes into a container
            case "APPEND":
                self.append(self.pop_many(1))
            case "APPENDS":
                self.append(self.pop_marked())
            case "SETITEM":
                self.set_items(self.pop_many(2))
            case "SETITEMS":
                self.set_items(self.pop_marked())
            # The memo: values that are used again
            case "MEMOIZE":
                self.put(len(self.memo))
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.put(argument)
            case "GET" | "BINGET" | "LONG_BINGET":
                if argument not in self.memo:
                    self.damaged("it refers to a value that is not there")
                self.push(self.memo[argument], 8)
            # Functions
            case "GLOBAL":
                module, _, name = argument.partition(" ")
                self.push_function(module, name)
            case "STACK_GLOBAL":
                self.push_function(*self.pop_many(2))
            case "REDUCE":
                self.call(*self.pop_many(2))
            case "BUILD":
                self.build(self.pop())
            # The file
            case "PROTO":
                if argument > 5:
                    self.damaged(f"protocol {argument} is not known; write it with protocol 4")
            case "FRAME":
                pass
            case _:
                self.refuse(f"{instruction}, which plain data do not need")

    def refuse(self, what: str) -> NoReturn:
        raise InputError(f"{self.name}: at byte {self.offset:,}: refused {what}; {_ADVICE}")

    def damaged(self, why: str) -> NoReturn:
        raise InputError(f"{self.name}: at byte {self.offset:,}: expected a pickle; {why}")

    # The stack and the memo

    def charge(self, cost: int) -> None:
        """Count bytes of memory, before they are taken."""
        self.memory += cost
        if self.memory > self.limit:
            self.refuse(f"what takes more than {self.limit >> 20:,} MiB of memory")

    def push(self, item: Any, cost: int = _ATOM) -> None:
        self.charge(cost)
        self.stack.append(item)

    def push_number(self, value: float) -> None:
        if isinstance(value, int) and abs(value) > _MAX_INTEGER:
            self.refuse("an integer of more than 64 bits")
        self.push(value)

    def push_text(self, value: str | bytes) -> None:
        self.push(value, _ATOM + len(value))

    def top(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            self.damaged("a value is missing")
        return self.stack[-1]

    def pop(self) -> Any:
        self.top()
        return self.stack.pop()

    def pop_many(self, count: int) -> list[Any]:
        """The last items, in the order in which they were pushed."""
        return [self.pop() for _ in range(count)][::-1]

    def pop_marked(self) -> list[Any]:
        if not self.marks:
            self.damaged("a mark is missing")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def put(self, key: int) -> None:
        self.charge(_MEMO)
        self.memo[key] = self.top()

    # Containers

    def push_tuple(self, items: list[Any]) -> None:
        """Push a tuple: a value, or the arguments of a function, so functions and dtypes may be in it."""
        box = _Box(tuple(items))
        self.account(box, items)
        for item in items:
            if isinstance(item, _Box) and item.value is not None:
                item.used = True
        self.push(box, _CONTAINER)

    def append(self, items: list[Any]) -> None:
        box = self.top()
        if not isinstance(box, _Box) or not isinstance(box.value, list):
            self.damaged("a list is missing")
        self.account(box, items)
        self.charge(8 * len(items))
        box.value.extend(map(self.plain, items))

    def set_items(self, items: list[Any]) -> None:
        box = self.top()
        if not isinstance(box, _Box) or not isinstance(box.value, dict) or len(items) % 2:
            self.damaged("a dict, a key or a value is missing")
        self.account(box, items)
        self.charge(_MEMO * len(items) // 2)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                self.refuse(f"a dict's key of type {type(key).__name__.lstrip('_')} instead of text")
            if key in box.value:
                self.refuse(f"a dict that holds {key[:100]!r} twice")
            box.value[key] = self.plain(value)

    def account(self, box: _Box, items: list[Any]) -> None:
        """Account for items that come into a container: how deep and how large that becomes."""
        if box.used:
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

    # Functions of numpy, and what they would do

    def push_function(self, module: Any, name: Any) -> None:
        """Push a stand-in of a function that numpy's arrays are pickled with; refuse any other name."""
        if not isinstance(module, str) or not isinstance(name, str):
            self.refuse("a name that is no text")
        function = _FUNCTIONS.get((module, name))
        if function is None:
            hint = ""
            if f"{module}.".startswith("pandas."):
                hint = " (a pandas object: write it with to_parquet, then: llreg import parquet)"
            elif f"{module}.".startswith("torch."):
                hint = " (a torch object: write it with numpy.savez, then: llreg import npz)"
            self.refuse(f"the name {module[:80]}.{name[:80]}{hint}")
        self.push(_Function(function))

    def call(self, function: Any, arguments: Any) -> None:
        """Push what a function returns."""
        if not isinstance(function, _Function) or not isinstance(arguments, _Box):
            self.refuse("a call of something else than a function of numpy")
        if not isinstance(arguments.value, tuple):
            self.damaged("a function's arguments are missing")
        # A pattern asks for the type before the value: to compare an array with a value gives an array.
        match function.name, _unboxed(arguments.value):
            case "encode", [str() as text, str("latin1" | "latin-1")]:
                try:
                    self.push_text(text.encode("latin-1"))
                except UnicodeEncodeError:
                    self.damaged("bytes are expected")
            case "bytes", []:
                self.push_text(b"")
            case "dtype", [str() as name, *flags] if all(isinstance(flag, int) for flag in flags):
                if name.startswith("O"):
                    self.refuse("an array of Python objects")
                if not _NUMBERS.fullmatch(name):
                    self.refuse(f"an array of dtype {name[:40]!r} instead of numbers")
                self.push(_Dtype(name))
            case "_reconstruct", [_Function(name="ndarray"), (int(0),), bytes(b"b")]:
                self.push(_Box(None), _CONTAINER)
            case "_frombuffer", [bytes() as data, _Dtype() as dtype, tuple() as shape, str("C" | "F") as order, *_]:
                self.push(_Box(self.array(data, dtype, shape, order)), _CONTAINER)
            case "scalar", [_Dtype() as dtype, bytes() as data]:
                self.push_number(self.array(data, dtype, (), "C").item())
            case _:
                self.refuse(_BAD_CALLS.get(function.name, f"a call of {function.name}"))

    def build(self, state: Any) -> None:
        """Give the object on top of the stack its state: a dtype its byte order, an array its bytes."""
        item = self.top()
        parts = _unboxed(state.value) if isinstance(state, _Box) and isinstance(state.value, tuple) else []
        if isinstance(item, _Dtype) and not item.order:
            match parts:
                case [int(3 | 4), str("<" | ">" | "|" | "=") as order, None, None, None, *_]:
                    item.order = order
                case _:
                    self.refuse("a structured dtype")
        elif isinstance(item, _Box) and item.value is None:
            match parts:
                case [int(1), tuple() as shape, _Dtype() as dtype, bool() | int() as is_fortran, bytes() as data]:
                    item.value = self.array(data, dtype, shape, "F" if is_fortran else "C")
                case _:
                    self.refuse("an array without its bytes")
        else:
            self.refuse("the state of an object")

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
