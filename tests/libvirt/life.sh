# SPDX-License-Identifier: GPL-2.0-or-later
# What else virsh does with a guest, before and after migrations, and what must survive.
# shellcheck shell=bash
# shellcheck disable=SC2154

# QEMU's own migrations to files pass through, memory and all.
case_save_restore() {
    local file=/var/lib/libvirt/qemu/save/$VM.save
    start_guest A
    virsh_on A save "$VM" "$file"
    [ "$(stat -c %s "$hosts/A/lib/qemu/save/$VM.save")" -gt $((96 << 20)) ] ||
        fail "the file cannot hold the guest's memory"
    virsh_on A restore "$file"
    check_guest A "running (restored)"
    move A
    check_guest B
    virsh_on B save "$VM" "$file"
    virsh_on B restore "$file"
    check_guest B "running (restored)"
    rm "$hosts"/?/lib/qemu/save/"$VM.save"
}

case_managedsave() {
    start_guest A
    virsh_on A managedsave "$VM"
    is "state" "$(state A)" "shut off (saved)"
    virsh_on A start "$VM"
    check_guest A "running (restored)"
    move A
    check_guest B
}

# A live snapshot behind libvirt's back, by its own way to QEMU's monitor: it sees a guest that stood
# for a moment, and continues as if nothing had been.
case_live_snapshot() {
    local save=/var/lib/libvirt/qemu/save
    local file=$hosts/A/lib/qemu/save/$VM.farfault
    start_guest A
    mark A
    virsh_on A qemu-monitor-command "$VM" \
        '{"execute": "x-farfault-snapshot", "arguments": {"file": "'"$save/$VM.farfault"'"}}'
    await_status A completed 120
    check_guest A "running (unpaused)"
    "$prefix/bin/farfault" info "$file" # fails for one that is not whole
    rm "$file"
    virsh_on A suspend "$VM"
    mark A
    virsh_on A qemu-monitor-command "$VM" \
        '{"execute": "x-farfault-snapshot", "arguments": {"file": "'"$save/$VM.farfault"'"}}'
    await_status A completed 120
    is "state" "$(state A)" "paused (user)"
    "$prefix/bin/farfault" info "$file"
    rm "$file"
    virsh_on A resume "$VM"
    move A
    check_guest B
}

# farfault was updated: another relay, and one more after that, under libvirt's connection. libvirt gives
# each QEMU a /dev of its own.
replace_relay() {
    local before
    before=$(on "$1" pgrep -x farfault-relay)
    # shellcheck disable=SC2016 # the host's own
    on "$1" sh -c 'pid=$(cat /run/libvirt/qemu/'"$VM"'.pid); nsenter -t $pid -n -m '"$prefix"'/bin/farfault attach --replace $pid'
    [ "$(on "$1" pgrep -x farfault-relay)" != "$before" ] || fail "the relay is the one of before"
}
case_another_relay() {
    start_guest A
    replace_relay A
    is "state" "$(state A)" "running (booted)"
    check_guest A "running (booted)"
    virsh_on A suspend "$VM"
    replace_relay A
    is "state" "$(state A)" "paused (user)"
    virsh_on A resume "$VM"
    move A
    check_guest B
    replace_relay B
    move B
    check_guest A
}

case_dump() {
    local file=/var/lib/libvirt/qemu/dump/$VM.elf
    start_guest A
    virsh_on A dump --memory-only --live "$VM" "$file"
    is "magic" "$(head -c 4 "$hosts/A/lib/qemu/dump/$VM.elf" | tail -c 3)" ELF
    rm "$hosts/A/lib/qemu/dump/$VM.elf"
    move A
    check_guest B
    virsh_on B dump --memory-only "$VM" "$file"
    is "magic" "$(head -c 4 "$hosts/B/lib/qemu/dump/$VM.elf" | tail -c 3)" ELF
    rm "$hosts/B/lib/qemu/dump/$VM.elf"
    check_guest B "running (unpaused)"
}

# libvirt does not migrate a guest that has snapshots.
case_snapshots() {
    with_disk
    start_guest A
    virsh_on A snapshot-create-as "$VM" before
    refused 'cannot migrate domain with 1 snapshots' \
        virsh_on A migrate --live --postcopy --unsafe "$VM" "${uri[B]}"
    check_guest A "running (unpaused)"
    virsh_on A snapshot-revert "$VM" before
    virsh_on A snapshot-delete "$VM" before
    check_guest A "running (from snapshot)"
    move A --unsafe
    check_guest B
    virsh_on B snapshot-create-as "$VM" behind
    check_guest B "running (unpaused)"
    virsh_on B snapshot-revert "$VM" behind
    virsh_on B snapshot-delete "$VM" behind
    check_guest B "running (from snapshot)"
    rm "$disk"
}

# A qcow2 image that both hosts see.
with_disk() {
    mkdir -p "$hosts/shared"
    chmod 777 "$hosts/shared"
    disk=$hosts/shared/$VM.qcow2
    qemu-img create -q -f qcow2 "$disk" 64M
    chmod 666 "$disk"
    export DEVICE_XML="<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/>
        <source file='$disk'/><target dev='vda' bus='virtio'/></disk>"
}

case_suspend_resume() {
    start_guest A
    virsh_on A suspend "$VM"
    is "state" "$(state A)" "paused (user)"
    virsh_on A resume "$VM"
    check_guest A "running (unpaused)"
    move A
    virsh_on B suspend "$VM"
    virsh_on B resume "$VM"
    check_guest B "running (unpaused)"
}

case_hotplug_disk() {
    local extra=$scratch/disk.xml
    mkdir -p "$hosts/shared"
    chmod 777 "$hosts/shared"
    qemu-img create -q -f raw "$hosts/shared/plug.img" 16M
    chmod 666 "$hosts/shared/plug.img"
    cat >"$extra" <<E
<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/>
  <source file='$hosts/shared/plug.img'/><target dev='sda' bus='usb'/></disk>
E
    start_guest A
    virsh_on A attach-device "$VM" "$extra"
    move A --unsafe
    check_guest B
    virsh_on B detach-device "$VM" "$extra"
    move B
    check_guest A
    rm "$hosts/shared/plug.img"
}

case_hotplug_nic() {
    start_guest A
    virsh_on A attach-interface "$VM" bridge br0 --model e1000e --mac 52:54:00:00:00:07
    move A
    check_guest B
    virsh_on B domiflist "$VM" | grep 52:54:00:00:00:07
    move B
    check_guest A
}

# The DIMM is new memory of the running guest, and migrates with it.
case_hotplug_dimm() {
    local dimm=$scratch/dimm.xml
    cat >"$dimm" <<E
<memory model='dimm'><target><size unit='MiB'>128</size><node>0</node></target></memory>
E
    MEMORY_XML="<maxMemory slots='4' unit='MiB'>1024</maxMemory>
        <cpu><numa><cell id='0' cpus='0' memory='256' unit='MiB'/></numa></cpu>" start_guest A
    virsh_on A attach-device "$VM" "$dimm"
    move A
    check_guest B
    is "memory" "$(virsh_on B dominfo "$VM" | awk '/^Max memory/{print $3}')" $((384 << 10))
    move B
    check_guest A
}

# farfault is upgraded: new files in the old ones' places. The guest keeps the engine that it was
# started with; a guest that starts now gets the new one.
case_upgrade_while_a_guest_runs() {
    local file running
    start_guest A
    for file in "$prefix"/bin/farfault "$prefix"/lib/farfault/farfault-*; do
        cp "$file" "$file.new"
        mv "$file.new" "$file"
    done
    start_move A --bandwidth 16
    running=$(engine_program A)
    [[ $running = *" (deleted)" ]] || fail "the guest's engine is the new $running"
    is "engine at B" "$(engine_program B)" "$prefix/lib/farfault/farfault-engine"
    virsh_on A migrate-postcopy "$VM"
    finish_move
    check_guest B
    move B
    check_guest A
}
# Another QEMU in the old one's place, as a package's upgrade leaves it: a guest that runs continues,
# and goes where it is to go; libvirt asks the new one what it can do once farfault is touched, which the
# package's trigger does (scripts/deb-test).
case_qemu_upgraded_while_a_guest_runs() {
    local qemu=/usr/bin/qemu-system-x86_64
    trap "on A umount -l /usr/bin; on A umount -l /mnt" EXIT
    on A mount -t tmpfs tmpfs /mnt
    on A mkdir /mnt/u /mnt/w
    on A mount -t overlay -o lowerdir=/usr/bin,upperdir=/mnt/u,workdir=/mnt/w overlay /usr/bin ||
        skip "this kernel has no overlay filesystem"
    start_guest A
    on A sh -c "cp $qemu $qemu.new && mv $qemu.new $qemu"
    # shellcheck disable=SC2016 # the host's own
    [[ $(on A sh -c 'readlink /proc/$(cat /run/libvirt/qemu/vm1.pid)/exe') = *" (deleted)" ]] || fail "the guest's QEMU is still in its place"
    mark A
    touch "$prefix/bin/farfault"
    move A
    check_guest B
    move B
    probed || fail "libvirt did not ask the new QEMU"
    check_guest A
}

# shellcheck disable=SC2016 # the host's own
engine_program() { on "$1" sh -c 'readlink /proc/$(pgrep -x farfault-engine)/exe'; }

# libvirt asks an emulator what it can do when its file has changed, and only then.
case_capability_cache() {
    start_guest A
    virsh_on A destroy "$VM"
    mark A
    virsh_on A start "$VM"
    virsh_on A destroy "$VM"
    probed && fail "libvirt asked again without need"
    touch "$prefix/bin/farfault"
    mark A
    virsh_on A start "$VM"
    probed || fail "libvirt did not notice the new farfault"
    console A 60 '^FF t=' >/dev/null
    check_guest A "running (booted)"
}
probed() {
    tail -n "+$(cat "$scratch/mark-A")" "$hosts/A/log/libvirtd.log" | grep query-qmp-schema >/dev/null
}

# Runs COMMAND and prints how many milliseconds it took.
took() {
    local from
    from=$(date +%s%N)
    "$@" >/dev/null
    echo $((($(date +%s%N) - from) / 1000000))
}

# Ended by force in the middle, on either side: end_guest looks for what is left.
case_destroy_in_the_middle() {
    start_guest A
    start_move A --bandwidth 16
    virsh_on A destroy "$VM"
    finish_move && fail "the migration cannot have succeeded"
    is "domains at B" "$(virsh_on B list --all --name)" ""
    end_guest
    start_guest A
    begin_slow_move
    virsh_on B destroy "$VM"
    finish_move && fail "the migration cannot have succeeded"
    is "state at A" "$(state A)" "paused (post-copy failed)"
}

# Eleven pairs, one after the other in turn: the medians differ by at most 100 ms.
case_start_time() {
    local with=() without=() ended_with=() ended_without=() a b
    for _ in $(seq 12); do
        EMULATOR=/usr/bin/qemu-system-x86_64 start_timed without
        start_timed with
    done
    a=$(median "${ended_without[@]}")
    b=$(median "${ended_with[@]}")
    echo "virsh destroy: $a ms without farfault, $b ms with it" | tee -a "$scratch/remarks"
    # libvirt waits a second for a process that stays in the guest's cgroup.
    [ $((b - a)) -le 400 ] || fail "virsh destroy takes $((b - a)) ms longer"
    a=$(median "${without[@]}")
    b=$(median "${with[@]}")
    echo "virsh start: $a ms without farfault, $b ms with it" | tee -a "$scratch/remarks"
    [ $((b - a)) -le 100 ] || [ "$a" -le 800 ] ||
        skip "the machine is too busy to tell: $a ms without farfault, $b ms with it"
    [ $((b - a)) -le 100 ] || fail "virsh start takes $((b - a)) ms longer"
}
# The first must be probed by libvirt, and does not count.
median() {
    shift
    printf '%s\n' "$@" | sort -n | sed -n 6p
}
start_timed() {
    local -n list=$1 ended=ended_$1
    "$root/scripts/libvirt-hosts" xml >"$scratch/start.xml"
    virsh_on A define "$scratch/start.xml" >/dev/null
    list+=("$(took virsh_on A start "$VM")")
    ended+=("$(took virsh_on A destroy "$VM")")
}

# Where the user may not use userfaultfd the guest runs, and no guest comes by postcopy: QEMU says so.
# A source needs no permission; it has no precopy then, and is QEMU's unless told otherwise.
untracked_waits() {
    virsh_on "$1" qemu-monitor-command "$VM" \
        '{"execute": "migrate-set-parameters", "arguments": {"x-farfault-untracked": "wait"}}'
}

case_no_permission() {
    [ "$user" != root ] || skip "root has the permission always"
    [ "$(cat /proc/sys/vm/unprivileged_userfaultfd)" = 0 ] || skip "everybody has the permission: vm.unprivileged_userfaultfd=1"
    [ ! -e "$hosts/A/over" ] || skip "libvirt 11 makes /dev/userfaultfd QEMU's user's"
    trap "on B chmod 660 /dev/userfaultfd" EXIT
    on B chmod 600 /dev/userfaultfd
    start_guest A
    refused 'Postcopy is not supported: no userfaultfd for this user' virsh_on A migrate --live --postcopy "$VM" "${uri[B]}"
    is "domains at B" "$(virsh_on B list --all --name)" ""
    check_guest A "running (booted)"
    virsh_on A migrate --live "$VM" "${uri[B]}"
    check_guest B
    end_guest
    start_guest B
    virsh_on B migrate --live "$VM" "${uri[A]}"
    check_guest A
    end_guest
    start_guest B
    untracked_waits B
    move B
    check_guest A
    end_guest
    start_guest B
    untracked_waits B
    virsh_on B migrate --live --postcopy --postcopy-after-precopy "$VM" "${uri[A]}"
    check_guest A
}

doctor() { on "$1" "$prefix/bin/farfault" doctor; }
says() { grep -qE "$1" "$scratch/doctor" || fail "farfault doctor does not say: $1"; }

# What doctor says of a host is what its guests find.
case_doctor() {
    local status=0
    # libvirt 11 gives the device in the guest's /dev to QEMU's user. Here that is the same node.
    on A chgrp kvm /dev/userfaultfd
    doctor A | tee "$scratch/doctor"
    says '^ok +user libvirt-qemu +may use userfaultfd$'
    says "^ok +farfault +for libvirt: <emulator>$EMULATOR</emulator>$"
    says '^ok +QEMU +/usr/bin/qemu-system-x86_64 is [0-9.]+$'
    says '^ok +libvirt +[0-9.]+$'
    says '^(ok|warn) +huge pages +shmem_enabled is '
    [ "$(cat /proc/sys/vm/unprivileged_userfaultfd)" = 0 ] || skip "everybody has the permission: vm.unprivileged_userfaultfd=1"
    trap "on A chmod 660 /dev/userfaultfd" EXIT
    on A chown root /dev/userfaultfd # libvirt 11 has made it QEMU's user's for the guests before
    on A chmod 600 /dev/userfaultfd
    doctor A >"$scratch/doctor" || true
    says '^warn +user libvirt-qemu may not use userfaultfd '
    "$root/scripts/libvirt-hosts" xml >"$scratch/start.xml"
    virsh_on A define "$scratch/start.xml" >/dev/null # the next case's reset undefines it
    doctor A >"$scratch/doctor" || status=$?
    is "status of doctor" $status 1
    says '^FAIL +user libvirt-qemu may not use userfaultfd .*: give it the device \(.*install-host\), or set vm.unprivileged_userfaultfd=1$'
}

# install-host on another /etc: a second time it has nothing to do, --undo leaves what was there
# before, and with what it writes into qemu.conf a guest has the permission.
case_install_host() {
    local etc=$scratch/etc conf=$hosts/A/etc/qemu.conf said
    rm -rf "$etc" "$scratch/etc-before" # of a run as another user
    mkdir -p "$etc"/libvirt "$etc"/apparmor.d/{abstractions,local/abstractions}
    : >"$etc/apparmor.d/usr.sbin.libvirtd"
    echo '# mine' | tee "$etc/libvirt/qemu.conf" "$etc/apparmor.d/local/usr.sbin.libvirtd" >"$etc/apparmor.d/local/abstractions/libvirt-qemu"
    cp -r "$etc" "$scratch/etc-before"
    install_host "$etc"
    cmp "$root/packaging/60-farfault.rules" "$etc/udev/rules.d/60-farfault.rules"
    grep -qF "$prefix/lib/farfault/* rmix," "$etc/apparmor.d/local/abstractions/libvirt-qemu"
    ! grep -q @prefix@ "$etc/apparmor.d/local/abstractions/libvirt-qemu"
    grep -qx "  $prefix/bin/farfault PUx," "$etc/apparmor.d/local/usr.sbin.libvirtd"
    said=$(install_host "$etc")
    is "what it says the second time" "$said" ""
    cp "$conf" "$scratch/qemu.conf"
    if [ ! -e "$hosts/A/bare" ] && [ ! -e "$hosts/A/over" ]; then
        { grep -v '^cgroup_device_acl' "$scratch/qemu.conf" && cat "$etc/libvirt/qemu.conf"; } >"$conf"
        "$root/scripts/libvirt-hosts" restart A
        start_guest A
        move A
        check_guest B
        cp "$scratch/qemu.conf" "$conf"
        "$root/scripts/libvirt-hosts" restart A
    fi
    install_host "$etc" --huge-pages
    grep -qx 'w /sys/kernel/mm/transparent_hugepage/shmem_enabled - - - - advise' "$etc/tmpfiles.d/farfault.conf"
    install_host "$etc" --undo
    find "$etc" "$scratch/etc-before" -type d -empty -delete
    diff -r "$scratch/etc-before" "$etc"
    install_host_odd
}
# A file without an end of its last line, a block without an end, a file that cannot be written; what comes after a
# step that fails is done.
install_host_odd() {
    local etc=$scratch/etc-odd
    rm -rf "$etc"
    mkdir -p "$etc/libvirt" "$etc/apparmor.d/abstractions"
    printf 'user = "root"' >"$etc/libvirt/qemu.conf"
    install_host "$etc"
    grep -qx 'user = "root"' "$etc/libvirt/qemu.conf"
    install_host "$etc" --undo
    is "what --undo leaves" "$(cat "$etc/libvirt/qemu.conf")" 'user = "root"'
    printf '%s\n' '# farfault: begin' 'user = "root"' | tee "$etc/libvirt/qemu.conf" >"$scratch/odd"
    ! install_host "$etc" --undo || fail "--undo of a block without an end"
    cmp "$scratch/odd" "$etc/libvirt/qemu.conf"
    rm -r "$etc/udev"
    : >"$etc/udev"
    ! install_host "$etc" || fail "a rule that cannot be written"
    rm "$etc/udev"
    echo 'cgroup_device_acl = ["/dev/null"]' >"$etc/libvirt/qemu.conf"
    rm -r "$etc/apparmor.d/local"
    ! install_host "$etc" || fail "a list of devices that is the user's own"
    is "the user's own list" "$(cat "$etc/libvirt/qemu.conf")" 'cgroup_device_acl = ["/dev/null"]'
    grep -q 'farfault under libvirt: begin' "$etc/apparmor.d/local/abstractions/libvirt-qemu"
}
install_host() { on A env "FF_ETC=$1" "$prefix/sbin/farfault-install-host" "${@:2}"; }
