# SPDX-License-Identifier: GPL-2.0-or-later
# What cannot be: virsh says why in one sentence, the guest continues, and nothing is left at the
# other side.
# shellcheck shell=bash
# shellcheck disable=SC2154

# still_at_home: after a refusal; and the guest can migrate when the reason is gone.
still_at_home() {
    is "domains at B" "$(virsh_on B list --all --name)" ""
    is "processes at B" "$(processes_of B)" ""
    check_guest A "running*"
}

refused_move() {
    local regex=$1
    shift
    refused "$regex" virsh_on A migrate --live --postcopy "$@" "$VM" "${uri[B]}"
    still_at_home
}

case_wrong_emulator() {
    EMULATOR=/usr/lib/farfault/qemu-system-none refused 'Cannot check QEMU binary /usr/lib/farfault/qemu-system-none|No such file' \
        "$root/scripts/libvirt-hosts" start A
    start_guest A
    virsh_on A dumpxml --migratable "$VM" |
        sed 's#<emulator>.*</emulator>#<emulator>/nowhere/qemu-system-x86_64</emulator>#' >"$scratch/wrong.xml"
    refused_move '/nowhere/qemu-system-x86_64' --xml "$scratch/wrong.xml"
}

# farfault is there, QEMU is not.
case_missing_qemu() {
    start_guest A
    on B mount --bind /dev/null /usr/bin/qemu-system-x86_64
    refused_move 'qemu-system-x86_64'
    on B umount /usr/bin/qemu-system-x86_64
    move A
    check_guest B
}

case_busy_port() {
    start_guest A
    on B python3 "$root/tests/libvirt/echo.py" 49200
    refused_move 'Address already in use|in use' --migrateuri tcp://10.199.7.2:49200
    stop_echo_at B
}

case_other_memory_size() {
    start_guest A
    virsh_on A dumpxml --migratable "$VM" | sed "s#>262144<#>524288<#" >"$scratch/wrong.xml"
    refused_move 'memory' --xml "$scratch/wrong.xml"
}

case_other_cpu() {
    start_guest A
    virsh_on A dumpxml --migratable "$VM" |
        sed "s#<model fallback='forbid'>[^<]*<#<model fallback='forbid'>Haswell<#" >"$scratch/wrong.xml"
    refused_move 'CPU' --xml "$scratch/wrong.xml"
}

# Guest memory is a memfd, which lies in the kernel's own tmpfs: a full /dev/shm does not matter.
case_full_dev_shm() {
    start_guest A
    on B mount -o remount,size=1M /dev/shm
    on B sh -c 'dd if=/dev/zero of=/dev/shm/full bs=64k 2>/dev/null' || true
    move A
    check_guest B
    on B sh -c 'rm /dev/shm/full; mount -o remount,size=50% /dev/shm'
}

# Both hosts share the machine's pages: when the source has them there are none left.
case_exhausted_hugepages() {
    reserve_hugepages 130
    MEMORY_XML='<memoryBacking><hugepages/></memoryBacking>' start_guest A
    drop_free_hugepages
    refused_move 'huge ?page|nr_hugepages'
}

# The emulated NVMe of QEMU 7.2 cannot migrate.
case_device_that_cannot_migrate() {
    local image=$hosts/shared/nvme.img
    mkdir -p "$hosts/shared"
    chmod 777 "$hosts/shared"
    new_image raw "$image"
    "$root/scripts/libvirt-hosts" xml | sed "s#^<domain type='qemu'>#<domain type='qemu' \
xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>#; s#^</domain>#<qemu:commandline> \
<qemu:arg value='-drive'/><qemu:arg value='if=none,id=n,format=raw,file=$image'/> \
<qemu:arg value='-device'/><qemu:arg value='nvme,drive=n,serial=1,addr=0x1e'/></qemu:commandline></domain>#" \
        >"$scratch/nvme.xml"
    virsh_on A define "$scratch/nvme.xml"
    virsh_on A start "$VM"
    console A 60 '^FF t=' >/dev/null
    refused_move 'nvme'
    rm "$image"
}

# Another guest has the name already.
case_name_taken() {
    start_guest A
    VM_UUID=22222222-2222-4333-8444-555555555555 "$root/scripts/libvirt-hosts" xml >"$scratch/taken.xml"
    virsh_on B define "$scratch/taken.xml"
    refused "already exists" virsh_on A migrate --live --postcopy "$VM" "${uri[B]}"
    is "processes at B" "$(processes_of B)" ""
    virsh_on B undefine "$VM"
    check_guest A "running*"
}

case_nobody_there() {
    start_guest A
    refused 'unable to connect|Connection refused' virsh_on A migrate --live --postcopy "$VM" qemu+tcp://10.199.7.2:1/system
    still_at_home
}
