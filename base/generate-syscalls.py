#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes the lists of system calls: generate.py ROOT OUTPUT DEPFILE

Each C file of relay and engine says at its head, after "System calls:" and up to the next full
stop, which it makes; what stands in brackets there is for people. A word that is no system call
does not compile.
"""
import re
import sys
from pathlib import Path

ENGINE = ["engine/*.c", "qapi/*.c", "net/*.c", "migration/**/*.c", "uffd/*.c", "guest/qemu/*.c", "qmp/*.c",
          "content/pagers/*.c", "content/source/content.c", "content/source/file.c", "content/source/image.c", "content/source/sample.c", "content/image/*.c", "content/capture/*.c", "guest/launch/argv-system.c",
          "contract/link.c", "contract/state.c", "contract/discards.c", "contract/upgrade-commit.c",
          "contract/backends.c", "base/files.c", "base/pidfd.c", "base/priority.c", "base/rights.c"]
FAULTS = ["base/failpoints.c"]
# The engine enters its own sandbox from within that of the relay.
RELAY = ["guest/relay/*.c", "guest/vhost/*.c", "base/sandbox.c"]
# What libc's functions are called in the kernel.
KERNEL = {"pwrite": "pwrite64", "pread": "pread64", "recv": "recvfrom", "send": "sendto",
          "setrlimit": "prlimit64", "statvfs": "statfs", "posix_spawn": "execve"}


def calls(text):
    """The system calls that a file names."""
    found = re.search(r"System calls:(.*?)(\.\s|\.$|\*/)", text, re.S)
    if not found:
        return set()
    plain = re.sub(r"\([^)]*\)", " ", re.sub(r"\n \*", " ", found.group(1)))
    words = re.split(r"[\s,;]+", plain.strip())
    return {KERNEL.get(w, w) for w in words if w not in ("", "and", "none")}


def gather(root, patterns):
    """The union over all files, and the files."""
    names, files = set(), []
    for pattern in patterns:
        for path in sorted(root.glob(pattern)):
            files.append(path)
            names |= calls(path.read_text())
    return names, files


def table(name, names):
    """A C array."""
    rows = "".join(f"    __NR_{n},\n" for n in sorted(names))
    return f"static const unsigned {name}[] = {{\n{rows}}};\n"


def main():
    root, output, depfile = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    libraries = root / "base/sandbox-libraries.txt"
    base = {w for line in libraries.read_text().splitlines() if not line.startswith("#")
            for w in line.split()}
    engine, files = gather(root, ENGINE)
    relay, more = gather(root, RELAY)
    faults, points = gather(root, FAULTS)
    Path(output).write_text(
        "/* Made by base/generate-syscalls.py. */\n#include <sys/syscall.h>\n\n"
        + table("engine_calls", base | engine)
        + table("relay_calls", base | engine | relay)
        + "#ifdef FF_FAULTS\n" + table("fault_calls", faults) + "#endif\n")
    inputs = files + more + points + [libraries, Path(__file__)]
    Path(depfile).write_text(f"{output}: {' '.join(str(p) for p in inputs)}\n")


main()
