/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The state memfd: made with the policy, mapped twice it is one memory, anything else refused. */
#include "contract/state.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

static void test_shared(void)
{
    g_autoptr(GError) error = NULL;
    int fd = ff_state_create(FF_POLICY_NEVER);
    FfStateHeader *a, *b;

    g_assert_cmpint(fd, >=, 0);
    a = ff_state_map(fd, &error);
    g_assert_no_error(error);
    b = ff_state_map(fd, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(a->policy, ==, FF_POLICY_NEVER);
    g_assert_cmpuint(a->phase, ==, FF_PHASE_IDLE);
    g_assert_cmpuint(a->undo_len, ==, 0);
    __atomic_store_n(&a->run_right, FF_RUN_GIVEN, __ATOMIC_RELEASE);
    g_assert_cmpuint(__atomic_load_n(&b->run_right, __ATOMIC_ACQUIRE), ==, FF_RUN_GIVEN);
    munmap(a, sizeof(*a));
    munmap(b, sizeof(*b));
    close(fd);
}

static void test_seals(void)
{
    int fd = ff_state_create(FF_POLICY_AUTO);

    g_assert_cmpint(fcntl(fd, F_GETFD) & FD_CLOEXEC, ==, FD_CLOEXEC);
    g_assert_cmpint(ftruncate(fd, sizeof(FfStateHeader) - 1), ==, -1);
    g_assert_cmpint(errno, ==, EPERM);
    g_assert_cmpint(ftruncate(fd, sizeof(FfStateHeader) + 4096), ==, 0); /* bitmaps */
    close(fd);
}

/* Each byte of the header's identity counts. */
static void test_refused(void)
{
    static const struct {
        off_t size;
        size_t wrong_at;
    } cases[] = {
        {0, SIZE_MAX},
        {sizeof(FfStateHeader) - 1, SIZE_MAX},
        {sizeof(FfStateHeader), offsetof(FfStateHeader, magic)},
        {sizeof(FfStateHeader), offsetof(FfStateHeader, version)},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        FfStateHeader header = {.magic = FF_STATE_MAGIC, .version = FF_STATE_VERSION};
        int fd = memfd_create("not-a-state", MFD_CLOEXEC);

        if (cases[i].wrong_at != SIZE_MAX) {
            ((char *)&header)[cases[i].wrong_at] ^= 1;
        }
        g_assert_cmpint(pwrite(fd, &header, 64, 0), ==, 64);
        g_assert_cmpint(ftruncate(fd, cases[i].size), ==, 0);
        g_assert_null(ff_state_map(fd, &error));
        g_assert_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL);
        close(fd);
    }
}

static void test_bad_fd(void)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(ff_state_map(-1, &error));
    g_assert_error(error, G_FILE_ERROR, G_FILE_ERROR_BADF);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/state/shared", test_shared);
    g_test_add_func("/state/seals", test_seals);
    g_test_add_func("/state/refused", test_refused);
    g_test_add_func("/state/bad-fd", test_bad_fd);
    return g_test_run();
}
