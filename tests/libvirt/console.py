#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""console.py SOCKET SECONDS REGEX [KEYS]: connects to a guest's serial console, sends KEYS, and
prints the first line that REGEX matches. Status 1: no such line in SECONDS."""
import re
import select
import socket
import sys
import time


def main():
    path, seconds, pattern = sys.argv[1], float(sys.argv[2]), re.compile(sys.argv[3])
    end = time.monotonic() + seconds
    with socket.socket(socket.AF_UNIX) as console:
        console.connect(path)
        console.sendall("".join(sys.argv[4:]).encode())
        text = b""
        while time.monotonic() < end:
            if not select.select([console], [], [], max(0, end - time.monotonic()))[0]:
                break
            data = console.recv(65536)
            if not data:
                sys.exit("the console was closed")
            text += data
            *lines, text = text.split(b"\n")
            for line in lines:  # the first may lack its beginning
                if pattern.search(line.decode(errors="replace")):
                    print(line.decode(errors="replace").strip())
                    return
    sys.exit(f"no line {sys.argv[3]!r} on the console in {seconds:g} s")


main()
