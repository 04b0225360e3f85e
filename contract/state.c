/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The state memfd's making and mapping (the layout is in state.h).
 *
 * It is sealed against shrinking, so that no writer can turn the other's mapping into SIGBUS; it
 * may grow, since the received bitmaps follow the header. Any thread; no locks.
 * System calls: memfd_create, ftruncate, fcntl, mmap.
 */
#include "contract/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U /* Linux 6.3 */
#endif

/* Kernels before 6.3 refuse MFD_NOEXEC_SEAL with EINVAL. */
static int state_memfd(void)
{
    int fd = memfd_create("farfault-state", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);

    if (fd < 0 && errno == EINVAL) {
        fd = memfd_create("farfault-state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    }
    return fd < 0 ? -errno : fd;
}

static int state_init(int fd, FfPolicy policy)
{
    FfStateHeader *state;

    if (ftruncate(fd, sizeof(*state)) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) < 0) {
        return -errno;
    }
    state = mmap(NULL, sizeof(*state), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (state == MAP_FAILED) {
        return -errno;
    }
    state->magic = FF_STATE_MAGIC;
    state->version = FF_STATE_VERSION;
    state->policy = policy;
    munmap(state, sizeof(*state));
    return 0;
}

int ff_state_create(FfPolicy policy)
{
    int fd = state_memfd(), ret;

    if (fd < 0) {
        return fd;
    }
    ret = state_init(fd, policy);
    if (ret < 0) {
        close(fd);
        return ret;
    }
    return fd;
}

/* What would lead a reader out of the header. */
static bool is_sound(const FfStateHeader *s)
{
    return s->role <= FF_ROLE_DESTINATION && s->phase <= FF_PHASE_DEAD &&
           s->run_right <= FF_RUN_GIVEN && s->n_blocks <= FF_STATE_MAX_BLOCKS &&
           s->undo_len <= FF_STATE_UNDO_MAX && s->info_len <= FF_STATE_INFO_MAX &&
           s->n_uffds <= FF_STATE_OLD_UFFDS && s->n_kinds <= FF_KINDS &&
           memchr(s->run_state, 0, sizeof(s->run_state)) &&
           memchr(s->peer_uri, 0, sizeof(s->peer_uri));
}

FfStateHeader *ff_state_map(int fd, GError **error)
{
    FfStateHeader *state;
    struct stat st;

    if (fstat(fd, &st) < 0) {
        g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(errno), "state memfd: %s",
                    g_strerror(errno));
        return NULL;
    }
    if ((size_t)st.st_size < sizeof(*state)) {
        g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL,
                    "state memfd has %lld bytes, its header needs %zu: not made by this version",
                    (long long)st.st_size, sizeof(*state));
        return NULL;
    }
    state = mmap(NULL, sizeof(*state), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (state == MAP_FAILED) {
        g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(errno),
                    "cannot map the state memfd: %s", g_strerror(errno));
        return NULL;
    }
    if (state->magic != FF_STATE_MAGIC || state->version != FF_STATE_VERSION) {
        g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL,
                    "state memfd has magic %016llx version %u, expected %016llx version %u",
                    (unsigned long long)state->magic, state->version,
                    (unsigned long long)FF_STATE_MAGIC, FF_STATE_VERSION);
        munmap(state, sizeof(*state));
        return NULL;
    }
    if (!is_sound(state)) {
        g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL,
                    "state memfd is damaged: its header has values that nobody stores");
        munmap(state, sizeof(*state));
        return NULL;
    }
    return state;
}

bool ff_state_is_under_way(const FfStateHeader *state)
{
    return __atomic_load_n(&state->phase, __ATOMIC_ACQUIRE) != FF_PHASE_IDLE ||
           __atomic_load_n(&state->undo_len, __ATOMIC_ACQUIRE) != 0;
}

bool ff_state_is_guarded(const FfStateHeader *state)
{
    uint32_t phase = __atomic_load_n(&state->phase, __ATOMIC_ACQUIRE);

    return ff_state_is_marked(state, FF_MARK_UPGRADE) && state->role == FF_ROLE_DESTINATION &&
           (phase == FF_PHASE_SETUP || phase == FF_PHASE_LOADING || phase == FF_PHASE_LOADED ||
            phase == FF_PHASE_DEAD);
}

bool ff_state_is_front(const FfStateHeader *state)
{
    /* Settings of QEMU's that could not be put back make it none the less one: it has no guest. */
    return ff_state_is_marked(state, FF_MARK_FRONT) && ff_state_is_marked(state, FF_MARK_MOVED) &&
           __atomic_load_n(&state->phase, __ATOMIC_ACQUIRE) == FF_PHASE_IDLE;
}

bool ff_state_is_given(const FfStateHeader *state)
{
    /* While it is under way an engine answers. */
    return state->role == FF_ROLE_SOURCE &&
           __atomic_load_n(&state->phase, __ATOMIC_ACQUIRE) == FF_PHASE_IDLE &&
           __atomic_load_n(&state->run_right, __ATOMIC_ACQUIRE) == FF_RUN_GIVEN &&
           !ff_state_is_marked(state, FF_MARK_STANDS_THERE);
}

bool ff_state_has_plugged(const FfStateHeader *state)
{
    for (unsigned i = 0; i < FF_STATE_PLUGGED; i++) {
        /* The relay's: it is there before QEMU knows of a device that has it. */
        if (__atomic_load_n(&state->plugged[i].use, __ATOMIC_ACQUIRE) == FF_PLUGGED_IN) {
            return true;
        }
    }
    return false;
}
