# SPDX-License-Identifier: GPL-2.0-or-later
# What the cases of tests/libvirt share. Sourced by scripts/libvirt-test, which sets root, hosts,
# prefix and runs each case (a function case_NAME) in a subshell of its own with set -e.
# shellcheck shell=bash
# shellcheck disable=SC2154

VM=vm1
declare -A uri=([A]=qemu+tcp://10.199.7.1/system [B]=qemu+tcp://10.199.7.2/system)
declare -A other=([A]=B [B]=A)

on() { "$root/scripts/libvirt-hosts" on "$@"; }
virsh_on() {
    local host=$1
    shift
    on "$host" timeout -k 5 120 virsh -q "$@"
}

# The case cannot be run here. Why, in one line.
skip() {
    printf '%s\n' "$*" >"$scratch/skipped"
    exit 77
}

# libvirtd 11.3 itself ends by SIGSEGV, at the destination, with plain QEMU as well.
can_resume() { [[ ! -e $hosts/A/over || $(cat "$hosts/A/over") != */libvirt11 ]]; }

needs_resume() {
    can_resume || skip "libvirtd 11.3 crashes at --postcopy-resume, whatever the emulator"
}

needs_native_postcopy() {
    [ "$user" = root ] || [ "$(cat /proc/sys/vm/unprivileged_userfaultfd)" = 1 ] ||
        skip "QEMU 7.2 itself has no postcopy for this user: vm.unprivileged_userfaultfd=0"
}

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

# is WHAT HAVE WANTED
is() { [ "$2" = "$3" ] || fail "$1 is \"$2\", not \"$3\""; }

# refused REGEX COMMAND...: COMMAND fails, and says what REGEX matches, in one line (in front of
# which virsh may say what it tried).
refused() {
    local regex=$1 said
    shift
    if said=$("$@" 2>&1); then fail "succeeded, should have been refused: $*"; fi
    printf '%s\n' "$said" | tee -a "$scratch/remarks"
    [[ $said =~ $regex ]] || fail "\"$said\" does not say \"$regex\""
    is "lines of it" "$(grep -cv '^error: Failed to [a-z]* domain' <<<"$said")" 1
}

state() { virsh_on "$1" domstate --reason "$VM" | head -n 1; }

# console HOST SECONDS REGEX [KEYS]
console() {
    local host=$1
    shift
    on "$host" python3 "$root/tests/libvirt/console.py" "/var/lib/libvirt/qemu/${SERIAL:-vm1}.serial" "$@"
}

# Boots, for 240 s at most: 60 s were too few under TCG on a host with a load of 30 on 2 processors.
start_guest() {
    "$root/scripts/libvirt-hosts" start "$1"
    console "$1" 240 '^FF t=' >/dev/null
}

# The guest runs at HOST, and has every page as it must be.
check_guest() {
    local state
    state=$(state "$1")
    # shellcheck disable=SC2053 # a pattern
    [[ $state = ${2:-running (migrated)} ]] || fail "state at $1 is \"$state\", not \"${2-}\""
    console "$1" 90 '^FF verdict' v | tee "$scratch/verdict"
    grep -q '^FF verdict ok' "$scratch/verdict"
}

# mark HOST, then await_qmp HOST REGEX: a line of libvirtd's log that came after the mark. The log
# has every command and event of QMP.
mark() { wc -l <"$hosts/$1/log/libvirtd.log" >"$scratch/mark-$1"; }
await_qmp() {
    local from tail_pid found=0
    from=$(($(cat "$scratch/mark-$1") + 1))
    exec {log}< <(exec tail -n "+$from" -F "$hosts/$1/log/libvirtd.log" 2>/dev/null)
    tail_pid=$!
    timeout "${3:-30}" grep -m1 -qE "$2" <&"$log" || found=1
    kill "$tail_pid" 2>/dev/null || true
    exec {log}<&-
    [ $found = 0 ] || fail "libvirtd of host $1 did not log: $2"
}
await_status() { await_qmp "$1" "\"MIGRATION\".*\"status\": \"$2\"" "${3:-30}"; }

# start_move HOST OPTION...: migrates from HOST in the background, and returns when the guest's
# migration is active. finish_move: the status of virsh.
start_move() {
    local from=$1
    shift
    mark "$from"
    mark "${other[$from]}"
    virsh_on "$from" migrate --live --postcopy "$@" "$VM" "${uri[${other[$from]}]}" \
        >"$scratch/move" 2>&1 &
    mover=$!
    await_status "$from" active
}
finish_move() {
    wait "$mover" || {
        cat "$scratch/move" >&2
        return 1
    }
}

# move HOST OPTION...: the whole way, switched by migrate-postcopy; then the source is empty. The
# limit holds before the switch only, so that the guest is not there before it.
move() {
    local from=$1
    start_move "$from" --bandwidth 100 "${@:2}"
    virsh_on "$from" migrate-postcopy "$VM"
    finish_move
    is "running domains at $from" "$(virsh_on "$from" list --name)" ""
}

# By the program, not by its arguments: a path in them may have any of these words.
processes_of() {
    on "$1" ps -eo pid=,comm=,args= | awk '$2 ~ /^(farfault|qemu-system)/' || true
}
# scripts/lint runs it; no host is needed.
check_processes_of() (
    on() { printf '%s\n' "1 bash /x/farfault/scripts/test" "2 farfault-engine" "3 qemu-system-x86 /x/q" "4 grep qemu-system"; }
    is "what is found" "$(processes_of A | tr '\n' ,)" "2 farfault-engine,3 qemu-system-x86 /x/q,"
)

# What a host has besides libvirt's own: files, sockets, folders, network interfaces.
things_of() {
    on "$1" find /var/lib/libvirt /run /dev/shm /dev/hugepages -xdev -not -name '*.log' 2>/dev/null || true
    on "$1" ip -o link | awk -F '[ @:]+' '{print "interface " $2}'
}
# note_things: those that are there before any guest is. left_at HOST: those that came since.
note_things() {
    local host
    for host in A B; do things_of $host | sort >"$scratch/things-$host"; done
}
left_at() { things_of "$1" | sort | comm -13 "$scratch/things-$1" -; }

# Ends the guest wherever it is. Nothing of it may be left.
# The control groups that libvirt has made for guests at HOST.
groups_of() { on "$1" find /sys/fs/cgroup -type d -path '*/machine/*.libvirt-qemu*'; }

remove_groups() {
    on "$1" find /sys/fs/cgroup -depth -type d -path '*/machine/*.libvirt-qemu*' -exec rmdir {} \; || true
}

end_guest() {
    local host left name
    "$root/scripts/libvirt-hosts" heal
    for host in A B; do
        stop_echo_at $host
        for name in $(virsh_on "$host" list --all --name); do
            virsh_on "$host" destroy "$name" >/dev/null 2>&1 || true
            virsh_on "$host" undefine "$name" --managed-save --snapshots-metadata >/dev/null 2>&1 || true
        done
        left=$(processes_of "$host")
        [ -z "$left" ] || fail "left at host $host: $left"
        left=$(left_at "$host")
        if [ -n "$left" ]; then
            note_things # the cases after this one are judged by themselves
            fail "left at host $host: $left"
        fi
        left=$(groups_of "$host")
        if [ -n "$left" ]; then
            remove_groups "$host" # the cases after this one are judged by themselves
            fail "left at host $host: $left"
        fi
        rm -f "$hosts/$host"/lib/qemu/*.log
    done
}
