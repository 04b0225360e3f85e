#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The Python module: files and their arrays, transactions, threads, volatile memory, and an array of three times
the memory that the process may use (a control group, where one can be made). Prints TAP.

    test-python.py SOURCE LIBRARY
"""
import contextlib
import ctypes
import doctest
import gc
import os
import pathlib
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import traceback

source, library = map(os.path.abspath, sys.argv[1:3])
os.environ["FARFAULT_LIBRARY"] = library
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(source, "libfarfault/python"))
try:
    import numpy
except ImportError:
    print("1..0 # SKIP python3-numpy is not installed")
    sys.exit(0)
import farfault  # noqa: E402

MIB = 1 << 20


@contextlib.contextmanager
def raises(kind, text=""):
    try:
        yield
    except kind as e:
        assert text in str(e), str(e)
    else:
        raise AssertionError(f"no {kind.__name__}")


def test_transactions(folder):
    path = folder / "data"
    with farfault.File(path, size=8 * MIB, limit=MIB) as f:
        assert len(f) == 8 * MIB
        a = f.array("int32", (1024, 2048))
        assert isinstance(a, numpy.ndarray) and isinstance(a, farfault.Array) and a.file is f
        assert a.shape == (1024, 2048) and not a.any()
        with f.transaction():
            a[:] = numpy.arange(2048)
            a[7] += 1
        with raises(ZeroDivisionError):
            with f.transaction():
                a[:] = 5
                1 / 0
        assert (a[6] == numpy.arange(2048)).all() and (a[7] == numpy.arange(2048) + 1).all()
        b = f.array("int32", 2048, offset=7 * 2048 * 4)  # the same memory
        b[0] = 77
        assert a[7, 0] == 77
        f.abort()
        assert b[0] == 1
        assert f.stats().bytes <= MIB and f.stats().spilled > 0
        with raises(RuntimeError):
            with f.transaction(), f.transaction():
                pass
        with raises(OSError, "somebody has it open"):
            farfault.File(path)
        assert type(a * 2) is numpy.ndarray and type(a[3:5]) is farfault.Array and a[3:5].file is f
        assert isinstance(a.sum(), numpy.integer) and hash(a.max()) is not None
        a += 1
        assert type(a) is farfault.Array and a.file is f
        f.abort()
        with raises(ValueError, "no -1"):
            f.array("int32", (-1, 2))
        del a, b
    gc.collect()
    assert numpy.fromfile(path, "int32").reshape(1024, 2048)[7, 5] == 6
    with farfault.File(path) as f:
        a = f.array("int32")
        assert a.size == 2 * MIB and a[7 * 2048 + 5] == 6
        a.tofile(folder / "copy")  # a system call of all of it
        assert (numpy.fromfile(folder / "copy", "int32") == a).all()
        with open(folder / "copy", "rb") as g:  # and one into it
            assert g.readinto(memoryview(f.array("uint8"))) == 8 * MIB
        assert f.reclaim() >= 0
        f.invalidate()
        assert a[7 * 2048 + 5] == 6


def test_lifetime(folder):
    f = farfault.File(folder / "data", size=MIB)
    a = f.array("uint8")
    view = a[100:200]
    del a
    f.close()
    with raises(ValueError, "closed"):
        f.commit()
    view[:] = 3  # still there
    assert view.sum() == 300
    del view
    gc.collect()
    farfault.File(folder / "data").close()
    with raises(ValueError):
        farfault.File(folder / "data").array("uint8", 2 * MIB)
    gc.collect()  # newer Pythons keep what an error has seen until then
    with raises(TypeError):
        farfault.File(folder / "data").array(object)
    gc.collect()
    with raises(FileNotFoundError, "the folder"):
        farfault.File(folder / "not" / "there", size=MIB)
    with raises(OSError, "give size="):
        farfault.File(folder / "typo")
    for size in -1, 0, (1 << 64) + 4096, 1 << 70:
        with raises(ValueError, "size"):
            farfault.File(folder / "typo", size=size)
    with raises(TypeError, "limit"):
        farfault.File(folder / "typo", size=MIB, limit="1G")
    with raises(ValueError, "threads"):
        farfault.File(folder / "typo", size=MIB, threads=(1 << 32) + 1)
    with raises(ValueError, "null byte"):
        farfault.File(os.fspath(folder / "typo") + "\0b", size=MIB)
    with raises(IsADirectoryError, "chunks=True"):
        farfault.File(folder)
    with raises(ValueError, "size= is needed"):
        farfault.File(folder, chunks=True)
    with farfault.File(folder / "data") as f:
        with raises(TypeError, "of this process"):
            pickle.dumps(f)
        with raises(ValueError, "no size"):
            f.array("U")
        with raises(ValueError, "whole numbers of 8 bytes"):
            f.array("float64", offset=4)
    del f
    gc.collect()
    assert sorted(p.name for p in folder.iterdir()) == ["data", "data.redo"]


def test_log(folder):
    """It is empty when the file is closed, and when the interpreter ends, although an array is still there: the file
    is what was committed, for anybody."""
    log = folder / "data.redo"
    with farfault.File(folder / "data", size=MIB, limit=MIB // 4) as f:
        a = f.array("uint8")
        with f.transaction():
            a[:] = 7
        assert log.stat().st_size > MIB
        a[:] = 8  # more than there is memory for
    assert log.stat().st_size > MIB  # of which the log is all there is
    del a, f
    gc.collect()
    assert log.stat().st_size == 0
    with farfault.File(folder / "data") as f:
        a = f.array("uint8")
        with f.transaction():
            a[0] = 9
        assert log.stat().st_size > 0
    assert log.stat().st_size == 0
    del a, f
    gc.collect()
    text = "f = farfault.File('data'); a = f.array('uint8'); a[1] = 10; f.commit(); a[2] = 11"
    subprocess.run([sys.executable, "-c", "import farfault; " + text], cwd=folder, check=True,
                   env={**os.environ, "PYTHONPATH": os.path.join(source, "libfarfault/python"), "PYTHONDONTWRITEBYTECODE": "1"})
    assert log.stat().st_size == 0
    assert bytes((folder / "data").read_bytes()[:3]) == bytes([9, 10, 7])


def test_closed_twice(folder):
    """By several threads at once: nobody frees it under another."""
    for _ in range(30):
        f = farfault.File(folder / "data", size=MIB, limit=MIB // 4)
        a = f.array("uint8")
        a[:] = 1
        f.commit()
        del a
        gate = threading.Barrier(3)

        def close():
            gate.wait()
            f.close()

        threads = [threading.Thread(target=close) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (folder / "data.redo").stat().st_size == 0
        del f, close, thread, threads
        gc.collect()


def test_chunks(folder):
    with farfault.File(folder / "chunks", size=MIB, chunks=True) as f:
        with f.transaction():
            f.array("uint8")[3 * 65536] = 9
    gc.collect()
    assert sorted(p.name for p in (folder / "chunks").iterdir()) == ["0000000000000003", "block_size"]
    with raises(OSError, "not of 4096 bytes"):
        farfault.File(folder / "chunks", size=MIB, chunks=True, block_size=4096)
    with farfault.File(folder / "chunks", size=MIB, chunks=True) as f:
        assert f.array("uint8")[3 * 65536] == 9
    farfault.File(folder / "small", size=MIB, chunks=True, block_size=4096).close()
    gc.collect()
    with farfault.File(folder / "small", size=MIB, chunks=True) as f:  # as it was made
        f.array("uint8")[4096] = 1
        f.commit()
    farfault.File(os.fspath(folder / "slash") + "/", size=MIB, chunks=True).close()
    assert sorted(p.name for p in (folder / "small").iterdir()) == ["0000000000000001", "block_size"]


def write_seekable(path, data, frame):
    """DATA by zstd's seekable format, in frames of so many bytes."""
    zstd = ctypes.CDLL("libzstd.so.1")
    zstd.ZSTD_compress.restype = ctypes.c_size_t
    file, table, n = b"", b"", 0
    for n, at in enumerate(range(0, len(data), frame), 1):
        plain = data[at:at + frame]
        packed = ctypes.create_string_buffer(len(plain) + 1024)
        size = zstd.ZSTD_compress(packed, ctypes.c_size_t(len(packed)), plain, ctypes.c_size_t(len(plain)), 3)
        file += packed.raw[:size]
        table += struct.pack("<II", size, len(plain))
    table += struct.pack("<IBI", n, 0, 0x8F92EAB1)
    path.write_bytes(file + struct.pack("<II", 0x184D2A5E, len(table)) + table)


def test_compressed(folder):
    path = folder / "data.zst"
    numbers = numpy.arange(1 << 18, dtype="int64") // 3
    write_seekable(path, numbers.tobytes(), 100000)
    with farfault.File(path, compressed=True, limit=MIB // 2, block_size=16384) as f:
        a = f.array("int64")
        assert (a == numbers).all() and len(f) == numbers.nbytes
        with raises(OSError, "can only be read"):
            with f.transaction():
                a[:] = 5
        assert (a == 5).all()
        f.abort()
        assert (a == numbers).all()
        with farfault.File(path, compressed=True) as g:  # somebody else
            assert (g.array("int64") == numbers).all()
        del a
    gc.collect()
    for wrong in {"chunks": True}, {"size": 5}:
        with raises(ValueError, "its own size"):
            farfault.File(path, compressed=True, **wrong)
    path.write_bytes(path.read_bytes()[:-1])
    with raises(OSError, "the file is cut"):
        farfault.File(path, compressed=True)
    assert [p.name for p in folder.iterdir()] == ["data.zst"]


def test_huge(folder):
    with raises(OSError, "2 MiB"):
        farfault.File(folder / "data", size=8 * MIB, huge=True, block_size=4096)
    try:
        f = farfault.File(folder / "data", size=8 * MIB, limit=8 * MIB, huge=True)
    except OSError as e:
        assert "huge pages" in str(e), e
        print(f"# {e}")
        return
    a = f.array("uint8", 5, offset=3 * MIB + 1)
    with f.transaction():
        a[:] = 7
    assert f.array("uint8")[3 * MIB:3 * MIB + 8].tolist() == [0, 7, 7, 7, 7, 7, 0, 0]
    f.close()


def test_threads(folder):
    """Who waits for a block holds the interpreter's lock, or does not: both get it."""
    with farfault.File(folder / "data", size=8 * MIB, limit=MIB) as f:
        a = f.array("int64")

        def work(index):
            for i in range(index, a.size, 4 * 512):
                a[i] = index + 1
            a[index::4 * 512].sum()

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        f.commit()
        assert a.sum() == (1 + 2 + 3 + 4) * a.size // 2048
        del a
    gc.collect()


def test_closed_meanwhile(folder):
    """A file that another thread closes while it is committed is there until that has ended."""
    f = farfault.File(folder / "data", size=32 * MIB)
    a = f.array("uint8")
    a[:] = 1
    del a
    gc.collect()
    done = []
    thread = threading.Thread(target=lambda: done.append(f.commit()))
    thread.start()
    while not done and os.path.getsize(folder / "data.redo") == 0 and thread.is_alive():
        pass
    f.close()
    thread.join()
    assert done == [None]
    with farfault.File(folder / "data") as again:
        assert again.array("uint8").all()
    gc.collect()


def test_volatile(folder):
    v = farfault.Volatile(MIB)
    assert v.is_pinned() and v.memory.size == MIB
    v.memory[:] = 7
    v.unpin(0, MIB // 2)
    assert v.purge() == MIB // 2
    assert not v.memory[:MIB // 2].any() and (v.memory[MIB // 2:] == 7).all()
    with v.pinned(4096, 4096) as was_purged:
        assert was_purged
    assert not v.pin(4096, 4096) and v.pin()
    assert v.stats().purged == 128
    with raises(OSError, "whole pages"):
        v.pin(1, 4096)
    with raises(OSError):
        v.watch(999)
    with raises(ValueError, "limit"):
        farfault.Volatile(MIB, limit=-1)
    with raises(ValueError, "size"):
        farfault.Volatile(-1)
    with raises(TypeError, "C function"):
        farfault.Volatile(MIB, lambda *_: 0)
    with raises(TypeError, "C function"):
        farfault.Volatile(MIB, farfault.REGENERATE(lambda *_: 0))
    farfault.Volatile(MIB, farfault.REGENERATE(("ff_volatile_pin", farfault._lib)))  # is not called
    memory = v.memory
    del v
    gc.collect()
    assert memory[MIB - 1] == 7  # as long as somebody has it


def run_page(folder, wanted):
    """Runs what docs/arrays.md shows of Python, in the sections that are WANTED, in FOLDER; each output is compared."""
    if int(numpy.__version__.split(".")[0]) > 1:
        numpy.set_printoptions(legacy="1.25")
    page = (pathlib.Path(source) / "docs" / "arrays.md").read_text()
    os.chdir(folder)
    write_seekable(pathlib.Path("measured.zst"), numpy.arange(1 << 20, dtype="float32").tobytes(), MIB)
    names, examples = {"numpy": numpy, "farfault": farfault}, 0
    for section in page.split("\n## ")[1:]:
        title = section.split("\n", 1)[0]
        for block in re.findall(r"(?ms)^```\n(>>> .*?)^```$", section):
            if not wanted(title):
                continue
            test = doctest.DocTestParser().get_doctest(block, {}, title, "docs/arrays.md", 0)
            test.globs = names  # no copy, which would keep what is deleted
            examples += len(test.examples)
            result = doctest.DocTestRunner(verbose=False).run(test, out=sys.stderr.write, clear_globs=False)
            if result.failed:
                sys.exit(f"docs/arrays.md, {title}: it is not so")
    if not examples:
        sys.exit("docs/arrays.md: these sections are not there")


TEN_LINES = "Three times the memory, in ten lines"


def test_default_limit(folder):
    """In a control group with a limit a file without one is not what ends the program."""
    own, root = folder / "own", folder / "root"
    (root / "a" / "b").mkdir(parents=True)
    own.write_text("1:name=systemd:/x\n0::/a/b\n")

    def group(path, limit, used, cached=0):
        (root / path / "memory.max").write_text(f"{limit}\n")
        (root / path / "memory.current").write_text(f"{used}\n")
        (root / path / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")

    def room():
        return farfault._room(str(root), str(own))

    assert room() is None
    group("a/b", "max", 5)
    assert room() is None
    group("a/b", 100 * MIB, 60 * MIB, 10 * MIB)
    assert room() == 50 * MIB
    group("a", 70 * MIB, 65 * MIB)
    assert room() == 5 * MIB
    group("a", 70 * MIB, 75 * MIB)
    assert room() == 0
    own.write_text("0::/\n")  # a namespace of its own
    assert room() is None
    own.write_text("3:cpu:/a\n4:memory:/c\n")
    (root / "memory" / "c").mkdir(parents=True)
    (root / "memory" / "c" / "memory.limit_in_bytes").write_text("9000\n")
    (root / "memory" / "c" / "memory.usage_in_bytes").write_text("4000\n")
    (root / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (root / "memory" / "memory.usage_in_bytes").write_text("4000\n")
    assert room() == 5000
    real, farfault._room = farfault._room, lambda: 2 * MIB
    try:
        with farfault.File(folder / "data", size=8 * MIB) as f:
            a = f.array("uint8")
            assert a.sum() == 0 and f.stats().bytes <= 2 * MIB
            del a
        with farfault.File(folder / "data", limit=0) as f:
            a = f.array("uint8")
            assert a.sum() == 0 and f.stats().bytes == 8 * MIB
            del a
    finally:
        farfault._room = real


def test_import(folder):
    """Without the library: what to do."""
    env = dict(os.environ, FARFAULT_LIBRARY="/nowhere/libfarfault.so.0", PYTHONPATH=os.path.join(source, "libfarfault/python"))
    ran = subprocess.run([sys.executable, "-c", "import farfault"], env=env, stderr=subprocess.PIPE, text=True)
    assert ran.returncode == 1 and "ImportError: farfault needs libfarfault.so.0 (Debian: " in ran.stderr, ran.stderr


def test_page(folder):
    subprocess.run([sys.executable, __file__, source, library, "page", str(folder)], check=True, timeout=150)


def test_larger_than_memory(folder):
    """An array of three times the memory that the process may use."""
    group = pathlib.Path(f"/sys/fs/cgroup/memory/farfault-test-{os.getpid()}")
    limit = group / "memory.limit_in_bytes"
    try:
        group.mkdir()
        limit.write_text(str(64 * MIB))
    except OSError:
        group = None
        print("# no control group can be made here: without one")

    def enter():
        if group:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    try:
        subprocess.run([sys.executable, __file__, source, library, "ten-lines", str(folder)], check=True,
                       preexec_fn=enter, timeout=150)
    finally:
        if group:
            group.rmdir()


def main():
    if sys.argv[3:]:
        run_page(sys.argv[4], lambda title: (title == TEN_LINES) == (sys.argv[3] == "ten-lines"))
        return
    tests = [test_transactions, test_lifetime, test_log, test_closed_twice, test_chunks, test_compressed, test_threads, test_closed_meanwhile, test_huge, test_volatile, test_default_limit, test_import, test_page, test_larger_than_memory]
    folder = pathlib.Path(tempfile.mkdtemp(dir=os.environ.get("TMPDIR")))
    try:
        farfault.File(folder / "probe", size=4096).close()
    except PermissionError as e:
        print(f"1..0 # SKIP {e}")
        shutil.rmtree(folder)
        return
    print(f"1..{len(tests)}", flush=True)
    bad = 0
    for number, test in enumerate(tests, 1):
        one = folder / test.__name__
        one.mkdir()
        try:
            test(one)
            print(f"ok {number} {test.__name__}", flush=True)
        except Exception:
            bad += 1
            print("".join("# " + line + "\n" for line in traceback.format_exc().splitlines()), end="")
            print(f"not ok {number} {test.__name__}", flush=True)
        gc.collect()
    shutil.rmtree(folder)
    sys.exit(bad > 0)


main()
