# SPDX-License-Identifier: GPL-2.0-or-later
# The options of virsh migrate that change more than the moment of the switch: connections,
# encryption, storage, another definition, a peer without farfault.
# shellcheck shell=bash
# shellcheck disable=SC2154

# carried HOST...: the last migration there was farfault's own.
carried() {
    local host
    for host in "$@"; do
        grep -q 'farfault: migration .* completed' "$hosts/$host/log/qemu/$VM.log" ||
            fail "farfault did not carry it at $host"
    done
}

case_p2p_abort_on_error() {
    start_busy_guest raw
    start_move A --p2p --abort-on-error --unsafe --bandwidth 100
    virsh_on A migrate-postcopy "$VM"
    finish_move
    carried B
    check_guest B
    check_io B
    stop_echo
}

# Another name, another path of disk and console, by the definition that the user gives.
case_other_name_and_paths() {
    local other_disk=$hosts/shared/other.img
    start_busy_guest raw
    ln -f "$disk" "$other_disk"
    virsh_on A dumpxml --migratable "$VM" |
        sed "s#$disk#$other_disk#; s#/vm1\\.\\(serial\\|log\\)#/vm2.\\1#" >"$scratch/other.xml"
    move A --unsafe --dname vm2 --xml "$scratch/other.xml"
    export VM=vm2 SERIAL=vm2
    check_guest B
    check_io B
    virsh_on B domblklist "$VM" | grep -qF "$other_disk" || fail "the disk's path has not changed"
    stop_echo
    rm "$other_disk"
}

# Each host has an image of its own; libvirt copies it by NBD, beside the memory.
case_copy_storage_all() {
    local image=/var/lib/libvirt/images/own.img
    new_image raw "$hosts/A/lib/images/own.img"
    new_image raw "$hosts/B/lib/images/own.img"
    start_busy_guest raw "$image"
    move A --copy-storage-all
    carried B
    check_guest B
    check_io B
    rm "$hosts"/?/lib/images/own.img
    stop_echo_at A
}

# QEMU 8.0 to 10.0 refuse postcopy with it, QEMU 7.2 crashes; the engine's own connections do.
case_parallel() {
    [ ! -e "$hosts/A/over" ] || skip "this QEMU refuses --postcopy with --parallel"
    start_busy_guest raw
    move A --unsafe --parallel --parallel-connections 3
    check_guest B
    check_io B
    stop_echo
}

# QEMU's own compression: it carries such a migration itself.
case_compressed() {
    needs_native_postcopy
    start_guest A
    move A --compressed
    check_guest B
}

# certificate HOST NAME: signed by the authority in $scratch/ca, for the HOST's address.
certificate() {
    local host=$1 name=$2 dir=$hosts/$1/etc/pki address
    address=$([ "$host" = A ] && echo 10.199.7.1 || echo 10.199.7.2)
    openssl req -newkey rsa:2048 -nodes -subj "/CN=host$host" -keyout "$dir/$name-key.pem" \
        -out "$scratch/request.pem" 2>/dev/null
    openssl x509 -req -in "$scratch/request.pem" -days 2 -CA "$dir/ca-cert.pem" \
        -CAkey "$scratch/$3-key.pem" -CAcreateserial -out "$dir/$name-cert.pem" \
        -extfile <(printf 'subjectAltName=IP:%s,DNS:host%s\nextendedKeyUsage=serverAuth,clientAuth\n' \
            "$address" "$host") 2>/dev/null
}

# authority NAME: a new one, with its key in $scratch.
authority() {
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=$1" \
        -keyout "$scratch/$1-key.pem" -out "$scratch/$1-cert.pem" 2>/dev/null
}

# equip HOST AUTHORITY
equip() {
    local dir=$hosts/$1/etc/pki name
    mkdir -p "$dir"
    cp "$scratch/$2-cert.pem" "$dir/ca-cert.pem"
    for name in server client; do certificate "$1" $name "$2"; done
    chown -R "$user" "$dir"
    chmod 755 "$dir"
    grep -q '^migrate_tls' "$hosts/$1/etc/qemu.conf" ||
        printf '%s\n' 'migrate_tls_x509_cert_dir = "/etc/libvirt/pki"' 'migrate_tls_x509_verify = 1' \
            >>"$hosts/$1/etc/qemu.conf"
    "$root/scripts/libvirt-hosts" restart "$1"
}

case_tls() {
    authority right
    equip A right
    equip B right
    start_busy_guest raw
    mark A
    move A --unsafe --tls
    await_qmp A '"execute":"object-add".*tls-creds-x509'
    carried B
    check_guest B
    check_io B
    move B --unsafe --tls
    check_guest A
    check_io A
    stop_echo
}

# A destination whose certificate another authority has signed is no destination.
case_tls_wrong_authority() {
    authority right
    authority wrong
    equip A right
    equip B wrong
    start_guest A
    refused 'certificate|TLS' virsh_on A migrate --live --postcopy --tls "$VM" "${uri[B]}"
    is "domains at B" "$(virsh_on B list --all --name)" ""
    check_guest A "running (booted)"
}

# with_plain_qemu HOST: the guest's definition as it is at HOST, for a peer without farfault.
with_plain_qemu() {
    virsh_on "$1" dumpxml --migratable "$VM" |
        sed 's#<emulator>.*</emulator>#<emulator>/usr/bin/qemu-system-x86_64</emulator>#' >"$scratch/plain.xml"
}
with_farfault() {
    virsh_on "$1" dumpxml --migratable "$VM" |
        sed "s#<emulator>.*</emulator>#<emulator>$EMULATOR</emulator>#" >"$scratch/farfault.xml"
}

# QEMU 7.2 under TCG loses dirty pages in its own migration: a guest that writes little meets that
# rarely (docs/precopy.md), and one that is there after the first pass has nothing to lose.
case_destination_without_farfault_and_back() {
    needs_native_postcopy
    MEMWORK="ff.mib=64 ff.hot=1 ff.write=1" start_guest A
    with_plain_qemu A
    move A --xml "$scratch/plain.xml"
    check_guest B
    [[ $(processes_of B) != *farfault* ]] || fail "there is a farfault at B"
    with_farfault B
    move B --xml "$scratch/farfault.xml"
    check_guest A
    [[ $(processes_of A) = *farfault-relay* ]] || fail "there is no farfault at A"
    move A
    carried B
    check_guest B
}

# start_untracked HOST [VARIABLE=VALUE]: a guest whose writes cannot be tracked at the first attempt, and
# that writes little (see above). VARIABLE is of QEMU's environment.
start_untracked() {
    local set=''
    rm -rf "$scratch/points"
    mkdir "$scratch/points"
    chmod 777 "$scratch/points"
    [ -z "${2-}" ] || set="<qemu:env name='${2%%=*}' value='${2#*=}'/>"
    MEMWORK="ff.mib=64 ff.hot=1 ff.write=1" "$root/scripts/libvirt-hosts" xml |
        sed "s#^<domain type='qemu'>#<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>#
            s#^</domain>#<qemu:commandline><qemu:env name='FARFAULT_FAULTS' \
value='$scratch/points;source/*/call/uffd-track=EIO'/>$set</qemu:commandline></domain>#" >"$scratch/untracked.xml"
    virsh_on "$1" define "$scratch/untracked.xml" >/dev/null
    virsh_on "$1" start "$VM"
    console "$1" 240 '^FF t=' >/dev/null
}

# says_of_it HOST REGEX: what query-migrate says there.
says_of_it() {
    virsh_on "$1" qemu-monitor-command "$VM" '{"execute": "query-migrate"}' | tee "$scratch/info"
    grep -qE "$2" "$scratch/info" || fail "query-migrate at $1 does not say: $2"
}

# Nobody asks for the switch: QEMU carries a guest whose writes cannot be tracked, and it arrives.
case_untracked_without_a_switch() {
    start_untracked A
    if [ "$user" != root ] && [ "$(cat /proc/sys/vm/unprivileged_userfaultfd)" = 0 ] && [ ! -e "$hosts/B/over" ]; then
        # libvirt 11 makes /dev/userfaultfd QEMU's user's, and QEMU 10 uses it. What is QEMU's needs QEMU's own postcopy, which this user does not have. virsh hears of the
        # connection's end alone.
        refused "'migration out' (failed|unexpectedly failed)" virsh_on A migrate --live --postcopy "$VM" "${uri[B]}"
        grep -q 'Postcopy is not supported' "$hosts/B/log/qemu/$VM.log" || fail "QEMU at B does not say why"
        is "domains at B" "$(virsh_on B list --all --name)" ""
        check_guest A "running (booted)"
    else
        start_move A --bandwidth 1 # until it was looked at
        says_of_it A '"engine": *"qemu", *"reason": *"the guest.s writes cannot be tracked'
        virsh_on A migrate-setspeed "$VM" 1000
        finish_move
        job A --completed
        is "postcopy requests" "$(figure 'Postcopy requests')" 0
        is "what remains" "$(figure 'Memory remaining')" 0
        check_guest B
        says_of_it B '"engine": *"qemu", *"reason": *"the source sends QEMU.s own migration'
    fi
    [ -e "$scratch/points/fault-0" ] || fail "the source has not tried to track the guest's writes"
    end_guest
    # With that setting it is farfault's, and switched by itself.
    start_untracked A FARFAULT_UNTRACKED=postcopy
    virsh_on A migrate --live --postcopy "$VM" "${uri[B]}"
    [ -e "$scratch/points/fault-0" ] || fail "the source has not tried to track the guest's writes"
    carried B
    job A --completed
    [ "$(figure 'Postcopy requests')" -gt 0 ] || fail "nothing was left for postcopy"
    check_guest B
}
