/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What becomes of object-add's arguments. A table: text in, text (or the reason why not) out.
 */
#include <string.h>

#include "guest/qemu/hotplug.h"

static char fs_kind(const char *path, uint64_t *page_size, void *opaque)
{
    if (g_str_has_prefix(path, "/hugepages/")) {
        *page_size = 2 << 20;
        return 'h';
    }
    return g_str_has_prefix(path, "/shm/") ? 't' : g_str_has_prefix(path, "/data/") ? 'r' : 0;
}

static const FfArgvSystem sys = {.fs_kind = fs_kind, .default_hugepage_size = 2 << 20};

typedef struct {
    const char *name, *in;
    bool incoming;
    const char *out; /* NULL: left to QEMU */
    const char *why; /* a part of the reason; NULL: there is none */
    uint64_t size, page_size;
} Case;

static const Case cases[] = {
    {"other-object", "{\"qom-type\":\"iothread\",\"id\":\"io1\"}", false, NULL, NULL, 0, 0},
    {"garbage", "{", false, NULL, NULL, 0, 0},
    {"ram", "{\"qom-type\":\"memory-backend-ram\",\"id\":\"m\",\"size\":4096}", false,
     "{\"qom-type\":\"memory-backend-file\",\"id\":\"m\",\"size\":4096,\"mem-path\":"
     "\"/proc/self/fd/@FF_RAM0@\",\"share\":true,\"x-use-canonical-path-for-ramblock-id\":false}",
     NULL, 4096, 4096},
    {"hmp-memfd",
     "memory-backend-memfd,id=m,size=4M,hugetlb=on,hugetlbsize=2M,policy=bind,prealloc=on", false,
     "memory-backend-file,id=m,size=4M,policy=bind,prealloc=on,mem-path=/proc/self/fd/@FF_RAM0@,"
     "share=on",
     NULL, 4 << 20, 2 << 20},
    {"incoming", "memory-backend-memfd,id=m,size=4M,prealloc=on", true,
     "memory-backend-file,id=m,size=4M,mem-path=/proc/self/fd/@FF_RAM0@,share=on", NULL, 4 << 20,
     4096},
    {"hugepages",
     "{\"qom-type\":\"memory-backend-file\",\"id\":\"m\",\"size\":4194304,\"mem-path\":"
     "\"/hugepages/libvirt\"}",
     false,
     "{\"qom-type\":\"memory-backend-file\",\"id\":\"m\",\"size\":4194304,\"mem-path\":"
     "\"/proc/self/fd/@FF_RAM0@\",\"share\":true}",
     NULL, 4 << 20, 2 << 20},
    {"regular-file", "memory-backend-file,id=m,size=4M,mem-path=/data/x,share=on", false, NULL,
     "keeps guest RAM in the file /data/x of a disk, which", 0, 0},
    {"regular-file/tmpfs", "memory-backend-file,id=m,size=4M,mem-path=/shm/x,share=on,offset=4096",
     false, NULL, "keeps guest RAM in the file /shm/x, which", 0, 0},
    {"pmem", "memory-backend-file,id=m,size=4M,mem-path=/shm/,pmem=on", false, NULL, "has pmem=on",
     0, 0},
    {"no-size", "memory-backend-ram,id=m", false, NULL, "has no size", 0, 0},
};

static void test_case(const void *data)
{
    const Case *c = data;
    FfPlanRam ram = {0};
    g_autofree char *why = NULL;
    g_autofree char *out = ff_object_add_rewrite(c->in, &sys, c->incoming, &ram, &why);

    g_assert_cmpstr(out, ==, c->out);
    if (c->why) {
        g_assert_nonnull(why);
        g_assert_nonnull(strstr(why, c->why));
    } else {
        g_assert_null(why);
    }
    if (c->out) {
        g_assert_nonnull(strstr(out, FF_OBJECT_ADD_PATH));
        g_assert_cmpstr(ram.id, ==, "m");
        g_assert_cmpuint(ram.size, ==, c->size);
        g_assert_cmpuint(ram.page_size, ==, c->page_size);
    }
    g_free(ram.id);
}

/* Left to nobody. */
static void test_monitor(void)
{
    static const struct {
        const char *text;
        bool is;
    } rows[] = {
        {"{\"qom-type\":\"monitor-qmp\",\"id\":\"m\",\"chardev\":\"c\"}", true},
        {"monitor-qmp,id=m,chardev=c", true},
        {"id=m,qom-type=monitor-qmp", true},
        {"{\"qom-type\":\"monitor-hmp\",\"id\":\"m\",\"chardev\":\"c\"}", false},
        {"secret,id=monitor-qmp", false},
        {"{", false},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_assert_cmpint(ff_object_add_is_monitor(rows[i].text), ==, rows[i].is);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strdup_printf("/object-add/%s", cases[i].name);
        g_test_add_data_func(path, &cases[i], test_case);
    }
    g_test_add_func("/object-add/monitor", test_monitor);
    return g_test_run();
}
