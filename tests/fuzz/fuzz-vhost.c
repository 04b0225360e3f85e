/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What QEMU and a vhost-user back-end say, in turns, to the one between them. Each turn: a byte
 * that says who speaks and what is done beside it, a byte of length, and so many bytes of the
 * stream.
 */
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest/vhost/session.h"

typedef struct {
    FfVhostSession *session;
    unsigned to_backend, to_qemu;
} Between;

static void to_backend(FfVhostMessage *msg, void *opaque)
{
    ((Between *)opaque)->to_backend++;
    g_assert_cmpuint(msg->header.size, <=, FF_VHOST_MAX_PAYLOAD);
    ff_vhost_message_free(msg);
}

static void to_qemu(FfVhostMessage *msg, void *opaque)
{
    ((Between *)opaque)->to_qemu++;
    ff_vhost_message_free(msg);
}

static void again(void *opaque)
{
}

static void logs(void *opaque)
{
}

static bool can_wait(void *opaque)
{
    return true;
}

/* What is to be answered for is all there. */
static bool hand(void *opaque)
{
    const FfVhostSession *s = ((Between *)opaque)->session;
    FfVhostWaits waits;

    g_assert_true(ff_vhost_session_faults(s, &waits));
    g_assert_cmpuint(waits.n, >, 0);
    g_assert_cmpint(waits.uffd, >=, 0);
    return waits.regions[0].user != 1;
}

static void check(void *opaque)
{
}

static void all_there(void *opaque)
{
}

static const FfVhostSessionOps ops = {to_backend, to_qemu, again, logs,     can_wait,
                                      NULL,       hand,    check, all_there};

static bool take_from_qemu(FfVhostMessage *msg, void *opaque)
{
    return ff_vhost_session_from_qemu(((Between *)opaque)->session, msg);
}

static bool take_from_backend(FfVhostMessage *msg, void *opaque)
{
    return ff_vhost_session_from_backend(((Between *)opaque)->session, msg);
}

/* FALSE: the connection is of no use any more. */
static bool act(FfVhostSession *s, unsigned what, int memory)
{
    switch (what) {
    case 1:
        if (!ff_vhost_session_unloggable(s)) {
            ff_vhost_session_log_begin(s, memory, ff_vhost_session_log_bytes(s));
        }
        break;
    case 2:
        ff_vhost_session_log_end(s);
        break;
    case 3:
    case 4:
        ff_vhost_session_hold(s, what == 3);
        break;
    case 5:
        return ff_vhost_session_again(s);
    case 6:
        return ff_vhost_session_handed(s);
    case 7:
        return ff_vhost_session_checked(s);
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int memory = -1;
    Between b = {0};
    FfVhostReader qemu = {0}, backend = {0};
    int rc = 0;

    fuzz_quiet();
    if (memory < 0) {
        memory = memfd_create("memory", MFD_CLOEXEC);
        g_assert_cmpint(ftruncate(memory, 1 << 20), ==, 0);
    }
    b.session = ff_vhost_session_new(size & 1 ? FF_VHOST_NETWORK : FF_VHOST_DISK, &ops, &b);
    while (size >= 2 && rc == 0) {
        bool from_qemu = data[0] & 1;
        size_t len = MIN((size_t)data[1], size - 2);
        int fd = data[0] & 2 ? fcntl(memory, F_DUPFD_CLOEXEC, 0) : -1;

        if (!act(b.session, data[0] >> 2 & 7, memory)) {
            if (fd >= 0) {
                close(fd);
            }
            break;
        }
        rc = ff_vhost_read(from_qemu ? &qemu : &backend, data + 2, len, &fd, fd >= 0,
                           from_qemu ? take_from_qemu : take_from_backend, &b);
        data += 2 + len;
        size -= 2 + len;
    }
    ff_vhost_reader_clear(&qemu);
    ff_vhost_reader_clear(&backend);
    ff_vhost_session_free(b.session);
    return 0;
}
