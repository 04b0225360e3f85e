# SPDX-License-Identifier: GPL-2.0-or-later
# The forms of guest memory that a domain's definition can ask for, and what changes it later.
# shellcheck shell=bash
# shellcheck disable=SC2154

# forth_and_back MEMORY_XML: with that memory, by postcopy, carried by farfault.
forth_and_back() {
    MEMORY_XML=$1 start_guest A
    move A
    carried B
    check_guest B
    move B
    check_guest A
    end_guest
}

case_memory_backing() {
    forth_and_back '<memoryBacking><source type="memfd"/></memoryBacking>'
    forth_and_back '<memoryBacking><source type="memfd"/><access mode="shared"/></memoryBacking>'
    forth_and_back '<memoryBacking><nosharepages/></memoryBacking>'
    forth_and_back '<memoryBacking><discard/><source type="memfd"/></memoryBacking>'
}

# A file with a name is the user's, who may look into it: QEMU migrates it, farfault does not.
case_memory_in_files() {
    MEMORY_XML='<memoryBacking><source type="file"/></memoryBacking>' start_guest A
    # QEMU 7.2 would take postcopy and lose the guest; newer ones, or with no right to userfaultfd, say this themselves.
    refused_move 'keeps guest RAM in the file|Postcopy is not supported'
    virsh_on A migrate --live "$VM" "${uri[B]}"
    check_guest B
    virsh_on B migrate --live "$VM" "${uri[A]}"
    check_guest A
    virsh_on A save "$VM" "/var/lib/libvirt/qemu/save/$VM.save"
    virsh_on A restore "/var/lib/libvirt/qemu/save/$VM.save"
    check_guest A "running (restored)"
    rm "$hosts/A/lib/qemu/save/$VM.save"
}

# reserve_hugepages N: N more free ones than now. They are given back at the end of the case. They are
# the machine's: one run at a time.
reserve_hugepages() {
    local pages=/proc/sys/vm/nr_hugepages had free lock
    [ -e $pages ] || skip "this kernel has no huge pages"
    exec {lock}<$pages
    flock -w 300 "$lock" || skip "another run has the huge pages"
    had=$(cat $pages)
    free=$(awk '/^HugePages_Free/{print $2}' /proc/meminfo)
    echo $((had + $1)) >$pages
    # shellcheck disable=SC2064
    trap "end_guest >/dev/null 2>&1; echo $had >$pages" EXIT
    [ "$(awk '/^HugePages_Free/{print $2}' /proc/meminfo)" -ge $((free + $1)) ] ||
        skip "there is no room for $1 huge pages of 2 MiB"
}

# Of these, those that nobody has, or has reserved: the host may have had some before.
drop_free_hugepages() {
    awk '/^HugePages_Total/{t=$2} /^HugePages_Free/{f=$2} /^HugePages_Rsvd/{r=$2} END{print t - f + r}' /proc/meminfo \
        >/proc/sys/vm/nr_hugepages
}

case_memory_hugepages() {
    reserve_hugepages 260
    forth_and_back '<memoryBacking><hugepages/></memoryBacking>'
    forth_and_back '<memoryBacking><hugepages/><source type="memfd"/></memoryBacking>'
}

case_memory_locked() {
    on A sh -c 'ulimit -l unlimited' 2>/dev/null || skip "the limit of locked memory cannot be raised here"
    forth_and_back '<memoryBacking><locked/></memoryBacking><memtune><hard_limit unit="MiB">2048</hard_limit></memtune>'
}

case_numatune() {
    forth_and_back '<numatune><memory mode="strict" nodeset="0"/></numatune>'
    forth_and_back '<cpu><numa><cell id="0" cpus="0" memory="128" unit="MiB"/>
        <cell id="1" memory="128" unit="MiB"/></numa></cpu>
        <numatune><memnode cellid="0" mode="strict" nodeset="0"/>
        <memnode cellid="1" mode="preferred" nodeset="0"/></numatune>'
}

# libvirt puts relay and engine into QEMU's cgroup: the limits are theirs, too.
case_limits() {
    local hard='<hard_limit unit="MiB">420</hard_limit>'
    [ ! -e "$hosts/A/bare" ] || skip "the hosts have no cgroups"
    # libvirt allows as much locked memory, which not every machine lets it.
    on A sh -c 'ulimit -l unlimited' 2>/dev/null || hard=
    forth_and_back "<memtune>$hard"'<soft_limit unit="MiB">400</soft_limit></memtune>
        <cputune><period>100000</period><quota>80000</quota><emulator_period>100000</emulator_period>
        <emulator_quota>50000</emulator_quota></cputune>'
}

balloon() { virsh_on "$1" dommemstat "$VM" | awk '/^actual/{print $2}'; }
inflate() {
    mark "$1"
    virsh_on "$1" setmem "$VM" "$2" --live
    await_qmp "$1" "BALLOON_CHANGE.*\"actual\": $((${2%M} << 20))"
    is "balloon at $1" "$(balloon "$1")" $((${2%M} << 10))
}

# What the balloon gave back is empty on the other side, too, and can be had again.
case_balloon() {
    BALLOON=virtio start_busy_guest raw
    inflate A 220M
    move A --unsafe
    check_guest B
    is "balloon at B" "$(balloon B)" $((220 << 10))
    inflate B 256M
    inflate B 230M
    move B --unsafe
    check_guest A
    inflate A 256M
    check_io A
    stop_echo
}

# Plugged in where the guest came to, and unplugged where it moved on to.
case_hotplug_behind_a_migration() {
    local dimm=$scratch/dimm.xml extra=$scratch/disk.xml image=$hosts/shared/plug.img
    cat >"$dimm" <<X
<memory model='dimm'><target><size unit='MiB'>128</size><node>0</node></target></memory>
X
    cat >"$extra" <<X
<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/>
  <source file='$image'/><target dev='sda' bus='usb'/></disk>
X
    mkdir -p "$hosts/shared"
    chmod 777 "$hosts/shared"
    new_image raw "$image"
    MEMORY_XML="<maxMemory slots='4' unit='MiB'>1024</maxMemory>
        <cpu><numa><cell id='0' cpus='0' memory='256' unit='MiB'/></numa></cpu>" start_guest A
    move A
    virsh_on B attach-device "$VM" "$dimm"
    virsh_on B attach-device "$VM" "$extra"
    virsh_on B attach-interface "$VM" bridge br0 --model e1000e --mac 52:54:00:00:00:08
    move B --unsafe
    check_guest A
    virsh_on A detach-device "$VM" "$extra"
    move A
    check_guest B
    is "memory" "$(virsh_on B dominfo "$VM" | awk '/^Max memory/{print $3}')" $((384 << 10))
    virsh_on B domblklist "$VM" | grep sda && fail "the disk is still there"
    virsh_on B domiflist "$VM" | grep 52:54:00:00:00:08
    rm "$image"
}
