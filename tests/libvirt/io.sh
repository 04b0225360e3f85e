# SPDX-License-Identifier: GPL-2.0-or-later
# A guest whose disk (virtio-blk, O_DIRECT and buffered) and TCP connection (virtio-net, to an echo
# server in host A) are busy and verified all the time, besides its memory.
# shellcheck shell=bash
# shellcheck disable=SC2154

# start_busy_guest FORMAT [PATH]: PATH is the image in the hosts' own view; it is there then.
start_busy_guest() {
    mkdir -p "$hosts/shared"
    chmod 777 "$hosts/shared"
    disk=${2:-$hosts/shared/busy.img}
    [ $# = 2 ] || new_image "$1" "$disk"
    on A python3 "$root/tests/libvirt/echo.py" 7007
    MEMWORK="ff.mib=96 ff.hot=24 ff.disk=1 ff.net=7007" DEVICE_XML="
        <disk type='file' device='disk'><driver name='qemu' type='${1:-raw}' cache='none'/>
          <source file='$disk'/><target dev='vda' bus='virtio'/></disk>
        <interface type='bridge'><source bridge='br0'/><mac address='52:54:00:00:00:09'/>
          <model type='virtio'/></interface>" start_guest A
    disk_done=0 net_done=0
    check_io A
}

new_image() {
    qemu-img create -q -f "$1" "$2" 16M
    chmod 666 "$2"
}

# Disk and connection have moved on since the last check, and nothing was wrong.
check_io() {
    local io disk_now net_now
    # The first line after a move may be from the moment of the move: take the next but one.
    console "$1" 30 '^FF io ' >/dev/null
    console "$1" 30 '^FF io ' >/dev/null
    io=$(console "$1" 30 '^FF io ')
    echo "$io"
    [[ $io =~ ^FF\ io\ disk=([0-9]+)\ net=([0-9]+)\ bad=0$ ]] || fail "disk or network is wrong: $io"
    disk_now=${BASH_REMATCH[1]} net_now=${BASH_REMATCH[2]}
    [ "$disk_now" -gt "$disk_done" ] || fail "the disk stands still at $disk_now blocks"
    [ "$net_now" -gt "$net_done" ] || fail "the connection stands still at $net_now messages"
    disk_done=$disk_now net_done=$net_now
}

stop_echo() {
    stop_echo_at A
    rm -f "$disk"
}
# shellcheck disable=SC2016 # the host's own
stop_echo_at() {
    on "$1" sh -c '[ ! -e /run/echo.pid ] || { kill $(cat /run/echo.pid); rm /run/echo.pid; }' 2>/dev/null || true
}

case_disk_and_network() {
    start_busy_guest raw
    move A --unsafe
    check_guest B
    check_io B
    move B --unsafe
    check_guest A
    check_io A
    stop_echo
}

case_disk_qcow2_and_network() {
    start_busy_guest qcow2
    move A --unsafe
    check_guest B
    check_io B
    stop_echo
}

# The whole of it: memory, disk and connection, forth and back 20 times in a row.
case_twenty_times_busy() {
    local from=A
    start_busy_guest raw
    for _ in $(seq 20); do
        move "$from" --unsafe
        from=${other[$from]}
        check_guest "$from"
        check_io "$from"
    done
    echo "20 migrations: $disk_done disk blocks, $net_done messages verified, 0 wrong" >>"$scratch/remarks"
    stop_echo
}
