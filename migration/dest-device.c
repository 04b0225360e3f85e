/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Device state into the destination QEMU, and what QEMU answers.
 *
 * The reader that got device state gives QEMU what its socket takes at once: the guest stands
 * still, and each thread that has to wake up first may wait for a processor. The rest is the
 * feeder's, a thread of its own because QEMU stops reading while it waits for a page, and that page
 * may have to come through that very reader. The return path carries one word that matters: SHUT,
 * loaded (0) or not.
 */
#include "migration/dest-device.h"

#include <errno.h>
#include <string.h>

#include "net/priority.h"
#include "net/sync.h"

/* QEMU's return path (migration/migration.h): be16 type, be16 length, payload. */
#define RP_SHUT 1
#define RP_MAX_PAYLOAD 512

void ff_dest_feed(FfDestination *d, const uint8_t *data, size_t len)
{
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
                ff_control_dead(d->control,
                                "QEMU did not take the device state: %s; why is in the "
                                "destination QEMU's stderr",
                                g_strerror(-rc));
            }
            return NULL;
        }
        __atomic_fetch_sub(&d->device_queued, len, __ATOMIC_RELEASE);
    }
}

static void say_not_loaded(FfDestination *d)
{
    ff_control_dead(d->control,
                    "QEMU could not load the device state%s%s%s: which device, and why, is in the "
                    "destination QEMU's stderr (libvirt: /var/log/libvirt/qemu/NAME.log)",
                    d->suspects ? " (the guests differ: " : "", d->suspects ? d->suspects : "",
                    d->suspects ? ")" : "");
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
