"""The error tree: what a caller may catch, what a message says, and that errors travel between processes."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path

import pytest

from llreg_schemas import errors
from llreg_schemas.errors import InvalidFileError, LlregError, MissingExtraError, StorageError, storage_errors

BUILTIN = {
    errors.InputError: ValueError,
    errors.NotFoundError: KeyError,
    errors.InvalidFileError: ValueError,
    errors.FormatVersionError: ValueError,
    errors.StorageError: OSError,
    errors.MissingExtraError: ImportError,
}
MODEL = [errors.ModelNotFoundError, errors.ModelAccessError, errors.UnsupportedModelError, errors.NonFiniteError]


def _example(kind: type[LlregError]) -> LlregError:
    if issubclass(kind, InvalidFileError):
        return kind("rows/aa/x.zarr.zip", "expected 1; got 2", field="identity.model")
    if issubclass(kind, MissingExtraError):
        return kind("torch", "extract")
    return kind("a sentence with 'quotes' that ends in what to do")


def _every_kind() -> list[type[LlregError]]:
    kinds = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, LlregError)]
    return sorted(kinds, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", _every_kind())
def test_every_error_is_an_llreg_error_with_a_plain_sentence(kind: type[LlregError]) -> None:
    error = _example(kind)
    assert isinstance(error, LlregError)
    assert not str(error).startswith(("'", '"'))  # KeyError would show the repr
    assert kind.__doc__


@pytest.mark.parametrize(("kind", "builtin"), BUILTIN.items(), ids=lambda value: value.__name__)
def test_caught_as_builtin(kind: type[LlregError], builtin: type[Exception]) -> None:
    error = _example(kind)
    with pytest.raises(builtin) as caught:
        raise error
    assert caught.value is error


def test_newer_format_is_an_invalid_file() -> None:
    assert issubclass(errors.FormatVersionError, errors.InvalidFileError)


@pytest.mark.parametrize("kind", MODEL, ids=lambda kind: kind.__name__)
def test_model_errors_do_not_stop_other_models(kind: type[LlregError]) -> None:
    with pytest.raises(errors.ModelError, match="what to do"):
        raise _example(kind)


@pytest.mark.parametrize("kind", _every_kind())
def test_pickles(kind: type[LlregError]) -> None:
    error = _example(kind)
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert str(back) == str(error)
    if isinstance(back, InvalidFileError):
        assert (back.file, back.problem, back.field) == ("rows/aa/x.zarr.zip", "expected 1; got 2", "identity.model")


def test_invalid_file_names_file_and_field() -> None:
    assert str(InvalidFileError("a/b.json", "expected 1; got 2", field="x.y")) == "a/b.json: x.y: expected 1; got 2"
    assert str(InvalidFileError(Path("a/b.json"), "cannot be read")) == "a/b.json: cannot be read"


def test_missing_extra_ends_in_the_install_line() -> None:
    assert str(MissingExtraError("torch", "extract")).endswith('pip install "llreg[extract]"')


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EFBIG, "the file size limit"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EPERM, "not permitted"),
    ],
)
def test_the_disks_refusals_are_told_in_a_sentence(number: int, told: str) -> None:
    with pytest.raises(StorageError, match=f"cannot write some/file: {told}") as caught, storage_errors("some/file"):
        raise OSError(number, "as the system says it")
    assert isinstance(caught.value.__cause__, OSError)


def test_other_failures_are_not_the_disks() -> None:
    with pytest.raises(OSError, match="gone") as caught, storage_errors("some/file"):
        raise OSError(errno.ENOENT, "gone")
    assert not isinstance(caught.value, LlregError)


def test_storage_error_is_not_wrapped_twice() -> None:
    told = pytest.raises(StorageError, match=r"^cannot write inner: the disk is full; .*$")
    with told, storage_errors("outer"), storage_errors("inner"):
        raise OSError(errno.ENOSPC, "No space left on device")
