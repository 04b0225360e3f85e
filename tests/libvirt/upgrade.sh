# SPDX-License-Identifier: GPL-2.0-or-later
# Another QEMU under a guest of libvirt's (farfault upgrade): the process that libvirt knows stays, and both
# have one end.
# shellcheck shell=bash
# shellcheck disable=SC2154

# The process that libvirt knows.
front_of() { on "$1" cat "/run/libvirt/qemu/$VM.pid"; }

# upgrade HOST [OPTION...]: by the process that libvirt knows; prints the one that the guest is in.
upgrade() {
    local host=$1 front
    shift
    front=$(front_of "$host")
    on "$host" "$prefix/bin/farfault" upgrade "$front" "$@" | tee -a "$scratch/remarks" >"$scratch/upgraded"
    grep -q "; process $front stays for those who know it\$" "$scratch/upgraded"
    sed -n 's/^the guest is in QEMU .*, process \([0-9]*\).*/\1/p' "$scratch/upgraded"
}

# QEMU 10 where its user can reach it; the others are not touched.
qemu10() {
    [ -x "$scratch/qemu10/qemu-system-x86_64" ] || {
        "$root/scripts/get" qemu 10 >/dev/null || skip "no QEMU 10"
        cp -a "$root/.cache/qemu10" "$scratch/qemu10"
        sed -i "s#$root/.cache/qemu10#$scratch/qemu10#g" "$scratch/qemu10/qemu-system-x86_64"
        chmod -R a+rX "$scratch/qemu10"
    }
    echo "$scratch/qemu10/qemu-system-x86_64"
}

major() {
    virsh_on "$1" qemu-monitor-command "$VM" '{"execute": "query-version"}' | sed -n 's/.*"major":\([0-9]*\).*/\1/p'
}

ends_at() {
    local pid
    for pid in "${@:2}"; do
        on "$1" timeout 30 tail --pid="$pid" -f /dev/null || fail "process $pid lives on at $1"
    done
}

# The vCPU's thread has the processor and the control group that libvirt has given to it.
vcpu_is_placed() {
    local thread
    thread=$(virsh_on "$1" qemu-monitor-command "$VM" '{"execute": "query-cpus-fast"}' |
        grep -o '"thread-id":[0-9]*' | cut -d: -f2 | sort -n | tail -n 1)
    is "the vCPU's processors" "$(on "$1" taskset -pc "$thread" | sed 's/.*: //')" 1
    on "$1" grep -q '/vcpu0$' "/proc/$thread/cgroup" || fail "the vCPU is not in its control group"
}

# Three times, with what libvirt does in between; then it moves, is upgraded there, and comes back.
case_upgrade() {
    local q10 before now front i installed wanted=10
    q10=$(qemu10)
    start_guest A
    front=$(front_of A)
    installed=$(major A)
    # libvirt gives QEMU 11 its monitor as an object, which QEMU 10 does not know: to the same version.
    if [ "$installed" -gt 10 ]; then
        q10=/usr/bin/qemu-system-x86_64
        wanted=$installed
    fi
    virsh_on A vcpupin "$VM" 0 1
    vcpu_is_placed A
    before=$(upgrade A --qemu "$q10")
    vcpu_is_placed A
    is "the version of its QEMU" "$(major A)" "$wanted"
    check_guest A "running (unpaused)"
    virsh_on A suspend "$VM"
    is "state" "$(state A)" "paused (user)"
    now=$(upgrade A --qemu /usr/bin/qemu-system-x86_64)
    ends_at A "$before"
    is "state" "$(state A)" "paused (user)"
    virsh_on A resume "$VM"
    check_guest A "running (unpaused)"
    "$root/scripts/libvirt-hosts" restart A
    is "the version of its QEMU" "$(major A)" "$installed"
    check_guest A "running (unpaused)"
    before=$now
    upgrade A --qemu "$q10" >/dev/null
    ends_at A "$before"
    is "the process that libvirt knows" "$(front_of A)" "$front"
    check_guest A "running (unpaused)"
    virsh_on A domstats "$VM" >/dev/null
    move A
    check_guest B
    ends_at A "$front"
    for i in 1 2; do upgrade B >/dev/null; done
    check_guest B "running (unpaused)"
    move B
    check_guest A
}

# With a disk and a connection in use. FF_UPGRADES: how often, there and back.
case_upgrade_busy() {
    local q10 i
    q10=$(qemu10)
    start_busy_guest raw
    for ((i = 0; i < ${FF_UPGRADES:-2}; i++)); do
        upgrade A --qemu "$q10" >/dev/null
        check_io A
        upgrade A --qemu /usr/bin/qemu-system-x86_64 >/dev/null
        check_io A
    done
    check_guest A "running (unpaused)"
    stop_echo
}

# What a usual domain has beside disk and network.
case_upgrade_devices() {
    local q10 i
    q10=$(qemu10)
    DEVICE_XML="
        <serial type='pty'><target port='1'/></serial>
        <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
        <input type='tablet' bus='usb'/>
        <graphics type='vnc' port='-1' listen='127.0.0.1'/>
        <video><model type='vga'/></video>
        <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>" start_guest A
    for i in 1 2; do
        upgrade A --qemu "$q10" >/dev/null
        check_guest A "running (unpaused)"
        vnc_greets A
        upgrade A --qemu /usr/bin/qemu-system-x86_64 >/dev/null
        check_guest A "running (unpaused)"
        vnc_greets A
    done
    move A
    check_guest B
}

# The guest's agent answers at its channel, which is asked all the time. FF_UPGRADES: how often,
# there and back.
case_upgrade_agent() {
    local agent q10 i asker
    agent=$("$root/scripts/get" guest-agent 2>"$scratch/why") || skip "$(tail -n 1 "$scratch/why")"
    q10=$(qemu10)
    for i in A B; do
        cat "$GUEST/initrd.img" "$agent" >"$hosts/$i/lib/boot/agent.img"
    done
    mark A
    INITRD=agent.img MEMWORK="ff.mib=64 ff.hot=24 ff.agent=1" DEVICE_XML="
        <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>" start_guest A
    await_qmp A '"VSERPORT_CHANGE".*"open": true' 60
    agent_answers A
    ask_on A >"$scratch/asked" 2>&1 &
    asker=$!
    for ((i = 0; i < ${FF_UPGRADES:-2}; i++)); do
        upgrade A --qemu "$q10" >/dev/null
        agent_answers A
        upgrade A --qemu /usr/bin/qemu-system-x86_64 >/dev/null
        agent_answers A
    done
    touch "$scratch/asked.enough"
    wait "$asker"
    check_guest A "running (unpaused)"
    tail -n 1 "$scratch/asked" >>"$scratch/remarks"
    move A
    agent_answers B
    check_guest B
    rm "$hosts"/[AB]/lib/boot/agent.img
}

agent_answers() {
    is "what the agent says" "$(virsh_on "$1" qemu-agent-command "$VM" --timeout 60 '{"execute": "guest-ping"}')" \
        '{"return":{}}'
    virsh_on "$1" domtime "$VM" | grep -q '^Time: [0-9]'
}

# Until $scratch/asked.enough is there. While the guest stands libvirt refuses, and what is under way
# when the connection ends fails, as in a migration.
ask_on() {
    local answered=0 n=0
    while [ ! -e "$scratch/asked.enough" ]; do
        if virsh_on "$1" qemu-agent-command "$VM" --timeout 60 '{"execute": "guest-ping"}' >/dev/null; then
            answered=$((answered + 1))
        fi
        n=$((n + 1))
    done
    echo "$answered of $n questions to the agent were answered meanwhile"
}

# Who comes to the screen is let in, by the QEMU that has it.
vnc_greets() {
    local display said
    display=$(virsh_on "$1" vncdisplay "$VM")
    # shellcheck disable=SC2016 # the host's own
    said=$(on "$1" timeout 30 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$((5900 + '"${display##*:}"'))"; head -c 3 <&3')
    is "what VNC says" "$said" RFB
}

case_upgrade_destroy() {
    local now front
    start_guest A
    front=$(front_of A)
    now=$(upgrade A)
    virsh_on A destroy "$VM"
    ends_at A "$now" "$front"
    is "state" "$(state A)" "shut off (destroyed)"
}

# The guest's own end.
case_upgrade_poweroff() {
    local now front
    start_guest A
    front=$(front_of A)
    now=$(upgrade A)
    mark A
    console A 30 . q >/dev/null || true # the guest ends, and with it the connection
    await_qmp A '"SHUTDOWN"'
    ends_at A "$now" "$front"
    is "state" "$(state A)" "shut off (shutdown)"
}

# kill -9: of the process that libvirt knows, with everybody else of the guest dead before it or not; and
# of the QEMU behind it.
case_upgrade_killed() {
    local now front which
    for which in front alone behind; do
        start_guest A
        front=$(front_of A)
        now=$(upgrade A)
        case $which in
        front) on A kill -9 "$front" ;;
        alone) on A sh -c "pkill -9 '^farfault-(relay|engine)'; kill -9 $front" ;;
        behind) on A kill -9 "$now" ;;
        esac
        ends_at A "$now" "$front"
        is "state" "$(state A)" "shut off (crashed)"
        virsh_on A undefine "$VM" >/dev/null
    done
}
