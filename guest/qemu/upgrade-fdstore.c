/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See internal.h. The fds are in a parcel, so that nobody else of QEMU's user can open them.
 * Its inode is stored first: farfault attach looks for it among QEMU's fds, and finds none if QEMU
 * did not get it.
 *
 * Threads: the coordinator's. No lock here. System calls: fstat.
 */
#include "guest/qemu/internal.h"

#include <errno.h>
#include <gio/gio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "guest/launch/fdstore.h"
#include "guest/qemu/call.h"

#define NAME "farfault-pact"

static JsonObject *name_args(void)
{
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, "fdname", NAME);
    return args;
}

bool ff_qemu_keep_pact(FfVmmState *state, const int *fds, unsigned n, GError **error)
{
    FfQemu *qemu = ff_qemu_of_state(state);
    int parcel = ff_fdstore_new(fds, n);
    struct stat st;

    if (parcel < 0 || fstat(parcel, &st) < 0) {
        int err = parcel < 0 ? -parcel : errno;

        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(err),
                    "what QEMU is to keep of the upgrade: %s", g_strerror(err));
        if (parcel >= 0) {
            close(parcel);
        }
        return false;
    }
    __atomic_store_n(&qemu->state->kept_pact, (uint32_t)st.st_ino, __ATOMIC_RELEASE);
    g_autoptr(JsonObject) args = name_args();
    FfQmpCall *asked = ff_qmp_call_begin(qemu->qmp, "getfd", args, &parcel, 1);
    close(parcel);
    g_autoptr(JsonNode) reply = ff_qemu_answer(asked, "getfd", error);
    return reply != NULL;
}

/* Waited for: QEMU drops what it has not begun when it sees the end of this monitor, and this
 * engine may end at once. The old QEMU would keep the userfaultfd of the new one, whose guest then
 * waits for ever at a page that nobody lets it write to. And once more by the engine after one that
 * died here; where there is no sign of it, as in an upgrade that failed since QEMU is busy, not
 * for ever. */
void ff_qemu_forget_pact(FfVmmState *state)
{
    FfQemu *qemu = ff_qemu_of_state(state);
    bool kept = __atomic_exchange_n(&qemu->state->kept_pact, 0, __ATOMIC_ACQ_REL);
    g_autoptr(GError) error = NULL;

    FF_FAULT_AT("forgetting-pact");
    g_autoptr(JsonNode) reply = kept ? ff_qemu_call_firm(qemu, "closefd", name_args(), &error)
                                     : ff_qemu_call(qemu, "closefd", name_args(), &error);
    if (!reply && kept) {
        g_message("%s: %s", qemu->name, error->message);
    }
}
