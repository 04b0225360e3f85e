/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See hook.h. One thread. */
#include "tests/lib/hook.h"

#include <fcntl.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "contract/state.h"
#include "guest/launch/attach.h"
#include "guest/launch/fdstore.h"
#include "guest/launch/launch-relay.h"
#include "uffd/regions.h"

static int take(Vm *vm, int number)
{
    int pidfd = pidfd_open(vm_pid(vm), 0), fd = pidfd_getfd(pidfd, number, 0);

    g_assert_cmpint(fd, >=, 0);
    close(pidfd);
    return fd;
}

/* The first of what lies in the parcel that QEMU has as NUMBER. */
static int take_first(Vm *vm, int number)
{
    int fds[FF_PARCEL_MAX], parcel = take(vm, number), n = ff_fdstore_look(parcel, fds);

    g_assert_cmpint(n, >, 0);
    while (n > 1) {
        close(fds[--n]);
    }
    close(parcel);
    return fds[0];
}

static JsonNode *plan_of(Vm *vm)
{
    g_autoptr(GError) error = NULL;
    JsonNode *plan = ff_attach_plan(vm_pid(vm), NULL, &error);

    g_assert_no_error(error);
    return plan;
}

FfDiscards *hook_of(Vm *vm)
{
    g_autoptr(JsonNode) plan = plan_of(vm);
    int kept = json_object_get_int_member(json_node_get_object(plan), FF_PLAN_KEPT);
    int state_fd = take_first(vm, kept), number = 0;
    FfDiscards *discards;

    g_assert_cmpint(
        pread(state_fd, &number, sizeof(uint16_t), offsetof(FfStateHeader, hook_in_qemu)), ==,
        sizeof(uint16_t));
    close(state_fd);
    g_assert_cmpint(number, >, 0);
    int fd = take_first(vm, number);
    g_assert_cmpint(ff_discards_map(fd, &discards), ==, 0);
    close(fd);
    return discards;
}

static int find_memfd(Vm *vm, const char *name)
{
    g_autofree char *wanted = g_strdup_printf("/memfd:%s (deleted)", name);
    g_autoptr(GArray) fds = ff_attach_fds(vm_pid(vm), NULL);

    for (guint i = 0; fds && i < fds->len; i++) {
        int fd = g_array_index(fds, int, i);
        g_autofree char *link = ff_attach_link(vm_pid(vm), fd);

        if (!g_strcmp0(link, wanted)) {
            return fd;
        }
    }
    g_error("QEMU has no memfd %s", name);
}

int hook_ram(Vm *vm, const char *name)
{
    g_autoptr(JsonNode) plan = plan_of(vm);
    JsonArray *ram = json_object_get_array_member(json_node_get_object(plan), "ram");

    for (guint i = 0; i < json_array_get_length(ram); i++) {
        JsonObject *one = json_array_get_object_element(ram, i);

        if (!name || !strcmp(json_object_get_string_member(one, "id"), name)) {
            return take(vm, (int)json_object_get_int_member(one, "fd"));
        }
    }
    return take(vm, find_memfd(vm, name));
}

void hook_arm(Vm *vm, FfDiscards *discards, int ram)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/maps", (int)vm_pid(vm));
    g_autoptr(GError) error = NULL;
    struct stat st;
    unsigned n;

    g_assert_cmpint(fstat(ram, &st), ==, 0);
    uint64_t size = st.st_size;
    int maps = open(path, O_RDONLY | O_CLOEXEC);
    g_autoptr(FfRegions) regions = ff_regions_new(maps, &ram, &size, 1, &error);
    g_assert_no_error(error);
    close(maps);
    const FfRegion *r = ff_regions_all(regions, &n);
    g_assert_cmpint(ff_discards_add_file(discards, ram), ==, 0);
    for (unsigned i = 0; i < n; i++) {
        g_assert_cmpint(ff_discards_add_range(discards, r[i].addr, r[i].len), ==, 0);
    }
    ff_discards_arm(discards);
}

uint64_t hook_allocated(int fd)
{
    struct stat st;

    g_assert_cmpint(fstat(fd, &st), ==, 0);
    return (uint64_t)st.st_blocks * 512;
}
