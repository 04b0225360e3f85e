# SPDX-License-Identifier: GPL-2.0-or-later
# Files of virsh save, restored lazily and otherwise. libvirt's own restore is not lazy: it waits until
# all is there, and may remove the file then.
# shellcheck shell=bash
# shellcheck disable=SC2154

# save_guest FILE [OPTION...]: of host A, whose guest is gone then.
save_guest() {
    local file=$1
    shift
    virsh_on A save "$VM" "/var/lib/libvirt/qemu/save/$file" "$@"
}

# farfault_at_a ARGUMENT...: with QEMU's rights to the host's files, which are root's here.
farfault_at_a() { on A "$prefix/bin/farfault" "$@"; }

# guest_line FILE: QEMU's command line of the saved guest, without libvirt's own monitor, keys and
# rules, into the array line; its console is where check_guest looks for it.
guest_line() {
    local words i
    on A virsh -q save-image-dumpxml "/var/lib/libvirt/qemu/save/$1" >"$scratch/image.xml"
    # It quotes as a shell does.
    eval "words=($(on A virsh -q domxml-to-native qemu-argv "$scratch/image.xml"))"
    line=()
    while [[ ${words[0]} != /* ]]; do words=("${words[@]:1}"); done # its environment
    for ((i = 0; i < ${#words[@]}; i++)); do
        case ${words[i]}:${words[i + 1]-} in
        -chardev:*charmonitor* | -mon:* | -object:*masterKey0* | -sandbox:* | -msg:* | -add-fd:* | -name:*) i=$((i + 1)) ;;
        -chardev:*charserial0*)
            line+=(-chardev "socket,id=charserial0,path=/var/lib/libvirt/qemu/$VM.serial,server=on,wait=off")
            i=$((i + 1))
            ;;
        *) line+=("${words[i]}") ;;
        esac
    done
    line[0]=qemu-system-x86_64
    line+=(-qmp "unix:/run/saved.qmp,server=on,wait=off")
}

# qmp COMMAND...: of the QEMU that was started here, not by libvirt.
qmp() { on A timeout -k 5 240 python3 "$root/tests/libvirt/qmp.py" /run/saved.qmp "$@"; }

# The guest that was started here has every page as it must be, by farfault; and is ended.
check_restored() {
    qmp query-migrate | tee "$scratch/restored"
    grep -q '"restore": {.*"remaining": 0' "$scratch/restored" || fail "it was not restored lazily"
    console A 90 '^FF verdict' v | tee "$scratch/verdict"
    grep -q '^FF verdict ok' "$scratch/verdict"
    qmp quit
    wait "$lazy" || true
    rm -f "$hosts/A/lib/qemu/$VM.serial"
    on A rm -f /run/saved.qmp
}

# restore_lazily FILE PATH: by the command, of a guest that libvirt had stopped for saving.
restore_lazily() {
    guest_line "$1"
    exec {said}< <(farfault_at_a restore "$2" -- "${line[@]}" 2>&1)
    lazy=$!
    timeout 240 grep -m1 'all of it here' <&"$said" || fail "it was not restored"
    qmp cont
    check_restored
    exec {said}<&-
}

# restore_incoming FILE PATH OFFSET: as QEMU's newest way of asking for it.
restore_incoming() {
    guest_line "$1"
    on A "$EMULATOR" "${line[@]:1}" -S -incoming defer >"$scratch/incoming" 2>&1 &
    lazy=$!
    qmp '{"execute": "migrate-set-capabilities", "arguments": {"capabilities": [
            {"capability": "events", "state": true}, {"capability": "mapped-ram", "state": true},
            {"capability": "postcopy-ram", "state": true}]}}' \
        "{\"execute\": \"migrate-incoming\", \"arguments\": {\"uri\": \"file:$2,offset=$3\"}}" \
        'EVENT MIGRATION completed' cont || fail "$(cat "$scratch/incoming")"
    check_restored
}

# figure_of PATH MEMBER: of farfault info.
figure_of() { farfault_at_a info --json "$1" | python3 -c "import json,sys; print(json.load(sys.stdin)['$2'])"; }

# libvirt 11.2 and newer.
case_save_sparse() {
    local file=/var/lib/libvirt/qemu/save/sparse folder=$hosts/A/lib/qemu/save
    on A virsh save --help | grep -q -- --image-format || skip "this libvirt has no sparse save images"
    start_guest A
    save_guest sparse --image-format sparse
    cp --sparse=always "$folder/sparse" "$folder/copy"
    is "form" "$(figure_of "$file" format)" mapped-ram
    is "complete" "$(figure_of "$file" complete)" True
    virsh_on A restore "$file" # QEMU's own, all of it first
    virsh_on A qemu-monitor-command "$VM" '{"execute": "query-migrate"}' >"$scratch/eager"
    if grep -q '"restore"' "$scratch/eager"; then fail "lazy, and nobody has asked for it"; fi
    check_guest A "running (restored)"
    virsh_on A destroy "$VM"
    restore_lazily copy "${file%/*}/copy"
    restore_incoming copy "${file%/*}/copy" "$(figure_of "$file" offset)"
    farfault_at_a convert "$file" "${file%/*}/stream"
    farfault_at_a convert "${file%/*}/stream" "${file%/*}/mapped"
    restore_lazily copy "${file%/*}/mapped"
    rm "$folder"/{sparse,copy,stream,mapped}
}

# By virsh, which knows nothing of it: what libvirt 11.2 writes as sparse, and for an older one what
# farfault convert makes of its raw image. Never of a managed save, whatever its form.
case_restore_asked() {
    local folder=$hosts/A/lib/qemu/save at=/var/lib/libvirt/qemu/save sparse=()
    start_guest A
    if on A virsh save --help | grep -q -- --image-format; then sparse=(--image-format sparse); fi
    save_guest asked "${sparse[@]}"
    if [ ${#sparse[@]} = 0 ]; then
        farfault_at_a convert --to mapped-ram --libvirt "$at/asked" "$at/mapped"
        mv "$folder/mapped" "$folder/asked"
    fi
    [ "$user" = root ] || chown "$user" "$folder/asked"
    on A virsh -q save-image-dumpxml "$at/asked" |
        sed "s#^<domain type='qemu'>#<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>#
            s#^</domain>#<qemu:commandline><qemu:env name='FARFAULT_RESTORE' value='lazy'/></qemu:commandline></domain>#" \
            >"$scratch/asked.xml"
    virsh_on A restore "$at/asked" --xml "$scratch/asked.xml"
    says_of_it A '"status": *"completed".*"restore": *[{]'
    check_guest A "running (restored)"
    virsh_on A suspend "$VM"
    virsh_on A resume "$VM"
    virsh_on A managedsave "$VM"
    virsh_on A start "$VM"
    says_of_it A '"reason": *"a managed save'
    check_guest A "running (restored)"
    virsh_on A destroy "$VM"
    virsh_on A undefine "$VM"
    rm "$folder/asked"
}

# The older form is QEMU's ordinary stream: lazily after a conversion.
case_save_raw_lazily() {
    local folder=$hosts/A/lib/qemu/save at=/var/lib/libvirt/qemu/save
    start_guest A
    save_guest raw
    is "form" "$(figure_of "$at/raw" format)" stream
    guest_line raw
    refused 'farfault convert --to mapped-ram' farfault_at_a restore "$at/raw" -- "${line[@]}"
    farfault_at_a convert "$at/raw" "$at/mapped"
    restore_lazily raw "$at/mapped"
    rm "$folder"/{raw,mapped}
}
