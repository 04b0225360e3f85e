# SPDX-License-Identifier: GPL-2.0-or-later
# The ways in which virsh migrates.
# shellcheck shell=bash
# shellcheck disable=SC2154

# The shortest proof that it works: there and back, memory checked each time.
case_forth_and_back() {
    start_guest A
    move A
    check_guest B
    move B
    check_guest A
}

# virsh asks once. If libvirt has not come to QEMU by then, virsh is refused and the migration continues for ever.
case_timeout_postcopy() {
    start_guest A
    virsh_on A migrate --live --postcopy --bandwidth 16 --timeout 8 --timeout-postcopy "$VM" "${uri[B]}"
    is "state at A" "$(state A)" "shut off (migrated)"
    check_guest B
}

case_p2p_persistent_undefinesource() {
    start_guest A
    move_undefining A --p2p --persistent --undefinesource
    is "domains at A" "$(virsh_on A list --all --name)" ""
    is "persistent at B" "$(virsh_on B dominfo "$VM" | awk '/^Persistent/{print $2}')" yes
    check_guest B
}
move_undefining() {
    start_move "$@" --bandwidth 16
    virsh_on "$1" migrate-postcopy "$VM"
    finish_move
}

# --bandwidth is the rate before the switch, --postcopy-bandwidth after it. 96 MiB of the guest's
# memory are not zero: at 16 MiB/s they need 6 s, at full speed less than 2.
case_bandwidth() {
    local ms
    start_guest A
    start_move A --bandwidth 16 --postcopy-bandwidth 16
    is "bandwidth" "$(virsh_on A migrate-getspeed "$VM")" 16
    virsh_on A migrate-postcopy "$VM"
    finish_move
    ms=$(virsh_on A domjobinfo --completed "$VM" | awk '/^Time elapsed:/{print $3}')
    [ "$ms" -gt 4500 ] || fail "96 MiB at 16 MiB/s took $ms ms: the limit is not kept"
    check_guest B
}

# figure NAME: one number of domjobinfo's output, $scratch/job; its unit is dropped.
figure() {
    sed -n "s/^$1: *\([0-9]*\).*/\1/p" "$scratch/job"
}
job() {
    virsh_on "$1" domjobinfo "$VM" "${@:2}" | tee "$scratch/job"
}

case_domjobinfo() {
    local total downtime requests normal zero sent
    start_guest A
    start_move A --bandwidth 16 --postcopy-bandwidth 16
    job A
    grep -qE '^Operation: +Outgoing migration' "$scratch/job"
    is "memory in all" "$(figure 'Memory total')" 256
    virsh_on A migrate-postcopy "$VM"
    await_status A postcopy-active
    is "state at A" "$(state A)" "paused (post-copy)"
    is "state at B" "$(state B)" "running (post-copy)"
    job A
    [ "$(figure 'Memory remaining')" -le 256 ]
    finish_move
    job A --completed
    total=$(figure 'Time elapsed')
    downtime=$(figure 'Total downtime')
    requests=$(figure 'Postcopy requests')
    normal=$(figure 'Normal pages')
    zero=$(figure 'Constant pages')
    [ "$total" -gt 1000 ] && [ "$total" -lt 60000 ] || fail "elapsed: $total ms"
    [ "$downtime" -lt 3000 ] || fail "downtime: $downtime ms"
    [ "$requests" -gt 0 ] || fail "no page was requested"
    is "what remains" "$(figure 'Memory remaining')" 0
    [ $((normal + zero)) -ge 65536 ] || fail "$normal normal and $zero constant pages of 65536"
    [ "$normal" -ge 24576 ] || fail "$normal normal pages: the guest fills 24576"
    sent=$(figure 'Memory processed')
    [ "$sent" -ge $((normal * 4096 >> 20)) ] && [ "$sent" -lt 512 ] || fail "$sent MiB were sent, with $normal pages"
    is "page size" "$(figure 'Page size')" 4096
    [ "$(figure 'Setup time')" -lt "$total" ] || fail "setup time"
    [ "$(figure 'Memory bandwidth')" -gt 0 ] || fail "no bandwidth"
    check_guest B
}

# The client takes it back before the switch; afterwards it works as if nothing had been.
case_domjobabort() {
    local status=0
    start_guest A
    start_move A --bandwidth 16
    virsh_on A domjobabort "$VM"
    finish_move || status=$?
    is "status of virsh migrate" "$status" 1
    is "domains at B" "$(virsh_on B list --all --name)" ""
    check_guest A "running (booted)"
    move A
    check_guest B
}

# Ctrl-C in virsh is domjobabort.
case_ctrl_c() {
    local status=0
    start_guest A
    mark A
    on A python3 "$root/tests/libvirt/ctrl-c.py" virsh migrate --verbose --live --postcopy --bandwidth 16 "$VM" \
        "${uri[B]}" < <(await_status A active && echo) || status=$?
    is "status of virsh migrate" "$status" 1
    is "domains at B" "$(virsh_on B list --all --name)" ""
    check_guest A "running (booted)"
}

# After the switch nothing can be undone: virsh continues to the end.
case_ctrl_c_behind_the_switch() {
    local status=0
    start_guest A
    mark A
    mark B
    on A python3 "$root/tests/libvirt/ctrl-c.py" virsh migrate --verbose --live --postcopy --bandwidth 16 \
        --postcopy-bandwidth 16 "$VM" "${uri[B]}" < <(
        await_status A active && virsh_on A migrate-postcopy "$VM" && await_qmp B '"event": "RESUME"' && echo
    ) || status=$?
    is "status of virsh migrate" "$status" 0
    check_guest B
    is "running domains at A" "$(virsh_on A list --name)" ""
}

# libvirt itself refuses postcopy of a suspended guest; without postcopy QEMU migrates natively.
case_suspended_guest() {
    start_guest A
    virsh_on A suspend "$VM"
    refused 'not supported with non-live or paused migration' \
        virsh_on A migrate --live --postcopy "$VM" "${uri[B]}"
    virsh_on A migrate --live "$VM" "${uri[B]}"
    is "state at B" "$(state B)" "paused (user)"
    virsh_on B resume "$VM"
    check_guest B "running (unpaused)"
    move B
    check_guest A
}

case_twenty_times() {
    local from=A
    start_guest A
    for _ in $(seq 20); do
        move "$from" --persistent
        from=${other[$from]}
        check_guest "$from"
    done
}

# virsh asks for the switch when the first pass over the memory is through.
case_postcopy_after_precopy() {
    MEMWORK="ff.mib=128 ff.hot=96" start_guest A
    virsh_on A migrate --live --postcopy --postcopy-after-precopy --bandwidth 64 "$VM" "${uri[B]}"
    job A --completed
    [ "$(figure Iteration)" -ge 2 ] || fail "no pass was made before the switch"
    [ "$(figure 'Postcopy requests')" -gt 0 ] || fail "nothing was left for postcopy"
    check_guest B
}

# After the switch nothing can be taken back: the migration is paused, and continues later.
case_domjobabort_postcopy_and_resume() {
    needs_resume
    start_guest A
    start_move A --bandwidth 16 --postcopy-bandwidth 8
    virsh_on A migrate-postcopy "$VM"
    await_status A postcopy-active
    await_status B postcopy-active
    refused 'cannot abort|not valid|post-copy' virsh_on A domjobabort "$VM"
    virsh_on A domjobabort --postcopy "$VM"
    finish_move && fail "the migration cannot have succeeded"
    is "state at A" "$(state A)" "paused (post-copy failed)"
    is "state at B" "$(state B)" "running (post-copy failed)"
    await_status A postcopy-paused # as resume_move
    virsh_on A migrate --live --postcopy --postcopy-resume "$VM" "${uri[B]}"
    is "running domains at A" "$(virsh_on A list --name)" ""
    check_guest B
}
