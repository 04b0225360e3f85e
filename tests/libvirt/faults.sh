# SPDX-License-Identifier: GPL-2.0-or-later
# What breaks while a guest is on its way: an engine, the network, libvirtd. No guest is lost.
# shellcheck shell=bash
# shellcheck disable=SC2154

# libvirt takes a guest whose monitor ends for dead. An engine that dies must not look like that.
case_engine_killed() {
    local pid
    start_guest A
    start_move A --bandwidth 16
    pid=$(on A pgrep -x farfault-engine)
    on A kill -KILL "$pid"
    finish_move && fail "the migration cannot have succeeded"
    is "domains at B" "$(virsh_on B list --name)" ""
    check_guest A "running (booted)"
    move A
    check_guest B
}

# The source's engine dies after the switch: both sides keep what they have, the guest continues
# at the destination, and neither libvirtd ends it.
case_engine_killed_behind_the_switch() {
    lose_engine_behind_the_switch
    is "state at A" "$(state A)" "paused (post-copy failed)"
    is "state at B" "$(state B)" "running (post-copy failed)"
}
lose_engine_behind_the_switch() {
    local pid
    start_guest A
    start_move A --bandwidth 16 --postcopy-bandwidth 8
    virsh_on A migrate-postcopy "$VM"
    await_status A postcopy-active
    await_status B postcopy-active
    pid=$(on A pgrep -x farfault-engine)
    on A kill -KILL "$pid"
    await_status B postcopy-paused
    await_status A postcopy-paused
    finish_move && fail "the migration cannot have succeeded"
    is "running domains at B" "$(virsh_on B list --name)" "$VM"
}

case_postcopy_resume() {
    local status=0 said
    needs_resume
    lose_engine_behind_the_switch
    said=$(virsh_on A migrate --live --postcopy --postcopy-resume --postcopy-bandwidth 400 "$VM" "${uri[B]}" 2>&1) || status=$?
    printf '%s\n' "$said"
    is "status of virsh" "$status" 0
    check_guest B
}

# A new libvirtd, on either side, while the guest is on its way and afterwards.
case_restart_libvirtd() {
    start_guest A
    "$root/scripts/libvirt-hosts" restart A
    check_guest A "running (booted)"
    move A
    "$root/scripts/libvirt-hosts" restart B
    check_guest B
    move B
    check_guest A
}

# resume_move: --postcopy-resume from A to B, as fast as it goes. Not before A says postcopy-paused, which it keeps
# from its libvirtd for up to 3 s (docs/libvirt.md).
resume_move() {
    needs_resume
    await_status A postcopy-paused
    virsh_on A migrate --live --postcopy --postcopy-resume --postcopy-bandwidth 400 "$@" "$VM" "${uri[B]}"
    is "running domains at A" "$(virsh_on A list --name)" ""
    check_guest B
}

# begin_slow_move: the guest runs at B, most of its memory is at A.
begin_slow_move() {
    start_move A --bandwidth 16 --postcopy-bandwidth 8 "$@"
    virsh_on A migrate-postcopy "$VM"
    await_status A postcopy-active
    await_qmp B '"event": "RESUME"'
}

# kill_engine HOST WHERE REGEX: kills HOST's engine when libvirtd of WHERE has logged REGEX in the
# switch. libvirt sees the events of that moment in whatever order: the guest may end at A, or
# paused in postcopy, and then it continues; both sides never run it, and none loses it.
kill_engine_at() {
    local victim=$1 where=$2 regex=$3 at_a at_b
    start_guest A
    start_move A --bandwidth 16 --postcopy-bandwidth 8
    virsh_on A migrate-postcopy "$VM" &
    await_qmp "$where" "$regex"
    on "$victim" sh -c 'kill -KILL $(pgrep -x farfault-engine)' || true
    wait $! || true
    finish_move && fail "the migration cannot have succeeded"
    at_a=$(state A) at_b=$(state B 2>/dev/null || true)
    echo "A: $at_a, B: $at_b"
    if [[ $at_a = running* ]]; then
        [ -z "$at_b" ] || fail "the guest is at both: A $at_a, B $at_b"
        check_guest A "running*"
        move A
        check_guest B
    else
        is "state at A" "$at_a" "paused (post-copy failed)"
        is "state at B" "$at_b" "running (post-copy failed)"
        if can_resume; then resume_move; fi
    fi
    end_guest
}

# The source's engine dies at each step of the switch.
case_source_engine_killed_at_each_step() {
    kill_engine_at A A '"status": "active"'
    kill_engine_at A A '"event": "STOP"'
    kill_engine_at A A 'Send.*"execute":"migrate-continue"'
    kill_engine_at A A '"status": "device"'
    kill_engine_at A A '"status": "postcopy-active"'
    kill_engine_at A B '"status": "postcopy-active"'
    kill_engine_at A B 'Send.*"execute":"cont"'
    kill_engine_at A B '"event": "RESUME"'
}

case_destination_engine_killed_at_each_step() {
    kill_engine_at B B '"status": "active"'
    kill_engine_at B A '"event": "STOP"'
    kill_engine_at B A '"status": "device"'
    kill_engine_at B A '"status": "postcopy-active"'
    kill_engine_at B B '"status": "postcopy-active"'
    kill_engine_at B B 'Send.*"execute":"cont"'
    kill_engine_at B B '"event": "RESUME"'
}

# Both engines die at once, after the switch.
case_both_engines_killed_behind_the_switch() {
    local host
    needs_resume
    start_guest A
    begin_slow_move
    for host in A B; do on $host pkill -KILL -x farfault-engine; done
    await_status B postcopy-paused
    finish_move && fail "the migration cannot have succeeded"
    is "state at A" "$(state A)" "paused (post-copy failed)"
    is "state at B" "$(state B)" "running (post-copy failed)"
    resume_move
}

# An engine dies while the migration is being recovered: one more recovery.
case_engine_killed_in_the_recovery() {
    local victim host
    for victim in A B; do
        lose_engine_behind_the_switch
        needs_resume
        mark A
        mark B
        virsh_on A migrate --live --postcopy --postcopy-resume --postcopy-bandwidth 8 "$VM" "${uri[B]}" >"$scratch/move" 2>&1 &
        mover=$!
        # On both: a side that never left postcopy-paused would not say it again.
        for host in A B; do await_status $host postcopy-recover; done
        on $victim pkill -KILL -x farfault-engine
        finish_move && fail "the recovery cannot have succeeded"
        for host in A B; do await_status $host postcopy-paused; done
        is "state at A" "$(state A)" "paused (post-copy failed)"
        is "state at B" "$(state B)" "running (post-copy failed)"
        resume_move
        end_guest
    done
}

# The link itself goes: nobody is told, no packet comes back. The user pauses the source, and goes
# on when the link is back.
case_network_cut_and_resume() {
    start_busy_guest raw
    begin_slow_move --unsafe
    "$root/scripts/libvirt-hosts" cut
    virsh_on A domjobabort --postcopy "$VM"
    await_status A postcopy-paused
    "$root/scripts/libvirt-hosts" heal
    await_status B postcopy-paused
    finish_move && fail "the migration cannot have succeeded"
    is "state at A" "$(state A)" "paused (post-copy failed)"
    is "state at B" "$(state B)" "running (post-copy failed)"
    resume_move --unsafe
    check_io B
    stop_echo
}

# Only the ports of migration are blocked, as a firewall would: both engines find out by themselves.
case_firewall_and_resume() {
    on B iptables -w -L -n >/dev/null 2>&1 || skip "no iptables in this kernel"
    start_busy_guest raw
    begin_slow_move --unsafe
    on B iptables -w -A INPUT -p tcp --dport 49152:49215 -j DROP
    on B iptables -w -A OUTPUT -p tcp --sport 49152:49215 -j DROP
    await_status A postcopy-paused 60
    await_status B postcopy-paused 60
    on B iptables -w -F
    finish_move && fail "the migration cannot have succeeded"
    resume_move --unsafe
    check_io B
    stop_echo
}

# The packets end to come between the grant and cont: QEMU's main loop waits for a page inside cont, which
# libvirt must not take for a guest that does not start.
case_firewall_before_cont_and_resume() {
    on B iptables -w -L -n >/dev/null 2>&1 || skip "no iptables in this kernel"
    needs_resume
    start_busy_guest raw
    start_move A --bandwidth 16 --postcopy-bandwidth 8 --unsafe
    on B sh -c 'kill -STOP $(cat /run/libvirtd.pid)'
    virsh_on A migrate-postcopy "$VM"
    await_status A postcopy-active
    on B iptables -w -A INPUT -p tcp --dport 49152:49215 -j DROP
    on B iptables -w -A OUTPUT -p tcp --sport 49152:49215 -j DROP
    on B sh -c 'kill -CONT $(cat /run/libvirtd.pid)'
    await_qmp B '"event": "RESUME"'
    finish_move && fail "the migration cannot have succeeded"
    on B iptables -w -F
    is "state at A" "$(state A)" "paused (post-copy failed)"
    is "state at B" "$(state B)" "running (post-copy failed)"
    resume_move --unsafe
    check_io B
    stop_echo
}

# The network breaks before the switch: the guest stays, and nothing is left at the other side.
case_network_cut_before_the_switch() {
    start_guest A
    start_move A --bandwidth 16
    on B ss -K dst 10.199.7.1 sport ge 49152 sport le 49215 >/dev/null || skip "ss cannot end connections here"
    finish_move && fail "the migration cannot have succeeded"
    is "domains at B" "$(virsh_on B list --all --name)" ""
    check_guest A "running (booted)"
    move A
    check_guest B
}

# libvirtd ends and comes back in the middle. libvirt's own rules: before the switch the migration
# is cancelled; after it the guest continues at the destination, and the migration with it.
case_restart_source_libvirtd_before_the_switch() {
    start_guest A
    start_move A --bandwidth 16
    mark A
    "$root/scripts/libvirt-hosts" restart A
    finish_move && fail "virsh cannot have seen the end"
    is "domains at B" "$(virsh_on B list --all --name)" ""
    check_guest A "running*"
    move A
    check_guest B
}
case_restart_destination_libvirtd_before_the_switch() {
    start_guest A
    start_move A --bandwidth 16
    "$root/scripts/libvirt-hosts" restart B
    finish_move && fail "virsh cannot have seen the end"
    is "domains at B" "$(virsh_on B list --all --name)" ""
    # libvirtd 11.3 itself ends by SIGSEGV there, before it has taken them away: 2 of 7 with plain QEMU.
    [ ! -e "$hosts/B/over" ] || remove_groups B
    check_guest A "running*"
    move A
    check_guest B
}
case_restart_source_libvirtd_behind_the_switch() {
    start_guest A
    begin_slow_move
    mark A
    "$root/scripts/libvirt-hosts" restart A
    finish_move || true # virsh has the destination's word, and no answer from the source
    await_qmp A 'Shutting down vm=.* name=vm1.*reason=migrated' 60
    check_guest B "running*"
    is "running domains at A" "$(virsh_on A list --name)" ""
}
case_restart_destination_libvirtd_behind_the_switch() {
    start_guest A
    begin_slow_move
    mark B
    "$root/scripts/libvirt-hosts" restart B
    finish_move && fail "virsh cannot have seen the end"
    await_qmp A '"MIGRATION".*"status": "completed"' 60
    check_guest B "running*"
}
