#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""echo.py PORT: sends back what comes, to one client after the other. Listens before it goes into
the background, where its process is named in /run/echo.pid."""
import os
import socket
import sys

listener = socket.create_server(("", int(sys.argv[1])))
child = os.fork()
if child:
    with open("/run/echo.pid", "w") as f:
        f.write(str(child))
    os._exit(0)
null = os.open(os.devnull, os.O_RDWR)
for fd in range(3):
    os.dup2(null, fd)
while True:
    client, _ = listener.accept()
    with client:
        try:
            while data := client.recv(65536):
                client.sendall(data)
        except OSError:
            pass
