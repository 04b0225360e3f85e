# SPDX-License-Identifier: GPL-2.0-or-later
# qmp.py SOCKET [COMMAND...]: gives QEMU's monitor each COMMAND (a name, or JSON), and prints what it
# returns; "EVENT NAME [TEXT]" waits for one that has TEXT in it. Fails at the first error.
import json
import socket
import sys
import time

end = time.monotonic() + 120
while True:
    monitor = socket.socket(socket.AF_UNIX)
    try:
        monitor.connect(sys.argv[1])
        break
    except OSError as error:  # QEMU makes it while it starts, and tells nobody
        if time.monotonic() > end:
            sys.exit(f"{sys.argv[1]}: {error}")
        time.sleep(0.05)
monitor.settimeout(120)
lines = monitor.makefile("rw")
lines.readline()
events = []


def call(command):
    if not command.startswith("{"):
        command = json.dumps({"execute": command})
    lines.write(command + "\n")
    lines.flush()
    while True:
        message = json.loads(lines.readline())
        if "error" in message:
            sys.exit(f'{command}: {message["error"]["desc"]}')
        if "return" in message:
            return message["return"]
        events.append(message)


def await_event(name, text=""):
    while True:
        for i, message in enumerate(events):
            if message["event"] == name and text in json.dumps(message):
                del events[: i + 1]
                return
        events.append(json.loads(lines.readline()))


call("qmp_capabilities")
for command in sys.argv[2:]:
    if command.startswith("EVENT "):
        await_event(*command.split()[1:])
    else:
        print(json.dumps(call(command)))
