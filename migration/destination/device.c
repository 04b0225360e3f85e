/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Device state into the destination QEMU, and what QEMU answers.
 *
 * The reader that got device state gives QEMU what its socket takes at once: the guest stands
 * still, and each thread that must wake up first may wait for a processor. The rest is the
 * feeder's, a thread of its own because QEMU stops reading while it waits for a page, and that page
 * may have to come through that very reader. The return path carries one word that matters: SHUT,
 * loaded (0) or not.
 */
#include "migration/destination/device.h"

#include <errno.h>
#include <string.h>

#include "base/priority.h"
#include "base/sync.h"
#include "contract/stderr.h"
#include "migration/common/ownership.h"
#include "migration/destination/revoke.h"

/* QEMU's return path (migration/migration.h): be16 type, be16 length, payload. */
#define RP_SHUT 1
#define RP_MAX_PAYLOAD 512

/* For the last words of a QEMU that ends; the source's guest stands meanwhile. */
#define WORDS_MS 500

/* QEMU would load it, and let it run as if it was awake: it is not given the last of it. */
static bool is_refused(FfDestination *d, const uint8_t *data, size_t len)
{
    FfVmmState *state = &d->cfg->vmm->state;
    bool before = d->run_state.suspended;

    if (!state->keeps_suspended || state->keeps_suspended(state) ||
        !ff_run_state_seek(&d->run_state, data, len)) {
        return false;
    }
    if (!before) {
        ff_control_dead(d->control, "%s", FF_WOULD_NOT_STAY_SUSPENDED);
    }
    return true;
}

void ff_dest_feed(FfDestination *d, const uint8_t *data, size_t len)
{
    if (is_refused(d, data, len)) {
        return;
    }
    /* Acquire: what the feeder had is written. */
    bool idle = __atomic_load_n(&d->device_queued, __ATOMIC_ACQUIRE) == 0;
    size_t done = idle ? ff_channel_write_some(d->inner, data, len) : 0;

    if (done < len) {
        GBytes *bytes = g_bytes_new(data + done, len - done);
        ff_count(d->device_queued, len - done);
        ff_tsan_publish(bytes);
        g_async_queue_push(d->device_queue, bytes);
    }
}

/* What QEMU has said of it; NULL: nothing (g_free). It says that before its stream ends; its last
 * line (10.0) right before it ends itself. If that is the only one, it is waited for. */
static char *last_words(FfDestination *d)
{
    char *words = ff_stderr_since(d->cfg->discard_fd, d->stderr_before);

    if (!words && !d->cfg->vmm->state.keep_failed && ff_conn_vmm_ended(d->conn, WORDS_MS)) {
        words = ff_stderr_since(d->cfg->discard_fd, d->stderr_before);
    }
    return words;
}

static void say_not_loaded(FfDestination *d)
{
    if (ff_control_events(d->control) & (FF_EV_DEAD | FF_EV_QUIT | FF_EV_WANT_CANCEL)) {
        return; /* that is what the stream has ended for */
    }
    g_autofree char *words = last_words(d);
    bool ended = !words && ff_conn_vmm_ended(d->conn, 0);
    if (ff_control_events(d->control) & FF_EV_SHUT) {
        return; /* that took a while: it has loaded it, and closed its end before the last byte */
    }
    ff_control_dead(d->control, "QEMU %s the device state%s%s%s: %s%s",
                    ended ? "has ended while it loaded" : "could not load",
                    d->suspects ? " (the guests differ: " : "", d->suspects ? d->suspects : "",
                    d->suspects ? ")" : "",
                    words   ? words
                    : ended ? "why"
                            : "which device, and why,",
                    words ? ""
                          : " is in the destination QEMU's stderr (libvirt: "
                            "/var/log/libvirt/qemu/NAME.log)");
}

char *ff_dest_end_text(FfDestination *d)
{
    g_autofree char *words = ff_stderr_since(d->cfg->discard_fd, d->stderr_before);

    return g_strconcat("its QEMU has ended", words ? ": " : NULL, words, NULL);
}

void ff_dest_vmm_ended(FfDestination *d)
{
    /* While it loads, the thread that reads its return path says it; the one that waits for pages
     * after that does not. */
    bool is_read = ff_ownership_phase(d->cfg->state) == FF_PHASE_LOADING &&
                   !(ff_control_events(d->control) & FF_EV_SHUT);
    if (!is_read && ff_dest_owes_reason(d)) {
        g_autofree char *text = ff_dest_end_text(d);
        ff_control_dead(d->control, "%s", text);
    }
}

char *ff_dest_reason(FfDestination *d, const GError *error)
{
    /* Its monitor's end comes a moment before its own. */
    bool of_vmm = error->domain != FF_M_ERROR && error->domain != G_IO_ERROR;

    return of_vmm && ff_conn_vmm_ended(d->conn, WORDS_MS) ? ff_dest_end_text(d)
                                                          : g_strdup(error->message);
}

gpointer ff_dest_feeder(gpointer p)
{
    FfDestination *d = p;

    ff_priority_urgent();
    for (;;) {
        g_autoptr(GBytes) bytes = g_async_queue_pop(d->device_queue);
        ff_tsan_receive(bytes);
        size_t len;
        const void *data = g_bytes_get_data(bytes, &len);
        if (len == 0) {
            return NULL;
        }
        struct iovec iov = {(void *)data, len};
        int rc = ff_channel_write_all(d->inner, &iov, 1, false);
        if (rc < 0) {
            if (!(ff_control_events(d->control) & FF_EV_SHUT)) {
                say_not_loaded(d);
            }
            return NULL;
        }
        __atomic_fetch_sub(&d->device_queued, len, __ATOMIC_RELEASE);
    }
}

gpointer ff_dest_return_path(gpointer p)
{
    FfDestination *d = p;
    uint8_t payload[RP_MAX_PAYLOAD];

    ff_priority_urgent();
    for (;;) {
        uint16_t head[2];
        if (ff_channel_read_all(d->inner, head, sizeof(head), -1) < 0) {
            break;
        }
        uint16_t type = GUINT16_FROM_BE(head[0]), len = GUINT16_FROM_BE(head[1]);
        if (len > sizeof(payload) || ff_channel_read_all(d->inner, payload, len, -1) < 0) {
            break;
        }
        if (type == RP_SHUT && len == 4) {
            uint32_t value;
            memcpy(&value, payload, sizeof(value));
            if (value) {
                break;
            }
            ff_control_event(d->control, FF_EV_SHUT);
            return NULL;
        }
    }
    say_not_loaded(d);
    return NULL;
}
