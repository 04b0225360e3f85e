/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a new engine at the source makes of what the dead one has stored: phase and right decide
 * which word QEMU gets and whether the guest runs here.
 */
#include <errno.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "net/address.h"
#include "tests/lib/side.h"
#include "uffd/uffd.h"

#define RAM_BYTES (1ull << 20)

typedef struct {
    const char *name;
    FfPhase phase;
    FfRunRight right;
    FfStatus status; /* that comes of it */
    int shut;        /* QEMU is given; -1: nothing */
    bool runs;       /* here */
    bool paused;     /* the client has said stop */
} Row;

static const Row rows[] = {
    {"setup", FF_PHASE_SETUP, FF_RUN_MINE, FF_STATUS_FAILED, -1, true},
    {"stopped", FF_PHASE_STOPPED, FF_RUN_MINE, FF_STATUS_FAILED, 1, true},
    {"stopped-by-client", FF_PHASE_STOPPED, FF_RUN_MINE, FF_STATUS_FAILED, 1, false, true},
    /* between the two stores of the commit point */
    {"stopped-given", FF_PHASE_STOPPED, FF_RUN_GIVEN, FF_STATUS_POSTCOPY_PAUSED, -1, false},
    {"given", FF_PHASE_GRANTED, FF_RUN_GIVEN, FF_STATUS_POSTCOPY_PAUSED, -1, false},
    {"done", FF_PHASE_DONE, FF_RUN_GIVEN, FF_STATUS_COMPLETED, 0, false},
};

/* As an engine that died in ROW's phase has left it. */
static void store(Side *s, const Row *row)
{
    FfStateHeader *h = s->state;
    const FfRamBlock *b = s->blocks->pdata[0];

    h->role = FF_ROLE_SOURCE;
    h->phase = row->phase;
    h->run_right = row->right;
    h->epoch = 1;
    strcpy(h->run_state, "running");
    h->n_blocks = 1;
    strcpy(h->block[0].id, b->id);
    h->block[0].size = b->size;
    h->block[0].page_size = b->page_size;
}

static void test_source(gconstpointer data)
{
    const Row *row = data;
    uint64_t size = RAM_BYTES;
    int inner = -1;

    Side *s = side_new(FF_ROLE_SOURCE, &size, 1);
    s->lenient = true;
    store(s, row);
    if (row->phase != FF_PHASE_SETUP) {
        g_atomic_int_set(&s->runs, 0);
        char device[SIDE_LENIENT_BYTES]; /* the dead engine has read it */
        g_assert_true(s->vmm.state.save(&s->vmm.state, &inner, NULL));
        g_assert_cmpint(recv(inner, device, sizeof(device), MSG_WAITALL), ==, sizeof(device));
    }
    s->config.start_paused = row->paused;
    side_adopt(s, inner);
    side_run_until(s->done || s->status == FF_STATUS_POSTCOPY_PAUSED);
    g_assert_cmpint(s->status, ==, row->status);
    g_assert_cmpint(g_atomic_int_get(&s->runs), ==, row->runs);
    g_assert_cmpint(g_atomic_int_get(&s->saved_status), ==, row->shut);
    g_assert_cmpuint(s->state->epoch, ==, 2);
    if (row->status != FF_STATUS_POSTCOPY_PAUSED) {
        g_assert_cmpuint(s->state->phase, ==, FF_PHASE_IDLE);
        g_assert_true(g_atomic_int_get(&s->undone));
    } else {
        g_assert_cmpuint(s->state->run_right, ==, FF_RUN_GIVEN);
        g_assert_false(g_atomic_int_get(&s->undone));
    }
    g_autoptr(FfMigrationInfo) info = ff_migration_info(s->m);
    g_assert_true((info->error_desc == NULL) == (row->status == FF_STATUS_COMPLETED));
    g_assert_true((info->split != NULL) == (row->status == FF_STATUS_POSTCOPY_PAUSED));
    if (info->split) { /* what the dead engine had sent nobody knows here */
        g_assert_false(info->split->pages_known);
    }
    side_free(s);
}

/* The dead engine's end of the stream is nowhere but at QEMU, which sees no end of it. */
static unsigned forgotten;

static void forget_kept(FfVmmState *state)
{
    forgotten++;
}

static void test_kept(void)
{
    uint64_t size = RAM_BYTES;

    Side *s = side_new(FF_ROLE_SOURCE, &size, 1);
    s->lenient = true;
    s->vmm.state.forget_kept = forget_kept;
    store(s, &rows[1]);
    g_atomic_int_set(&s->runs, 0);
    side_adopt(s, -1);
    side_run_until(s->done);
    g_assert_cmpint(s->status, ==, FF_STATUS_FAILED);
    g_assert_true(g_atomic_int_get(&s->runs));
    g_assert_cmpuint(forgotten, ==, 1);
    side_free(s);
}

/* The engine that was replaced lives, and gives the guest away while it is being taken back. */
static bool give_and_wait(FfVmmState *state, int status, GError **error)
{
    side_of(state)->state->run_right = FF_RUN_GIVEN;
    return true;
}

static void test_given_meanwhile(void)
{
    uint64_t size = RAM_BYTES;
    int inner[2];

    Side *s = side_new(FF_ROLE_SOURCE, &size, 1);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, inner), ==, 0);
    s->lenient = true;
    s->vmm.state.wait_saved = give_and_wait;
    store(s, &rows[1]);
    g_atomic_int_set(&s->runs, 0);
    side_adopt(s, inner[0]);
    side_run_until(s->done || s->status == FF_STATUS_POSTCOPY_PAUSED);
    g_assert_cmpint(s->status, ==, FF_STATUS_POSTCOPY_PAUSED);
    g_assert_false(g_atomic_int_get(&s->runs));
    g_assert_cmpuint(s->state->run_right, ==, FF_RUN_GIVEN);
    side_free(s);
    close(inner[1]);
}

#ifdef FF_FAULTS
/* ---- what a new engine needs is not there at first ------------------------------------------- */

static const char *fails; /* NULL: nothing more */

static int fail_once(const char *place, const char *name)
{
    return fails && !strcmp(name, fails) &&
                   g_atomic_pointer_compare_and_exchange(&fails, fails, NULL)
               ? ENOMEM
               : 0;
}

/* Nobody orders anything, and it comes to its end by itself. */
static void test_source_again(void)
{
    const Row *done = &rows[G_N_ELEMENTS(rows) - 1];
    uint64_t size = RAM_BYTES;
    int inner = -1;
    char device[SIDE_LENIENT_BYTES];

    Side *s = side_new(FF_ROLE_SOURCE, &size, 1);
    s->lenient = true;
    store(s, done);
    g_atomic_int_set(&s->runs, 0);
    g_assert_true(s->vmm.state.save(&s->vmm.state, &inner, NULL));
    g_assert_cmpint(recv(inner, device, sizeof(device), MSG_WAITALL), ==, sizeof(device));
    fails = "map-ram";
    ff_fault_hook(fail_once);
    side_adopt(s, inner);
    side_run_until(s->status == FF_STATUS_POSTCOPY_PAUSED);
    g_autoptr(FfMigrationInfo) info = ff_migration_info(s->m);
    g_assert_nonnull(strstr(info->error_desc, "cannot be replaced yet"));
    side_run_until(s->done);
    ff_fault_hook(NULL);
    g_assert_cmpint(s->status, ==, FF_STATUS_COMPLETED);
    g_assert_cmpint(g_atomic_int_get(&s->saved_status), ==, 0);
    g_assert_false(g_atomic_int_get(&s->runs));
    side_free(s);
}

static int first_called; /* the listener to which it came first; -1: none yet */

static gboolean is_called(gint listener, GIOCondition condition, gpointer opaque)
{
    first_called = first_called < 0 ? listener : first_called;
    return G_SOURCE_REMOVE;
}

static int listen_anywhere(char **uri)
{
    g_autoptr(FfAddress) any = ff_address_parse("tcp:127.0.0.1:0", NULL);
    int fd = ff_address_listen(any, NULL);

    g_assert_cmpint(fd, >=, 0);
    *uri = ff_address_of_listener(fd);
    g_unix_fd_add(fd, G_IO_IN, is_called, NULL);
    return fd;
}

/* It would recover by itself where the destination was, but its client names another place. */
static void test_source_ordered(void)
{
    uint64_t size = RAM_BYTES;
    int inner = -1;
    char device[SIDE_LENIENT_BYTES];
    g_autofree char *old = NULL, *named = NULL;
    g_autoptr(GError) error = NULL;
    int old_fd = listen_anywhere(&old), named_fd = listen_anywhere(&named);

    Side *s = side_new(FF_ROLE_SOURCE, &size, 1);
    s->lenient = true;
    store(s, &rows[4]);
    g_strlcpy(s->state->peer_uri, old, sizeof(s->state->peer_uri));
    s->config.auto_recover_s = 60;
    g_atomic_int_set(&s->runs, 0);
    g_assert_true(s->vmm.state.save(&s->vmm.state, &inner, NULL));
    g_assert_cmpint(recv(inner, device, sizeof(device), MSG_WAITALL), ==, sizeof(device));
    first_called = -1;
    fails = "map-ram";
    ff_fault_hook(fail_once);
    side_adopt(s, inner);
    side_run_until(s->status == FF_STATUS_POSTCOPY_PAUSED);
    g_assert_true(ff_migration_resume(s->m, named, -1, false, &error));
    g_assert_no_error(error);
    side_run_until(first_called >= 0);
    ff_fault_hook(NULL);
    g_assert_cmpint(first_called, ==, named_fd);
    side_free(s);
    close(old_fd);
    close(named_fd);
}

/* The guest was granted, and is started late: what clients say meanwhile holds. */
static void test_destination_again(gconstpointer stops)
{
    g_autoptr(GError) error = NULL;
    uint64_t size = RAM_BYTES;
    bool held;

    if (!side_possible()) {
        return;
    }
    Side *d = side_new(FF_ROLE_DESTINATION, &size, 1);
    store(d, &rows[4]);
    d->state->role = FF_ROLE_DESTINATION;
    d->state->run_right = FF_RUN_MINE;
    d->state->block[0].bitmap_offset = sizeof(FfStateHeader);
    g_assert_cmpint(ftruncate(d->state_fd, sizeof(FfStateHeader) + RAM_BYTES), ==, 0);
    /* The engine that died has told the kernel. */
    g_assert_cmpint(ff_uffd_init(d->uffds[FF_KIND_MISSING],
                                 UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_THREAD_ID, NULL),
                    ==, 0);
    fails = "uffd-register";
    ff_fault_hook(fail_once);
    side_adopt(d, -1);
    side_run_until(d->moved == 1);
    g_assert_cmpint(d->status, ==, FF_STATUS_POSTCOPY_PAUSED);
    g_assert_false(g_atomic_int_get(&d->runs));
    if (stops) {
        g_assert_cmpint(ff_migration_client_stop(d->m, &held, &error), ==, FF_STOP_IS_VMMS);
        g_assert_false(held);
    }
    side_run_until(d->moved == 2);
    ff_fault_hook(NULL);
    g_assert_cmpint(g_atomic_int_get(&d->runs), ==, !stops);
    g_assert_true(d->state->resumed);
    side_free(d);
}
#endif

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strdup_printf("/adopt/source/%s", rows[i].name);
        g_test_add_data_func(path, &rows[i], test_source);
    }
    g_test_add_func("/adopt/kept", test_kept);
    g_test_add_func("/adopt/given-meanwhile", test_given_meanwhile);
#ifdef FF_FAULTS
    g_test_add_func("/adopt/again/source", test_source_again);
    g_test_add_func("/adopt/again/ordered", test_source_ordered);
    g_test_add_data_func("/adopt/again/destination/runs", NULL, test_destination_again);
    g_test_add_data_func("/adopt/again/destination/stopped", "stops", test_destination_again);
#endif
    return g_test_run();
}
