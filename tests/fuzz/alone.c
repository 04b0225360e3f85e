/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See alone.h. What every execution needs and no input can change (guest RAM, the state memfd, the
 * map of memory) is made once; guest RAM is emptied before each. One thread. */
#include "tests/fuzz/alone.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "contract/state.h"

#define BYTES (ALONE_PAGES * 4096ul)

static FfRamBlock ram = {.id = (char *)"ram0", .size = BYTES, .page_size = 4096, .memfd = -1};
static GPtrArray *blocks;
static int state_fd, maps_fd, uffds[FF_KINDS] = {-1, -1, -1}, peer = -1, silent = -1;
static FfStateHeader *state;

/* ---- in place of threads --------------------------------------------------------------------- */

static FfMigration *current;
static GThreadFunc reader; /* a main reader that was started, NULL: none */
static gpointer reads;     /* for that */

/* No thread is started; a thread that joins it has waited long enough. */
GThread *g_thread_new(const char *name, GThreadFunc work, gpointer data)
{
    if (g_str_equal(name, "ff-main")) {
        reader = work;
        reads = data;
    }
    return (GThread *)&ram;
}

gpointer g_thread_join(GThread *thread)
{
    g_assert_true(thread == (GThread *)&ram);
    return NULL;
}

bool alone_read(FfMigration *m)
{
    GThreadFunc work = reader;

    reader = NULL;
    if (work) {
        work(reads);
    }
    return work;
}

/* Only another thread ends a wait: the main reader, which then reads to the end of what the peer
 * says; else nobody but the end of the migration, so that comes. */
static void instead_of_waiting(pthread_mutex_t *lock)
{
    g_assert_true(lock == &current->control->lock);
    pthread_mutex_unlock(lock);
    if (!alone_read(current)) {
        ff_control_event(current->control, FF_EV_QUIT);
    }
    pthread_mutex_lock(lock);
}

int pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock)
{
    instead_of_waiting(lock);
    return 0;
}

int pthread_cond_clockwait(pthread_cond_t *cond, pthread_mutex_t *lock, clockid_t clock,
                           const struct timespec *end)
{
    instead_of_waiting(lock);
    return 0;
}

static int knocking = -1;

/* One connection comes, then nobody (so that what it said is looked at), and then the port is gone.
 */
int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
    static unsigned nobody;
    int rc = knocking;

    knocking = -1;
    nobody = rc < 0 ? nobody + 1 : 0;
    errno = nobody > 1 ? EBADF : EAGAIN;
    return rc;
}

/* ---- the migration --------------------------------------------------------------------------- */

static void make_ram(void)
{
    struct stat st;

    ram.memfd = memfd_create("ram0", MFD_CLOEXEC);
    maps_fd = memfd_create("maps", MFD_CLOEXEC);
    g_assert_true(ram.memfd >= 0 && maps_fd >= 0);
    g_assert_true(ftruncate(ram.memfd, BYTES) == 0 && fstat(ram.memfd, &st) == 0);
    char *map = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, ram.memfd, 0);
    g_assert_true(map != MAP_FAILED);
    blocks = g_ptr_array_new();
    g_ptr_array_add(blocks, &ram);
    g_assert_cmpint(dprintf(maps_fd, "%lx-%lx rw-s 00000000 %02x:%02x %lu /memfd:ram0 (deleted)\n",
                            (unsigned long)map, (unsigned long)(map + BYTES), major(st.st_dev),
                            minor(st.st_dev), (unsigned long)st.st_ino),
                    >, 0);
}

static void make_once(void)
{
    if (ram.memfd >= 0) {
        return;
    }
    make_ram();
    state_fd = ff_state_create(FF_POLICY_AUTO);
    state = ff_state_map(state_fd, NULL);
    g_assert_nonnull(state);
}

static void on_status(FfStatus status, void *opaque)
{
}

static void on_pass(uint64_t pass, void *opaque)
{
}

static void on_done(void *opaque)
{
}

static FfGuestFit vmm_check(FfVmmMemory *memory, FfRole role, GPtrArray **all, uint8_t uuid[16],
                            GError **error)
{
    *all = blocks;
    return FF_GUEST_FITS;
}

static bool runs;

static bool vmm_resume(FfVmmRun *run, const char *run_state, bool start, bool *running,
                       GError **error)
{
    *running = runs = start && g_str_equal(run_state, "running");
    return true;
}

static bool vmm_halt(FfVmmRun *run, GError **error)
{
    runs = false;
    return true;
}

static bool vmm_wait_saved(FfVmmState *s, int status, GError **error)
{
    return true;
}

static bool vmm_undo(FfVmmState *s, GError **error)
{
    return true;
}

static void vmm_announce(FfVmmRun *run)
{
}

static void vmm_abandon(FfVmmState *s)
{
}

static const FfVmm vmm = {
    .run = {.resume = vmm_resume, .halt = vmm_halt, .announce = vmm_announce},
    .memory = {.check = vmm_check},
    .state = {.wait_saved = vmm_wait_saved, .undo = vmm_undo, .abandon = vmm_abandon},
};

bool alone_runs(void)
{
    return runs;
}

int alone_talk(const uint8_t *data, size_t size)
{
    int sv[2];

    alone_hang_up();
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    peer = sv[1];
    /* All of it at once; the caller has seen to it that it is not more than a socket takes. */
    g_assert_true(!size || send(peer, data, size, MSG_DONTWAIT) == (ssize_t)size);
    shutdown(peer, SHUT_WR);
    return sv[0];
}

void alone_hang_up(void)
{
    if (peer >= 0) {
        close(peer);
        peer = -1;
    }
}

FfMigration *alone_new(FfRole role, const uint8_t *data, size_t size)
{
    g_autoptr(GError) error = NULL;
    FfMigrationOps ops = {.status = on_status, .pass = on_pass, .done = on_done};

    fuzz_quiet();
    make_once();
    g_assert_cmpint(fallocate(ram.memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, BYTES), ==,
                    0);
    state->phase = FF_PHASE_IDLE;
    state->run_right = FF_RUN_NONE;
    FfMigrationConfig c = {.role = role,
                           .fd = alone_talk(data, size),
                           .listen_fd = -1,
                           .device_fd = -1,
                           .state = state,
                           .state_fd = state_fd,
                           .uffds = uffds,
                           .pagemap_fd = -1,
                           .mem_fd = -1,
                           .maps_fd = maps_fd,
                           .sharers_fd = -1,
                           .pidfd = -1,
                           .vmm = (FfVmm *)&vmm,
                           .client_switches = true,
                           .untracked = FF_UNTRACKED_WAIT};
    reader = NULL;
    runs = false;
    FfMigration *m = current = ff_migration_start(&c, &ops, &error);
    g_assert_no_error(error);
    return m;
}

void alone_set_blocks(FfMigration *m)
{
    bool ok = ff_ram_set_blocks(&m->ram, m->control, blocks, NULL) &&
              (m->cfg.role == FF_ROLE_SOURCE ? ff_ram_map(&m->ram, NULL)
                                             : ff_received_map(&m->ram, m->control, m->cfg.state,
                                                               m->cfg.state_fd, true, NULL));

    g_assert_true(ok);
}

bool alone_says(const uint8_t *data, size_t size, FfFrameType type, bool zero)
{
    for (; size >= sizeof(FfFrame); data++, size--) {
        const char *why;
        FfFrame f;

        memcpy(&f, data, sizeof(f));
        if (ff_frame_decode(&f, &why) == 0 && f.type == type && (!zero || f.page == 0)) {
            return true;
        }
    }
    return false;
}

int alone_fd(FfMigration *m)
{
    int fd = m->cfg.fd;

    m->cfg.fd = -1;
    return fd;
}

void alone_knock(FfMigration *m)
{
    knocking = alone_fd(m);
    m->dest.listen_fd = eventfd(1, EFD_CLOEXEC); /* readable, as a port at which somebody is */
    ff_dest_acceptor(&m->dest);
}

FfChannel *alone_silent(void)
{
    int sv[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    silent = sv[1];
    return ff_channel_new(sv[0], FF_CHANNEL_MAIN);
}

void alone_pause(FfMigration *m, bool given)
{
    m->control->granted = given;
    if (m->side->receives) {
        m->dest.final = 1;
    } else {
        m->source.guest_stopped = 1;
    }
    ff_control_set_status(m->control, given ? FF_STATUS_POSTCOPY_ACTIVE : FF_STATUS_ACTIVE);
    ff_control_set_status(m->control, FF_STATUS_POSTCOPY_PAUSED);
    m->control->events |= FF_EV_DEAD;
}

void alone_free(FfMigration *m)
{
    if (m->side->receives && m->dest.uffd >= 0) {
        close(m->dest.uffd);
    }
    ff_migration_free(m);
    alone_hang_up();
    if (silent >= 0) {
        close(silent);
        silent = -1;
    }
    while (g_main_context_iteration(NULL, FALSE)) {
    }
}
