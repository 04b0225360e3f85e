#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What QEMU's own migration tells of the pages that a guest wrote: dirty-log [OPTION...]

An experiment behind docs/decisions.md ("QEMU's dirty log is not used as a tracker"), and no part of farfault. It starts
one QEMU with the Linux guest of scripts/build-guest, which rewrites its memory, and takes the place of the destination
of a postcopy migration: it reads QEMU's stream, adds up what the discard commands name, and places nothing. Then it ends the stream there, as a process does that is killed, and asks whether the guest can continue.

  --qemu PATH      default: qemu-system-x86_64
  --mem MIB        the guest's RAM, 512
  --hot MIB        how much of it is rewritten at random, 200
  --precopy S      seconds of precopy before the switch, 1
  --stop           `stop` goes before migrate-start-postcopy
  --end WHEN       when the stream ends: `before` the switch, behind the `discards` (default), behind the `device` state
"""
import argparse
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
PAGE = 4096
# migration/savevm.c: sections, commands; migration/common/ram.c: flags in the low bits of an offset
SECTION_END, START, PART, END, FULL, SUBSECTION, CONFIGURATION, COMMAND, FOOTER = 0, 1, 2, 3, 4, 5, 7, 8, 0x7E
DISCARD, PACKAGED = 6, 7
ZERO, MEM_SIZE, NORMAL, EOS, CONTINUE, HOOK = 0x02, 0x04, 0x08, 0x10, 0x20, 0x80


class Stream:
    """What QEMU writes, read by fields."""

    def __init__(self, file):
        self.file = file

    def take(self, n):
        data = self.file.read(n)
        if len(data) < n:
            raise EOFError
        return data

    def number(self, size):
        return int.from_bytes(self.take(size), "big")

    def name(self):
        return self.take(self.number(1))


class Destination(threading.Thread):
    """Reads one migration; .over is set when there is nothing more to learn of it."""

    def __init__(self, path, with_device):
        super().__init__(daemon=True)
        self.with_device = with_device
        self.listener = listener(path)
        self.pages = self.zeros = self.ranges = self.stale = 0
        self.times, self.why = [], "the stream ended"
        self.over = threading.Event()
        self.connection = None

    def run(self):
        self.connection, _ = self.listener.accept()
        stream = Stream(self.connection.makefile("rb"))
        try:
            self.read(stream)
        except (EOFError, OSError):
            pass
        self.over.set()

    def end(self):
        if self.connection:
            self.connection.shutdown(socket.SHUT_RDWR)

    def read(self, s):
        assert s.take(8) == b"QEVM\0\0\0\3"
        while True:
            kind = s.number(1)
            if kind == CONFIGURATION:
                s.take(s.number(4))
            elif kind == SUBSECTION:  # of the configuration: capabilities
                s.name(), s.take(4)
                for _ in range(s.number(4)):
                    s.name()
            elif kind in (START, FULL):
                s.take(4)
                name = s.name()
                s.take(8)
                if name != b"ram":
                    self.why = f"the device state begins with {name.decode()}"
                    return
                self.memory(s)
            elif kind in (PART, END):
                s.take(4)
                self.memory(s)
            elif kind == COMMAND:
                command, length = s.number(2), s.number(2)
                data = s.take(length)
                self.command(command, data)
                if command == PACKAGED:
                    self.package(s, data)
                    return
            elif kind == FOOTER:
                s.take(4)
            else:
                self.why = f"type {kind} is not known here"
                return

    def package(self, s, length):
        self.why = "the device state is next"
        if self.with_device:
            s.take(int.from_bytes(length, "big"))
            self.why = "the device state is read"

    def command(self, command, data):
        if command == DISCARD:
            at = 2 + data[1] + 1  # version, the block's name, its NUL
            for offset in range(at, len(data), 16):
                self.ranges += 1
                self.stale += struct.unpack_from(">QQ", data, offset)[1] // PAGE
            self.times.append(time.monotonic())

    def memory(self, s):
        while True:
            flags = s.number(8)
            size = flags & ~(PAGE - 1)
            if flags & MEM_SIZE:
                while size > 0:
                    s.name()
                    size -= s.number(8)
            elif flags & EOS:
                return
            elif flags & (ZERO | NORMAL):
                if not flags & CONTINUE:
                    s.name()
                if flags & ZERO:
                    s.take(1)
                    self.zeros += 1
                else:
                    s.take(PAGE)
                    self.pages += 1
            elif not flags & HOOK and flags & (PAGE - 1) != 0x200:  # multifd's flush
                raise AssertionError(f"flags {flags:#x} are not known here")


class Qemu:
    """The guest, its console and its monitor."""

    def __init__(self, args, folder):
        guest = os.path.join(ROOT, ".cache", "guest")
        if not os.path.exists(os.path.join(guest, "initrd.img")):
            sys.exit("the guest is not built: run scripts/build-guest")
        load = f"console=ttyS0 quiet panic=-1 no_timer_check ff.mib={args.hot} ff.mode=random"
        monitor, console = listener(f"{folder}/qmp"), listener(f"{folder}/serial")
        self.process = subprocess.Popen(
            [args.qemu, "-nodefaults", "-display", "none", "-accel", "tcg", "-m", f"{args.mem}M", "-no-reboot",
             "-kernel", os.path.join(guest, "vmlinuz"), "-initrd", os.path.join(guest, "initrd.img"), "-append", load,
             "-qmp", f"unix:{folder}/qmp", "-chardev", f"socket,id=s,path={folder}/serial", "-serial", "chardev:s"],
            stdin=subprocess.DEVNULL)
        self.monitor = monitor.accept()[0].makefile("rw")
        self.console = console.accept()[0].makefile("r")
        self.monitor.readline()
        self.tell("qmp_capabilities")

    def wait_console(self, text):
        while text not in self.console.readline():
            pass

    def tell(self, command, **arguments):
        """The answer; of an error its description."""
        self.monitor.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.monitor.flush()
        while True:
            answer = json.loads(self.monitor.readline())
            if "event" not in answer:
                return answer["return"] if "return" in answer else answer["error"]["desc"]

    def status(self):
        return self.tell("query-migrate")["status"]

    def settled(self):
        """The status when it has not changed for two seconds; 25 at most."""
        status, since, begin = None, 0, time.monotonic()
        while time.monotonic() - begin < 25 and (not status or time.monotonic() - since < 2):
            now = self.status()
            if now != status:
                status, since = now, time.monotonic()
            time.sleep(0.1)
        return status


def listener(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen(1)
    return sock


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qemu", default="qemu-system-x86_64")
    parser.add_argument("--mem", type=int, default=512)
    parser.add_argument("--hot", type=int, default=200)
    parser.add_argument("--precopy", type=float, default=1)
    parser.add_argument("--stop", action="store_true")
    parser.add_argument("--end", choices=["before", "discards", "device"], default="discards")
    return parser.parse_args()


def switch(qemu, args, destination):
    if args.stop:
        qemu.tell("stop")
    begin = time.monotonic()
    qemu.tell("migrate-start-postcopy")
    destination.over.wait(60)
    sent = destination.pages + destination.zeros
    print(f"sent: {sent} pages, {destination.zeros} of them zeros; read until {destination.why}")
    print(f"told stale: {destination.stale} pages in {destination.ranges} ranges")
    if destination.times:
        first, last = ((t - begin) * 1e3 for t in (destination.times[0], destination.times[-1]))
        print(f"from {first:.0f} to {last:.0f} ms after migrate-start-postcopy")


def main():
    args = arguments()
    with tempfile.TemporaryDirectory(prefix="dirty-log-") as folder:
        destination = Destination(f"{folder}/migration", args.end == "device")
        qemu = Qemu(args, folder)
        try:
            qemu.wait_console("FF ready")
            qemu.tell("migrate-set-capabilities", capabilities=[{"capability": "postcopy-ram", "state": True}])
            qemu.tell("migrate-set-parameters", **{"max-bandwidth": 200 << 20, "downtime-limit": 0})
            destination.start()
            qemu.tell("migrate", uri=f"unix:{folder}/migration")
            time.sleep(args.precopy)  # what is measured is a precopy of that length
            if args.end != "before":
                switch(qemu, args, destination)
            destination.end()
            print(f"the stream has ended: {qemu.settled()}, the guest is {qemu.tell('query-status')['status']}")
            for command in ("cont", "migrate_cancel"):
                print(f"{command}: {qemu.tell(command) or 'taken'}")
            print(f"then: {qemu.settled()}, the guest is {qemu.tell('query-status')['status']}")
        finally:
            qemu.process.kill()
            qemu.process.wait()


if __name__ == "__main__":
    main()
