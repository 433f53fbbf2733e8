"""The stack machine of pickles, as far as plain data need it: numbers, text, lists, tuples and dicts.

An instruction that is not a method here does not exist: it is refused by name, before its argument is read.
"""

from __future__ import annotations

import io
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from llreg.importers.bounded import MAX_BYTES
from llreg_schemas.errors import InputError

_MAX_DEPTH = 16
_MAX_INTEGER = 1 << 64
# Bytes, about, of a number or of what a text takes beside its letters, of a list or dict, and of a place in the memo.
_ATOM, CONTAINER, _MEMO = 56, 240, 120
_READERS = {op.code.encode("latin-1"): op for op in pickletools.opcodes}

_OBJECTS = "makes an object of a class"
_OUTSIDE = "refers to data outside the file"
_REASONS = {
    **dict.fromkeys(("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"), _OBJECTS),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), "names a registered function"),
    **dict.fromkeys(("PERSID", "BINPERSID", "NEXT_BUFFER", "READONLY_BUFFER"), _OUTSIDE),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), "is text of Python 2"),
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"), "calls a function"),
    **dict.fromkeys(("EMPTY_SET", "ADDITEMS", "FROZENSET"), "makes a set"),
}
_ADVICE = "only numbers, text, lists, dicts and numpy arrays are read, because a pickle can run programs"


@dataclass(slots=True)
class Box:
    """A list, dict, tuple or array on the stack.

    `used` once it is in another one: a pickle of plain data fills a container before that, so one that is filled later
    is refused, and with it every structure that holds itself. `size` counts the values in it, shared ones as often as
    they are shared. `ready` once a tuple holds values only, and nothing that stands for a function.
    """

    value: Any
    depth: int = 1
    size: int = 1
    used: bool = False
    ready: bool = False


class Symbol:
    """What stands on the stack for something that is no value."""


class Machine:
    """A pickle's stack, marks and memo, and what each instruction does to them."""

    def __init__(self, data: bytes, shown: str) -> None:
        self.stream, self.shown = io.BytesIO(data), shown
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.memory = self.at = 0

    def run(self) -> Any:
        """Carry out the instructions; what they leave."""
        steps: dict[bytes, tuple[Callable[[Any], Any] | None, Callable[[Any], None]]] = {}
        while True:
            self.at = self.stream.tell()
            code = self.stream.read(1)
            if code == b".":
                break
            if code not in steps:
                steps[code] = self._step(code)
            reader, act = steps[code]
            act(self._argument(reader) if reader else None)
        found = self.pop()
        if self.stack or self.marks:
            self.damaged("values are left over")
        return self.plain(found)

    def _step(self, code: bytes) -> tuple[Callable[[Any], Any] | None, Callable[[Any], None]]:
        """How an instruction's argument is read and what it does, once it is known to be harmless."""
        op = _READERS.get(code)
        if op is None:
            self.damaged("it is truncated" if not code else "there is no such instruction")
        act = getattr(self, f"op_{op.name}", None)
        if act is None:
            self.refuse(f"{op.name}, which {_REASONS.get(op.name, 'plain data do not need')}")
        return (op.arg.reader if op.arg else None), act

    def _argument(self, reader: Callable[[Any], Any]) -> Any:
        try:
            return reader(self.stream)
        except (ValueError, OverflowError, struct.error, MemoryError) as error:
            self.damaged(str(error)[:200])

    def refuse(self, what: str) -> NoReturn:
        raise InputError(f"{self.shown}: at byte {self.at:,}: refused {what}; {_ADVICE}")

    def damaged(self, why: str) -> NoReturn:
        raise InputError(f"{self.shown}: at byte {self.at:,}: expected a pickle; {why}")

    def charge(self, cost: int) -> None:
        self.memory += cost
        if self.memory > MAX_BYTES:
            self.refuse(f"what takes more than {MAX_BYTES >> 20:,} MiB of memory")

    # The stack

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
        if not isinstance(item, (Box, Symbol)):
            return item
        if isinstance(item, Symbol) or item.value is None:
            self.refuse("a function, a dtype or an unfinished array in the place of a value")
        if isinstance(item.value, tuple) and not item.ready:
            item.value = tuple(map(self.plain, item.value))
            item.ready = True
        item.used = True
        return item.value

    def fill(self, box: Any, items: list[Any]) -> None:
        """Account for values that come into a container."""
        if not isinstance(box, Box) or box.used:
            self.refuse("a container that is filled after it was used, as one that holds itself")
        boxes = [item for item in items if isinstance(item, Box)]
        if any(item is box for item in boxes):
            self.refuse("a container that holds itself")
        box.depth = max([box.depth, *(item.depth + 1 for item in boxes)])
        box.size += len(items) - len(boxes) + sum(item.size for item in boxes)
        if box.depth > _MAX_DEPTH:
            self.refuse(f"containers in containers, more than {_MAX_DEPTH} deep")
        if box.size > MAX_BYTES // _ATOM:
            self.refuse("containers that repeat one another, with more values in all than memory holds")

    # Instructions

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
        self.push(Box([]), CONTAINER)

    def op_EMPTY_DICT(self, _: None) -> None:
        self.push(Box({}), CONTAINER)

    def op_EMPTY_TUPLE(self, _: None) -> None:
        self.push(Box(()), CONTAINER)

    def op_LIST(self, _: None) -> None:
        items = self.pop_marked()
        self.op_EMPTY_LIST(None)
        self.append(items)

    def op_DICT(self, _: None) -> None:
        items = self.pop_marked()
        self.op_EMPTY_DICT(None)
        self.set_items(items)

    def op_TUPLE(self, _: None) -> None:
        self.tuple_of(self.pop_marked())

    def op_TUPLE1(self, _: None) -> None:
        self.tuple_of([self.pop()])

    def op_TUPLE2(self, _: None) -> None:
        self.tuple_of([self.pop(), self.pop()][::-1])

    def op_TUPLE3(self, _: None) -> None:
        self.tuple_of([self.pop(), self.pop(), self.pop()][::-1])

    def tuple_of(self, items: list[Any]) -> None:
        box = Box(tuple(items))
        self.fill(box, items)
        for item in items:
            if isinstance(item, Box) and item.value is not None:
                item.used = True
        self.push(box, CONTAINER)

    def op_APPEND(self, _: None) -> None:
        self.append([self.pop()])

    def op_APPENDS(self, _: None) -> None:
        self.append(self.pop_marked())

    def append(self, items: list[Any]) -> None:
        box = self.top()
        if not isinstance(box, Box) or not isinstance(box.value, list):
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
        if not isinstance(box, Box) or not isinstance(box.value, dict) or len(items) % 2:
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
