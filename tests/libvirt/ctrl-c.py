#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""ctrl-c.py COMMAND...: runs COMMAND on a terminal of its own, and types Ctrl-C there when a line
or the end comes from standard input. (virsh takes the key from the terminal, not the signal.)
The status is COMMAND's."""
import os
import pty
import select
import sys


def main():
    child, terminal = pty.fork()
    if child == 0:
        os.execvp(sys.argv[1], sys.argv[1:])
    watched = [terminal, 0]
    while True:
        for fd in select.select(watched, [], [], 90)[0] or sys.exit("no end in 90 s"):
            if fd == 0:
                os.read(0, 100)
                os.write(terminal, b"\x03")
                watched.remove(0)
                continue
            try:
                os.write(1, os.read(terminal, 4096))
            except OSError:  # the terminal's other end was closed
                sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


main()
