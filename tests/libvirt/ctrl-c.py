#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""ctrl-c.py COMMAND...: runs COMMAND on a terminal of its own, and types Ctrl-C there when a line
or the end comes from standard input, and again as long as COMMAND continues regardless, as people do.
(virsh takes the key from the terminal, not the signal, and not before it looks there.) The status is
COMMAND's."""
import os
import pty
import select
import sys
import time

PATIENCE = 10  # seconds from one Ctrl-C to the next
LIMIT = 90  # seconds to the end from the first one, and without a word before it


def main():
    child, terminal = pty.fork()
    if child == 0:
        os.execvp(sys.argv[1], sys.argv[1:])
    watched = [terminal, 0]
    end = again = None
    while True:
        now = time.monotonic()
        if end and now > end:
            sys.exit(f"no end in {LIMIT} s")
        if again and now > again:
            os.write(terminal, b"\x03")
            again = now + PATIENCE
        ready = select.select(watched, [], [], again - now if again and again > now else LIMIT)[0]
        if not ready and not again:
            sys.exit(f"not a word in {LIMIT} s")
        for fd in ready:
            if fd == 0:
                os.read(0, 100)
                os.write(terminal, b"\x03")
                again = time.monotonic() + PATIENCE
                end = time.monotonic() + LIMIT
                watched.remove(0)
                continue
            try:
                os.write(1, os.read(terminal, 4096))
            except OSError:  # the terminal's other end was closed
                sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


main()
