/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See hook.h. One thread; no locks. System calls: close. */
#include "guest/relay/hook.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

void ff_hook_init(FfGuest *guest)
{
    guest->hook = -1;
}

static char *error_text(int error)
{
    if (error == FF_AGENT_EOLDER) {
        return g_strdup("an older farfault has started this guest: live snapshots while it gives "
                        "memory back (balloon, free page reporting, virtio-mem) need it to be "
                        "started again");
    }
    return g_strdup_printf("live snapshots of a guest that gives memory back (balloon, free page "
                           "reporting, virtio-mem) are not possible: the agent in QEMU: %s",
                           g_strerror(error));
}

static void clear_hook(FfGuest *guest)
{
    g_clear_pointer(&guest->discards, ff_discards_free);
    g_clear_pointer(&guest->hook_error, g_free);
    if (guest->hook >= 0) {
        close(guest->hook);
        guest->hook = -1;
    }
}

void ff_hook_adopt(FfRelay *relay, const FfAgentHello *hello, int fd)
{
    FfGuest *guest = &relay->guest;
    int rc = -hello->hook_error;

    clear_hook(guest);
    guest->hook = fd;
    if (rc == 0) {
        rc = ff_discards_map(fd, &guest->discards);
    }
    if (rc < 0) {
        clear_hook(guest);
        guest->hook_error = error_text(-rc);
        guest->hook_errno = -rc;
    }
    bool kept = rc == 0 && hello->hook_kept > 0 && hello->hook_kept <= UINT16_MAX;

    relay->state->hook_in_qemu = kept ? hello->hook_kept : 0;
    ff_hook_engine_dead(relay);
}

void ff_hook_set_accepts(FfRelay *relay, FfAccepts accepts)
{
    ff_discards_set_accepts(relay->guest.discards, accepts);
}

void ff_hook_engine_dead(FfRelay *relay)
{
    if (ff_discards_disarm(relay->guest.discards)) {
        ff_relay_log(relay, "QEMU discards guest memory again: the engine that kept it from that "
                            "has ended");
    }
}
