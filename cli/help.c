/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The --help texts. Keep them in step with docs/man.
 */
#include "cli/help.h"

const char ff_help_migrate[] =
    "Usage: farfault migrate [OPTION]... SRC-QMP DST-QMP\n"
    "Move a running guest from one QEMU to another, by postcopy, through their QMP monitors.\n"
    "Works with stock QEMU, and with QEMU under farfault.\n"
    "\n"
    "SRC-QMP, DST-QMP   a monitor of -qmp: PATH or unix:PATH, or tcp:HOST:PORT. The destination\n"
    "                   has to be started with -incoming (defer, or an address).\n"
    "\n"
    "When to switch the guest over:\n"
    "  --postcopy-now           at once (the default)\n"
    "  --postcopy-after-pass    when one pass over the guest's memory is through; at once, if the\n"
    "                           source's engine makes none\n"
    "  --postcopy-after N|Ns    when N passes are through, or after N seconds\n"
    "  --precopy                when little enough is left; without postcopy\n"
    "\n"
    "The way:\n"
    "  --uri URI                where the destination listens, if it does not yet\n"
    "                           (default tcp:127.0.0.1:0, or the host of DST-QMP)\n"
    "  --connect URI            what the source connects to, if that is not the same\n"
    "  --bandwidth N[KMG]       limit before the switch, bytes per second\n"
    "  --postcopy-bandwidth N[KMG]   limit after it\n"
    "  --preempt                QEMU's postcopy-preempt\n"
    "  --parameter NAME=VALUE   set a migration parameter on both sides; can be repeated\n"
    "  --capability NAME[=off]  set a migration capability on both sides; can be repeated\n"
    "\n"
    "Other:\n"
    "  --no-cont                leave the guest paused if the destination was started with -S\n"
    "  --timeout SECONDS        before the switch: cancel then; after it: leave\n"
    "  --quiet, -q              no progress\n"
    "  --json                   print the result as JSON\n"
    "  --help, -h               this text\n"
    "\n"
    "Ctrl-C cancels until the switch is asked for. Exit status: 0 completed, 1 failed or\n"
    "cancelled (what is printed says where the guest is), 2 usage, 3 postcopy paused,\n"
    "4 left: it may go on.\n";

const char ff_help_status[] =
    "Usage: farfault status [OPTION]... QMP\n"
    "Say in words how a guest and its migration stand.\n"
    "\n"
    "QMP              a monitor of -qmp: PATH or unix:PATH, or tcp:HOST:PORT\n"
    "  --json         print QEMU's own answers as JSON\n"
    "  --help, -h     this text\n";

const char ff_help_dump[] =
    "Usage: farfault dump QMP DIRECTORY\n"
    "       farfault dump --check DIRECTORY DIRECTORY\n"
    "Write this side's half of a paused migration into files: memory, the list of its pages, the\n"
    "device state if this side has it, and what the migration knows. The user that QEMU runs as\n"
    "has to be able to write there.\n"
    "\n"
    "QMP              a monitor of -qmp: PATH or unix:PATH, or tcp:HOST:PORT\n"
    "DIRECTORY        is made if it is not there; no file in it is overwritten\n"
    "  --check        say whether the dumps of both sides together have every page\n"
    "  --help, -h     this text\n";

const char ff_help_snapshot[] =
    "Usage: farfault snapshot [OPTION]... QMP FILE\n"
    "Write a running guest, its memory and its devices as they are at one instant, into a file "
    "that\n"
    "stock QEMU restores. The guest stands for a moment, and then runs while its old memory is\n"
    "written. Disks are not in it. The guest has to run under farfault.\n"
    "\n"
    "QMP                    a monitor of -qmp: PATH or unix:PATH, or tcp:HOST:PORT (then the\n"
    "                       guest's host makes the file, and FILE is an absolute path)\n"
    "FILE                   a new file; it is there when it is complete\n"
    "  --buffer N[KMGT]     room for memory that the guest overwrites before it is written\n"
    "                       (default 64M); when it is full, the guest waits for the disk\n"
    "  --format FORM        mapped-ram (QEMU 9.0 or newer; the default) or stream (any QEMU)\n"
    "  --max-bandwidth N[KMGT]   limit, bytes per second; 0, the default: none\n"
    "  --offset N[KMGT]     leave N bytes in front of it\n"
    "  --quiet, -q          no progress\n"
    "  --help, -h           this text\n"
    "\n"
    "Ctrl-C cancels. Exit status: 0 written, 1 not, and there is no FILE, 2 usage.\n";

const char ff_help_info[] =
    "Usage: farfault info [OPTION]... FILE\n"
    "Say what is in the file of a saved guest (QEMU's migration to a file: an ordinary stream or\n"
    "mapped-ram): machine, memory, whether it is complete, and how it is restored.\n"
    "\n"
    "  --offset N     the stream begins at byte N (suffixes K, M, G, T); else at once, or after "
    "the\n"
    "                 header of a libvirt save image\n"
    "  --json         print it as JSON\n"
    "  --help, -h     this text\n"
    "\n"
    "Exit status: 0 complete, 1 cut, damaged, or no such file, 2 usage.\n";

const char ff_help_convert[] =
    "Usage: farfault convert [OPTION]... IN OUT\n"
    "Write the file of a saved guest in the other of QEMU's two forms: an ordinary stream (any\n"
    "QEMU) or mapped-ram (QEMU 9.0 or newer). OUT is a new file; it is there when it is complete.\n"
    "\n"
    "  --to FORM      stream or mapped-ram; else the one that IN is not\n"
    "  --offset N     leave N bytes in front of the stream in OUT (suffixes K, M, G, T)\n"
    "  --in-offset N  the stream begins at byte N of IN; else at once, or after the header of a\n"
    "                 libvirt save image\n"
    "  --compress     mapped-ram in zstd's seekable format; zstd -d gives the plain image\n"
    "  --help, -h     this text\n"
    "\n"
    "Exit status: 0 written, 1 not, and there is no OUT, 2 usage.\n";

const char ff_help_attach[] =
    "Usage: farfault attach PID|QMP\n"
    "Start a new relay for a guest whose relay has ended (farfault-relay, killed or crashed). The\n"
    "QMP monitors answer again; a migration that was under way is taken up as after the end of an\n"
    "engine. The guest is not touched while there is no relay, and never runs twice.\n"
    "\n"
    "PID              the process of QEMU\n"
    "QMP              the path of its unix QMP socket: PATH or unix:PATH\n"
    "  --help, -h     this text\n"
    "\n"
    "Be QEMU's user, or root (always, where kernel.yama.ptrace_scope is not 0). Refused while the\n"
    "relay or its engine lives. Exit status: 0 attached, 1 refused, 2 usage.\n";

const char ff_help_run[] =
    "Usage: farfault run [--policy=auto|always|never] [--untracked=qemu|postcopy|wait] [--]\n"
    "       qemu-system-ARCH ARG...\n"
    "Become QEMU: same PID, stdin, stdout, stderr, working directory, inherited fds and exit\n"
    "status. Guest memory becomes shared memory, and farfault answers the migration commands on\n"
    "the QMP monitors. An invocation that starts no guest (-version, -machine help, ...) goes to\n"
    "QEMU as it is.\n"
    "\n"
    "  --policy=P     which migrations farfault does itself: auto (those with the capability\n"
    "                 postcopy-ram; the default), always, never (QEMU does them all)\n"
    "  --untracked=U  what becomes of one whose guest's writes cannot be tracked "
    "(docs/precopy.md):\n"
    "                 qemu (QEMU does it; the default), postcopy (the guest is moved at once, its\n"
    "                 memory follows), wait (the same at migrate-start-postcopy)\n"
    "  --help, -h     this text\n"
    "\n"
    "A QEMU without a slash is looked for on PATH. Called by the name qemu-system-ARCH (a\n"
    "symlink), farfault does the same for the next QEMU of that name on PATH.\n"
    "\n"
    "Environment: FARFAULT_QEMU (the real QEMU), FARFAULT_POLICY, FARFAULT_UNTRACKED.\n"
    "File: /etc/farfault/farfault.conf, with [qemu] binary= and [migration] policy=, untracked=.\n"
    "The option wins over the environment, the environment over the file.\n";

const char ff_help_pager[] =
    "Usage: farfault pager --listen SOCKET --from FILE [--allow USER]... [--control SOCKET]\n"
    "                      [--no-bulk]\n"
    "Answer the page faults of other processes: each connects to SOCKET and passes a userfaultfd,\n"
    "as Firecracker does (mem_backend of type Uffd). Any number of them at once, all from FILE.\n"
    "\n"
    "  --listen SOCKET   where clients connect; made here\n"
    "  --from FILE       their memory: a raw file (Firecracker's memory file) or a mapped-ram "
    "file\n"
    "                    (farfault snapshot), also in zstd's seekable format. Do not change it\n"
    "  --allow USER      a user besides this one and root who may connect; can be given again\n"
    "  --control SOCKET  who connects there reads how each client stands, as JSON\n"
    "  --no-bulk         only pages that somebody waits for are placed\n"
    "  --help, -h        this text\n"
    "\n"
    "Clients that are there when this ends (SIGTERM, SIGINT) wait for ever for what they miss.\n"
    "Exit status: 0 ended, 1 failed, 2 usage.\n";

const char ff_help_doctor[] =
    "Usage: farfault doctor\n"
    "Say what works on this host, one line each: kernel, userfaultfd for each user that runs\n"
    "QEMU, huge pages, farfault's own parts and settings, QEMU, libvirt, AppArmor, guests without "
    "a\n"
    "relay. What does not work is followed by what to do. Run it as root to have other users\n"
    "examined.\n"
    "\n"
    "  --help, -h     this text\n"
    "\n"
    "Exit status: 0 if postcopy works, 1 if a line says FAIL, 2 usage.\n";
