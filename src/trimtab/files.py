"""Files on disk: whole-or-nothing writes, and operating-system errors in plain words."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trimtab.errors import RunError, UsageError

_WRITE_REMEDIES = {
    errno.ENOSPC: "Free some disk space, or write to another disk, then run the command again.",
    errno.EDQUOT: "The disk quota is used up: free some space, then run the command again.",
    errno.EFBIG: "The system refuses files of this size: raise the limit (ulimit -f).",
    errno.EACCES: "Make the folder writable, or choose another place.",
    errno.EPERM: "Make the folder writable, or choose another place.",
    errno.EROFS: "This disk is read-only: choose another place.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ENOTDIR: "A part of the path is a file, not a folder: choose another place.",
    errno.EISDIR: "This is a folder: give the name of a file in it.",
    errno.EINVAL: "Choose another name.",
}
_LFS = b"version https://git-lfs.github.com/spec/"
_READ_REMEDIES = {
    errno.ENOENT: "Check the spelling; a relative path starts at the current folder.",
    errno.EACCES: "Make the file readable for this user.",
    errno.EPERM: "Make the file readable for this user.",
    errno.EISDIR: "This is a folder: give the name of a file in it.",
    errno.ENOTDIR: "A part of the path is a file, not a folder.",
    errno.EINVAL: "Check the spelling.",
}


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn an `OSError` of the body into a `RunError` that names `path`, the cause and a remedy."""
    try:
        _check_name(path)
        yield
    except OSError as error:
        remedy = _WRITE_REMEDIES.get(error.errno or 0, "Check the disk, then run it again.")
        raise RunError(f"Cannot write {path}: {_cause(error)}.", remedy) from error


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn an `OSError` of the body into a `UsageError` that names `path`, cause and remedy."""
    try:
        _check_name(path)
        yield
    except OSError as error:
        remedy = _READ_REMEDIES.get(error.errno or 0, "Check that the file can be read.")
        raise UsageError(f"Cannot read {path}: {_cause(error)}.", remedy) from error


def refuse_pointer(path: str | Path) -> None:
    """Refuse what Git LFS leaves in the place of a large file that was not fetched.

    Raises:
        UsageError: The file is such a pointer, or cannot be read.
    """
    with reading(path), open(path, "rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise UsageError(
                f"{path} is a Git LFS pointer, which stands for a file that was not fetched.",
                "Fetch it: run git lfs pull in its repository, or download the file itself.",
            )


def write_atomic(path: str | Path, content: bytes | str) -> None:
    """Write `content` to `path` so that a reader sees the old file or the whole new one.

    The bytes go to a temporary name in the same folder (made if it is missing), are flushed to the
    disk and renamed onto `path`. If anything fails, or the process is interrupted, the old file
    stays as it was and the temporary one is removed. Text is written as UTF-8, unchanged.

    Raises:
        RunError: No space, no permission, a read-only disk, or `path` is not an ordinary file; or
            text with a lone surrogate, which UTF-8 has no bytes for.
    """
    try:
        data = content.encode("utf-8") if isinstance(content, str) else content
    except UnicodeEncodeError as error:
        raise RunError(
            f"Cannot write {path}: character {error.start} of its text is a lone surrogate.",
            "Remove that character from what it was made from.",
        ) from error
    with writing(path):
        target = Path(os.path.realpath(path))  # a link stays a link: what it points to is replaced
        if target.exists() and not target.is_file():
            raise OSError(errno.EISDIR if target.is_dir() else errno.EPERM, "not an ordinary file")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f".trimtab-{secrets.token_hex(8)}.tmp"
        try:
            _write_through(temporary, data)
            os.replace(temporary, target)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        _sync_folder(target.parent)


def _write_through(path: Path, data: bytes) -> None:
    # Not tempfile: its files are private to the user, and results are for the group to read.
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system lets a folder be opened (not on Windows)."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _check_name(path: str | Path) -> None:
    """Refuse, as the system would, what Python refuses before it asks the system."""
    try:
        possible = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise OSError(errno.EINVAL, "no file can have this name")


def _cause(error: OSError) -> str:
    return (error.strerror or str(error)).rstrip(".").lower()
