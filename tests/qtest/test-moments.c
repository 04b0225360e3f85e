/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * kill -9 of the engine at either side at each named moment of a migration, right before each
 * kind of message, and in the middle of a recovery; and single calls that fail. After each the
 * operator continues as the statuses say. Then the guest runs at the side that the moment decides
 * about, nowhere else, and its memory is right.
 */
#include <string.h>

#include "tests/lib/check.h"
#include "tests/lib/move.h"
#include "tests/lib/operator.h"
#include "tests/lib/vm.h"

#define RAM "24M"
#define RAM_BYTES (24ull << 20)

typedef struct {
    const char *faults; /* POINT=ACTION;... of base/failpoints.h, two at most */
    OperatorEnd end;    /* who has the guest then */
    bool precopy;       /* nobody asks for postcopy */
    bool at_once;       /* before precopy has sent what the device state needs */
    bool alone;         /* the main connection carries all of bulk */
    bool unnoticed;     /* nothing breaks */
} Row;

#define S OPERATOR_SOURCE
#define D OPERATOR_DESTINATION
/* QEMU may touch memory while it loads, or only when it has loaded. */
#define EITHER OPERATOR_GO_ON

static const Row rows[] = {
    /* the source's engine: until GIVEN is stored the guest is its own */
    {"source/setup/at/begins=kill", S},
    {"source/setup/at/setup=kill", S},
    {"source/setup/main/hello=kill", S},
    {"source/setup/urgent/channel=kill", S},
    {"source/setup/at/connected=kill", S},
    {"source/active/at/active=kill", S},
    {"source/active/main/pages=kill", S, .precopy = true},
    {"source/active/main/round=kill", S, .precopy = true},
    {"source/active/main/round#2=kill", S, .precopy = true},
    {"source/active/main/prepare=kill", S},
    {"source/active/main/stale=kill", S},
    {"source/active/at/prepared=kill", S},
    {"source/active/at/stopping=kill", S},
    {"source/active/at/offered=kill", S},
    {"source/active/at/offered-held=kill", S},
    {"source/active/at/stopped=kill", S},
    {"source/active/at/frozen=kill", S},
    {"source/device/at/saving=kill", S},
    {"source/device/at/saving-held=kill", S},
    {"source/device/main/device=kill", S},
    {"source/device/main/device#3=kill", S},
    {"source/device/at/loaded=kill", S},
    {"source/device/at/given=kill", D},
    {"source/device/main/grant=kill", D},
    {"source/device/at/granted=kill", D},
    {"source/postcopy-active/at/running=kill", D},
    {"source/postcopy-active/urgent/pages=kill", D},
    {"source/postcopy-active/main/pages#3=kill", D, .alone = true},
    {"source/postcopy-active/main/end=kill", D},
    {"source/postcopy-active/at/done=kill", D},
    {"source/postcopy-active/at/saved=kill", D},
    {"source/postcopy-active/at/undone=kill", D},
    {"source/postcopy-active/main/finished=kill", D},
    {"source/postcopy-active/at/finished=kill", D},
    /* the destination's: its guest may run from GRANTED on */
    {"destination/setup/at/setup=kill", S},
    {"destination/setup/main/greeting=kill", S},
    {"destination/setup/main/hello-reply=kill", S},
    {"destination/setup/at/greeted=kill", S},
    {"destination/setup/at/prepared=kill", S},
    {"destination/active/at/active=kill", S},
    {"destination/active/main/round=kill", S, .precopy = true},
    {"destination/active/at/loading=kill", S},
    {"destination/active/at/loading-held=kill", S},
    {"destination/active/at/armed=kill", S},
    {"destination/active/main/ready=kill", S},
    {"destination/active/main/ready#2=kill", S},
    {"destination/*/*/request=kill", EITHER}, /* of QEMU that loads, or of a vCPU */
    {"destination/active/at/placed=kill", S, .at_once = true},
    {"destination/active/at/shut=kill", S},
    {"destination/active/at/loaded=kill", S},
    {"destination/active/main/loaded=kill", S},
    {"destination/active/at/grant=kill", D},
    {"destination/active/at/granted=kill", D},
    {"destination/postcopy-active/at/resumed=kill", D},
    {"destination/postcopy-active/at/running=kill", D},
    {"destination/postcopy-active/main/running=kill", D},
    {"destination/postcopy-active/*/request=kill", D},
    {"destination/postcopy-active/at/placed#50=kill", D},
    {"destination/postcopy-active/main/ack=kill", D, .alone = true},
    {"destination/postcopy-active/at/all=kill", D},
    {"destination/postcopy-active/at/disarmed=kill", D},
    {"destination/postcopy-active/at/done=kill", D},
    {"destination/postcopy-active/main/done=kill", D},
    {"destination/postcopy-active/at/undone=kill", D},
    {"destination/postcopy-active/at/finished=kill", D},
    /* a recovery, which the first fault makes necessary */
    {"source/*/at/running=kill;source/postcopy-recover/main/resume=kill", D},
    {"source/*/at/running=kill;source/postcopy-recover/urgent/channel=kill", D},
    {"source/*/at/running=kill;source/postcopy-recover/main/resumed=kill", D},
    {"destination/*/at/running=kill;destination/postcopy-*/main/greeting=kill", D},
    {"destination/*/at/running=kill;destination/*/main/resume-reply=kill", D},
    {"destination/*/at/running=kill;destination/*/main/have=kill", D},
    {"destination/*/at/running=kill;destination/*/main/have-end=kill", D},
    {"source/device/main/grant=kill;source/*/main/grant=kill", D},
    /* roll back, which the first fault makes necessary */
    {"source/device/main/device=cut:30;source/*/at/rolling-back=kill", S},
    /* calls that fail */
    {"source/setup/call/map-ram=ENOMEM", S},
    /* before it has accepted: the next engine does */
    {"destination/setup/call/map-state=ENOMEM", D, .unnoticed = true},
    {"destination/setup/call/grow-state=ENOSPC", D, .unnoticed = true},
    {"destination/*/call/write-ram=ENOSPC", S, .precopy = true},
    {"destination/*/call/write-ram=EIO", S, .precopy = true},
    {"destination/*/call/punch=EIO", S},
    {"destination/*/call/uffd-register=ENOMEM", S},
    {"destination/postcopy-active/call/uffd-copy=EAGAIN", D},
    {"destination/postcopy-active/call/uffd-copy=ENOMEM", D},
    {"destination/postcopy-active/call/uffd-copy#9=EIO", D},
    {"destination/*/call/uffd-zero=EAGAIN", D},
    {"destination/*/call/uffd-unregister=ENOMEM", D},
    {"destination/postcopy-active/call/uffd-read=EIO", D},
    {"source/setup/call/send=EIO", S},
    {"source/active/call/recv=EIO", S},
    {"source/postcopy-active/call/send=EIO", D},
    {"source/postcopy-active/call/send=EAGAIN", D},
    {"source/postcopy-active/call/recv=EAGAIN", D},
    {"destination/postcopy-active/call/recv#40=EIO", D},
    /* messages that come in part, twice, changed or late */
    {"source/active/main/round=dup", S, .precopy = true},
    {"source/active/main/round#2=cut:20", S, .precopy = true},
    {"destination/active/main/round=dup", S, .precopy = true},
    {"destination/active/main/round#2=cut:10", S, .precopy = true},
    {"source/device/main/grant=cut:0", D},
    {"source/device/main/grant=cut:39", D},
    {"source/device/main/grant=dup", D},
    {"source/device/main/grant=flip:0", D},
    {"source/device/main/grant=stop:300", D},
    {"destination/active/main/loaded=cut:10", S},
    {"destination/active/main/loaded=dup", D},
    {"destination/postcopy-active/main/running=dup", D},
    {"destination/postcopy-active/main/done=cut:20", D},
    {"source/postcopy-active/main/finished=cut:3", D},
    {"source/setup/urgent/channel=cut:0;destination/*/at/attaching=delay:300", D,
     .unnoticed = true},
    {"source/postcopy-active/main/pages#3=dup", D, .alone = true},
    {"source/postcopy-active/main/pages#3=flip:4", D, .alone = true},
};

static Vm *start(const char *name, const BootsectConfig *boot, const char *incoming,
                 const char *faults)
{
    return vm_start_pc((VmConfig){
        .name = name, .memory = RAM, .boot = boot, .incoming = incoming, .faults = faults});
}

static void test_row(gconstpointer data)
{
    const Row *row = data;
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    BootsectConfig boot = bootsect_config(RAM_BYTES, 8 << 20, 1);
    Vm *s = start("source", &boot, NULL, row->faults);
    Vm *d = start("destination", &boot, "defer", row->faults);
    Operator o;
    operator_init(&o, s, d);
    vm_wait_serial(s, "B");
    move_prepare(s, d);
    if (row->alone) {
        /* What is acknowledged comes after the switch, not all of it before the guest runs. */
        qmp_ok(vm_qmp(s), "migrate-set-parameters",
               "{'x-farfault-channels': 1, 'max-postcopy-bandwidth': 8388608}");
    }
    if (!row->precopy) {
        /* However late the operator switches, precopy has not sent everything. */
        qmp_ok(vm_qmp(s), "migrate-set-parameters", "{'max-bandwidth': 4194304}");
    }
    o.switched = row->precopy;
    operator_begin(&o, row->at_once);
    OperatorEnd end = operator_run(&o);
    if (row->end == EITHER) {
        g_assert_true(end == S || end == D);
    } else {
        g_assert_cmpint(end, ==, row->end);
    }
    if (row->unnoticed) {
        g_assert_cmpuint(o.recoveries, ==, 0);
    }
    g_auto(GStrv) faults = g_strsplit(row->faults, ";", -1);
    for (unsigned i = 0; faults[i]; i++) {
        if (!vm_fault_happened(g_str_has_prefix(faults[i], "source") ? s : d, i)) {
            g_error("the point was not reached: %s", faults[i]);
        }
    }
    operator_check_guest(&o, end, &boot, RAM_BYTES);
    operator_end(&o, end);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *name = g_strdelimit(g_strdup(rows[i].faults), "/", '.');
        g_autofree char *path = g_strconcat("/moments/", name, NULL);
        g_test_add_data_func(path, &rows[i], test_row);
    }
    return g_test_run();
}
