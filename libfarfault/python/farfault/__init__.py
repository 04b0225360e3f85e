# SPDX-License-Identifier: GPL-2.0-or-later
"""Arrays larger than memory with transactions, and memory that can be taken away.

    >>> import farfault
    >>> with farfault.File("data", size=1 << 30, limit=64 << 20) as f:
    ...     a = f.array("float64", (1 << 27,))
    ...     with f.transaction():
    ...         a[:] = 1.0

The work is done by libfarfault, whose threads load what is touched. Python code cannot be called from
there: whoever touches an array waits with the interpreter's lock held. So files are plain files, folders of
chunks or compressed files, and what regenerates volatile memory is a C function.
"""
from __future__ import annotations

import atexit
import ctypes
import errno
import operator
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy

__all__ = ["Array", "File", "FileStats", "REGENERATE", "Volatile", "VolatileStats"]

try:
    _lib = ctypes.CDLL(os.environ.get("FARFAULT_LIBRARY", "libfarfault.so.0"))
except OSError as e:
    raise ImportError(
        f"farfault needs libfarfault.so.0 (Debian: package libfarfault0); where it is not installed, "
        f"FARFAULT_LIBRARY has its path: {e}"
    ) from e
_lib.ff_last_error.restype = ctypes.c_char_p

#: What Volatile(regenerate=...) takes: int f(void *opaque, size_t page, void *buffer). Of a C function, as in
#: REGENERATE(("name", library)), or its address; not of a Python function.
REGENERATE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)

USER_MODE = 1
WRITE_FAULTS = 0x10
RANDOM = 0x20
HUGE = 0x40
_WAS_PURGED = 1
_ALL = ctypes.c_size_t(-1).value


class _ArrayOptions(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("block_size", ctypes.c_size_t), ("limit", ctypes.c_size_t),
                ("threads", ctypes.c_uint), ("flags", ctypes.c_uint), ("spill", ctypes.c_char_p)]


class _ArrayStats(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t)] + [
        (name, ctypes.c_uint64) for name in ("bytes", "changed", "faults", "loads", "stores", "evictions",
                                             "spilled", "failed", "ahead")]


class _VolatileOptions(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("page_size", ctypes.c_size_t), ("limit", ctypes.c_size_t),
                ("threads", ctypes.c_uint), ("flags", ctypes.c_uint)]


class _VolatileStats(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t)] + [
        (name, ctypes.c_uint64) for name in ("bytes", "purged", "regenerated", "failed", "pressure")]


def _declare(name: str, result: Any, *arguments: Any) -> None:
    function = getattr(_lib, name)
    function.restype = result
    function.argtypes = arguments


_P, _SIZE, _U64, _INT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_int
for _open in ("ff_array_open", "ff_array_open_chunks"):
    _declare(_open, _INT, ctypes.c_char_p, _U64, ctypes.POINTER(_ArrayOptions), ctypes.POINTER(_P))
_declare("ff_array_open_zstd", _INT, ctypes.c_char_p, ctypes.POINTER(_ArrayOptions), ctypes.POINTER(_P))
_declare("ff_array_free", None, _P)
_declare("ff_array_len", _U64, _P)
_declare("ff_array_map", _INT, _P, _U64, _SIZE, ctypes.POINTER(_P))
_declare("ff_array_unmap", _INT, _P, _P)
_declare("ff_array_commit", _INT, _P)
_declare("ff_array_sync", _INT, _P)
_declare("ff_array_abort", _INT, _P)
_declare("ff_array_invalidate", _INT, _P, _U64, _U64)
_declare("ff_array_reclaim", ctypes.c_ssize_t, _P, _SIZE)
_declare("ff_array_stats", _INT, _P, ctypes.POINTER(_ArrayStats))
_declare("ff_volatile_new", _INT, _SIZE, _P, _P, ctypes.POINTER(_VolatileOptions), ctypes.POINTER(_P))
_declare("ff_volatile_free", None, _P)
_declare("ff_volatile_addr", _P, _P)
for _call in ("pin", "unpin", "is_pinned"):
    _declare("ff_volatile_" + _call, _INT, _P, _SIZE, _SIZE)
_declare("ff_volatile_purge", ctypes.c_ssize_t, _P, _SIZE)
_declare("ff_volatile_set_limit", _INT, _P, _SIZE)
_declare("ff_volatile_watch", _INT, _P, _INT, ctypes.c_short)
_declare("ff_volatile_stats", _INT, _P, ctypes.POINTER(_VolatileStats))


def _check(result: int) -> int:
    """RESULT, or the exception of what it says (OSError)."""
    if result < 0:
        text = _lib.ff_last_error().decode(errors="replace")
        raise OSError(-result, text.replace("FF_MEMORY_USER_MODE", "user_mode=True")
                      .replace("FfArrayOptions.block_size 0", "block_size=0"))
    return result


def _number(name: str, value: Any, bits: int = 63) -> int:
    """VALUE, of the argument NAME, as a number that the library can have."""
    try:
        n = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: a whole number, not {value!r}") from None
    if not 0 <= n < 1 << bits:
        raise ValueError(f"{name}: {n} is not from 0 to 2**{bits} - 1")
    return n


def _path(path: str | os.PathLike[str]) -> bytes:
    name = os.fsencode(path)
    if b"\0" in name:
        raise ValueError("embedded null byte")
    return name


def _number_in(path: str, word: str = "") -> int | None:
    """The number in a file; after WORD, in the line that begins so. None: there is none ("max")."""
    try:
        with open(path) as file:
            for line in file:
                parts = line.split()
                if parts and (not word or parts[0] == word):
                    return int(parts[-1])
    except (OSError, ValueError):
        pass
    return None


def _room(root: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> int | None:
    """Bytes of memory that are left in this process's control groups; None: none of them has a limit. What the page
    cache has and nobody uses counts as left."""
    try:
        with open(own) as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return None
    least = None
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers == "":
            base, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base, names = root + "/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = os.path.normpath(base + "/" + path)
        while folder == base or folder.startswith(base + "/"):
            limit, used = _number_in(f"{folder}/{names[0]}"), _number_in(f"{folder}/{names[1]}")
            if limit is not None and used is not None and limit < 1 << 60:  # version 1 has a huge one for none
                left = limit - used + (_number_in(f"{folder}/memory.stat", names[2]) or 0)
                least = max(left, 0) if least is None else min(least, max(left, 0))
            folder = os.path.dirname(folder)
    return least


def _default_limit() -> int:
    """Half of it: what is computed needs memory as well. 0: there is no limit."""
    room = _room()
    return 0 if room is None else max(room // 2, 1 << 20)


class _Handle:
    """An object of the library's, which is freed with the last who has this."""

    def __init__(self, pointer: int, free: str) -> None:
        self.pointer = pointer
        self._free = weakref.finalize(self, getattr(_lib, free), pointer)
        # At exit arrays may still be there. What was committed is safe.
        self._free.atexit = False

    def __reduce__(self) -> Any:
        raise TypeError("it is of this process: open the file, or make the memory, where it is needed")


#: Those of files; what they have committed is in its place when the interpreter ends.
_files: weakref.WeakSet[_Handle] = weakref.WeakSet()


@atexit.register
def _sync_all() -> None:
    for handle in _files.copy():
        _lib.ff_array_sync(handle.pointer)  # else the next one that opens it does that


class _Mapping:
    """Of an array; unmapped with the last numpy array that shows it."""

    def __init__(self, file: File, handle: _Handle, address: int) -> None:
        self.file = file
        # The finalizer has the handle: the array is freed after it.
        self._unmap = weakref.finalize(self, _Mapping._end, handle, address)
        self._unmap.atexit = False

    @staticmethod
    def _end(handle: _Handle, address: int) -> None:
        _lib.ff_array_unmap(handle.pointer, address)


def _buffer(address: int, size: int, owner: object) -> Any:
    """SIZE bytes at ADDRESS, which keep OWNER."""
    buffer = (ctypes.c_char * size).from_address(address)
    buffer.owner = owner
    return buffer


class Array(numpy.ndarray):
    """A numpy array whose memory is a part of a File. Views of it are Arrays as well; what is computed from it
    is a numpy.ndarray or a scalar, in ordinary memory. The part stays mapped as long as one of them is there.
    Two of the same bytes show the same memory at two addresses: numpy does not know that they overlap."""

    def __array_wrap__(self, array: Any, *rest: Any) -> Any:
        """As numpy.memmap: an Array only if it was given for the result."""
        if array is self:
            return array
        return array[()] if array.shape == () else array.view(numpy.ndarray)

    @property
    def file(self) -> File | None:
        """The file that it is a part of; None: of none (it was computed, or copied)."""
        memory: Any = self
        while isinstance(memory, numpy.ndarray):
            memory = memory.base
        owner = getattr(memory, "owner", None)
        return owner.file if isinstance(owner, _Mapping) else None


class FileStats(NamedTuple):
    """What File.stats() says."""

    bytes: int  #: of memory
    changed: int  #: pages of 4096 bytes, as far as it is known
    faults: int  #: touches of what was not there
    loads: int  #: blocks
    stores: int  #: blocks
    evictions: int  #: blocks that gave their memory back
    spilled: int  #: pages that were changed, and had no room in memory
    failed: int  #: loads
    ahead: int  #: loads of what was not touched yet


class File:
    """A file of which arrays are parts: loaded when they are touched, changed by transactions.

    path: a file, which is made if it is not there; chunks=True: a folder, with a file for each block;
    compressed=True: a file of zstd's seekable format, which is only read: what is changed is in memory alone, and
    commit() is an OSError (EROFS).
    size: bytes; None: as long as the file is (not of chunks; of a compressed file always). A shorter file is made
    longer, with zeros.
    limit: bytes of memory for all arrays of it; 0: no limit; None: half of what is left in the process's control
    groups (of huge pages: no limit; and where these have none). What is changed can be more: it goes to PATH.redo, and
    where that has no room memory grows until a commit or an abort.
    block_size: what is loaded at once: a power of two from 4096 to 2 MiB; 0: 64 KiB, of huge pages 2 MiB, of chunks that
    are there as they are.
    threads: that load at once, at most; 0: as many as are waited for.
    user_mode: needs no permission; system calls of memory that is not there (tofile(), readinto()) fail then: touch
    it first, or copy it.
    write_faults: each first write to a page is a fault, as before Linux 6.7, in place of a look at the page tables.
    random: nothing is loaded before it is touched.
    huge: memory of huge pages of 2 MiB; as many as limit has must be free.

    It is locked until it was closed and its arrays are gone; a child of fork() has none of it.
    Its methods can be called by any thread, but nobody may write to its arrays while one commits or aborts.
    OSError: what failed, and what to do.
    """

    def __init__(self, path: str | os.PathLike[str], size: int | None = None, *, limit: int | None = None,
                 block_size: int = 0, chunks: bool = False, threads: int = 0, user_mode: bool = False,
                 write_faults: bool = False, random: bool = False,
                 huge: bool = False, compressed: bool = False) -> None:
        if compressed and (chunks or size is not None):
            raise ValueError("a compressed file is no folder, and has its own size")
        name = _path(path)
        if size is not None and _number("size", size) == 0:
            raise ValueError("size: 0 bytes")
        if chunks and size is None:
            raise ValueError("size= is needed: a folder of chunks does not say how long the array is")
        if os.path.isdir(name) and not chunks:
            raise IsADirectoryError(errno.EISDIR, "it is a folder: chunks=True if it is one of chunks", os.fspath(path))
        try:
            os.stat(os.path.dirname(name.rstrip(b"/")) or b".")
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, "the folder that it is to be in is not there",
                                    os.fspath(path)) from None
        except OSError:
            pass  # the library says it
        if size is None and not os.path.exists(name):
            raise FileNotFoundError(errno.ENOENT, "it is not there" if compressed else
                                    "it is not there: give size= to make it", os.fspath(path))
        if limit is None:
            limit = 0 if huge else _default_limit()
        limit, block_size = _number("limit", limit), _number("block_size", block_size)
        threads = _number("threads", threads, 32)
        flags = (USER_MODE if user_mode else 0) | (WRITE_FAULTS if write_faults else 0) | (RANDOM if random else 0)
        flags |= HUGE if huge else 0
        options = _ArrayOptions(ctypes.sizeof(_ArrayOptions), block_size, limit, threads, flags, None)
        pointer = ctypes.c_void_p()
        result = ctypes.byref(options), ctypes.byref(pointer)
        if compressed:
            _check(_lib.ff_array_open_zstd(name, *result))
        else:
            function = _lib.ff_array_open_chunks if chunks else _lib.ff_array_open
            _check(function(name, size or 0, *result))
        assert pointer.value
        self._handle: _Handle | None = _Handle(pointer.value, "ff_array_free")
        _files.add(self._handle)
        self._in_transaction = False
        self._page_size = 2 << 20 if huge else 4096

    def _open_handle(self) -> _Handle:
        """Who calls the library has it until that returns: another thread may close() meanwhile."""
        handle = self._handle
        if handle is None:
            raise ValueError("the file is closed")
        return handle

    def _call(self, function: Any, *arguments: Any) -> int:
        handle = self._open_handle()
        try:
            return _check(function(handle.pointer, *arguments))
        finally:
            del handle  # an exception that is kept does not keep the file

    def __enter__(self) -> File:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """What was committed is in its place, what was not is dropped. The file is free for others when its arrays
        are gone as well: until then they show what they have, and what is written to them goes nowhere."""
        handle, self._handle = self._handle, None  # another thread may close it as well
        if handle is not None:
            _lib.ff_array_sync(handle.pointer)  # else that is done when its arrays are gone

    def __len__(self) -> int:
        """Bytes."""
        return self._call(_lib.ff_array_len)

    def array(self, dtype: Any, shape: Any = None, offset: int = 0) -> Array:
        """The bytes from OFFSET on as an array. shape None: one dimension, to the end."""
        kind = numpy.dtype(dtype)
        if kind.hasobject:
            raise TypeError("Python objects cannot be in a file")
        if kind.itemsize == 0:
            raise ValueError(f"dtype: {kind.str} has no size: say how long, as in U8")
        offset = _number("offset", offset)
        if shape is None:
            left = len(self) - offset
            if left <= 0 or left % kind.itemsize:
                raise ValueError(f"{left} bytes from offset {offset} on are not whole numbers of {kind.itemsize} bytes: "
                                 "give shape=")
            shape = left // kind.itemsize
        shape = (shape,) if isinstance(shape, (int, numpy.integer)) else tuple(shape)
        if any(n < 0 for n in shape):
            raise ValueError(f"shape {shape}: no -1 here; shape None is all that is left, and reshape() knows -1")
        size = kind.itemsize
        for n in shape:
            size *= int(n)
        if offset < 0 or size <= 0 or offset + size > len(self):
            raise ValueError(f"{size} bytes at {offset} are not in the file, which has {len(self)}")
        first = offset // self._page_size * self._page_size
        address = ctypes.c_void_p()
        handle = self._open_handle()
        try:
            _check(_lib.ff_array_map(handle.pointer, first, offset + size - first, ctypes.byref(address)))
            assert address.value
            mapping = _Mapping(self, handle, address.value)
        finally:
            del handle
        memory = _buffer(address.value + offset - first, size, mapping)
        return Array(shape, kind, memory)

    @contextmanager
    def transaction(self) -> Iterator[File]:
        """with f.transaction(): ... commits at the end, and aborts if an exception is raised inside of it. All that
        was changed since the last commit or abort belongs to it. A KeyboardInterrupt while it commits is raised when
        the commit has ended, and what was changed is committed."""
        if self._in_transaction:
            raise RuntimeError("a transaction is under way; they do not nest")
        self._in_transaction = True
        try:
            yield self
        except BaseException:
            self.abort()
            raise
        else:
            self.commit()
        finally:
            self._in_transaction = False

    def commit(self) -> None:
        """All that was changed is in the file, or (an exception) nothing is; also after a power failure. But for one
        that says to open it again: then that tells."""
        self._call(_lib.ff_array_commit)

    def abort(self) -> None:
        """What was changed since the last commit is as it was."""
        self._call(_lib.ff_array_abort)

    def invalidate(self, offset: int = 0, size: int = 0) -> None:
        """SIZE bytes at OFFSET, whole blocks (0: to the end), are loaded again; changes there are lost."""
        self._call(_lib.ff_array_invalidate, offset, size)

    def reclaim(self, size: int = _ALL) -> int:
        """Gives up to SIZE bytes of memory back that are not changed. Returns how many."""
        return self._call(_lib.ff_array_reclaim, size)

    def stats(self) -> FileStats:
        """Counters."""
        s = _ArrayStats(ctypes.sizeof(_ArrayStats))
        self._call(_lib.ff_array_stats, ctypes.byref(s))
        return FileStats(*(getattr(s, name) for name in FileStats._fields))


def _is_python(function: Any) -> bool:
    """A Python function, also one that ctypes has made a C function of."""
    if not isinstance(function, ctypes._CFuncPtr):  # type: ignore[attr-defined]
        return callable(function)
    return any(type(o).__name__ == "CThunkObject" for o in (function._objects or {}).values())


class VolatileStats(NamedTuple):
    """What Volatile.stats() says."""

    bytes: int  #: of memory
    purged: int  #: pages
    regenerated: int  #: pages
    failed: int  #: pages that could not be regenerated
    pressure: int  #: events of watch()


class Volatile:
    """Memory whose pages can be taken away while they are not pinned. All of it is pinned at first.

    size: bytes, whole pages; page_size: a power of two from 4096 to 2 MiB.
    regenerate: a C function (a REGENERATE, or its address) that fills a page again when it is touched. A Python
    function would need the interpreter's lock, which whoever touches the page holds: TypeError. None: a page
    that was purged is zeros, and pin() says so once.
    limit: bytes of memory; what is not pinned goes when more is used. 0: no limit.

    memory is all of it, a numpy array of bytes; it goes when that, its views and this are gone. OSError: what failed,
    and what to do.
    """

    #: All of it; numpy arrays of other types are views: v.memory.view("float32").
    memory: numpy.ndarray[Any, numpy.dtype[numpy.uint8]]

    def __init__(self, size: int, regenerate: Any = None, *, page_size: int = 4096, limit: int = 0,
                 opaque: int = 0, threads: int = 0, user_mode: bool = False) -> None:
        if _is_python(regenerate):
            raise TypeError("regenerate must be a C function (farfault.REGENERATE): Python code would wait for "
                            "the interpreter's lock, which is held by whoever touches the page")
        if isinstance(regenerate, (str, bytes)):
            raise TypeError("regenerate: a C function (farfault.REGENERATE), not its name")
        size, page_size = _number("size", size), _number("page_size", page_size)
        options = _VolatileOptions(ctypes.sizeof(_VolatileOptions), page_size, _number("limit", limit),
                                   _number("threads", threads, 32), USER_MODE if user_mode else 0)
        pointer = ctypes.c_void_p()
        function = ctypes.cast(regenerate, ctypes.c_void_p) if regenerate is not None else None
        _check(_lib.ff_volatile_new(size, function, opaque, ctypes.byref(options), ctypes.byref(pointer)))
        assert pointer.value
        self._regenerate = regenerate
        self._handle = _Handle(pointer.value, "ff_volatile_free")
        memory = _buffer(_lib.ff_volatile_addr(pointer), size, (self._handle, regenerate))
        self.memory = numpy.frombuffer(memory, numpy.uint8)

    def pin(self, offset: int = 0, size: int = 0) -> bool:
        """SIZE bytes at OFFSET, whole pages (0: to the end), stay. True: some of them were purged since they were
        unpinned, and nothing regenerates them. Not counted: twice is once."""
        return _check(_lib.ff_volatile_pin(self._handle.pointer, offset, size)) == _WAS_PURGED

    def unpin(self, offset: int = 0, size: int = 0) -> None:
        """They may go at any time, with what was written to them."""
        _check(_lib.ff_volatile_unpin(self._handle.pointer, offset, size))

    def is_pinned(self, offset: int = 0, size: int = 0) -> bool:
        """All of them are."""
        return bool(_check(_lib.ff_volatile_is_pinned(self._handle.pointer, offset, size)))

    @contextmanager
    def pinned(self, offset: int = 0, size: int = 0) -> Iterator[bool]:
        """with v.pinned(offset, size) as was_purged: ..."""
        was_purged = self.pin(offset, size)
        try:
            yield was_purged
        finally:
            self.unpin(offset, size)

    def purge(self, size: int = _ALL) -> int:
        """Takes SIZE bytes of what is not pinned, the oldest first. Returns how many are free now."""
        return _check(_lib.ff_volatile_purge(self._handle.pointer, size))

    def set_limit(self, size: int) -> None:
        """Of memory; 0: no limit."""
        _check(_lib.ff_volatile_set_limit(self._handle.pointer, _number("size", size)))

    def watch(self, fd: int = -1, events: int = 0) -> None:
        """Purges half of what is not pinned when poll() of FD has one of EVENTS; -1: when the system has memory
        pressure."""
        if fd >= 0:
            os.fstat(fd)  # OSError: there is no such file
        _check(_lib.ff_volatile_watch(self._handle.pointer, fd, events))

    def stats(self) -> VolatileStats:
        """Counters."""
        s = _VolatileStats(ctypes.sizeof(_VolatileStats))
        _check(_lib.ff_volatile_stats(self._handle.pointer, ctypes.byref(s)))
        return VolatileStats(*(getattr(s, name) for name in VolatileStats._fields))
