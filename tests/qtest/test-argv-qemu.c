/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The rewriting of command lines against the real QEMU: with the old and with the new command
 * line, the guest must have the same RAM blocks (name, page size, length), properties of memory
 * backends, NUMA nodes, memory devices, and character devices; all RAM of the new one must be
 * shared, and where it is preallocated, its pages must be in the memfds that the test made.
 *
 * Both QEMUs get the same private monitor by a configuration file, which (unlike -mon) leaves
 * QEMU's default monitors alone, so the two differ by what the rewriter did and nothing else.
 */
#include "guest/launch/argv-machine.h"
#include "guest/launch/argv.h"
#include "tests/lib/hugepages.h"
#include "tests/lib/qmp.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_FDS 16
/* A backend that becomes a memfd. */
#define RAM(ID) "-object memory-backend-ram,size=64M,id=" ID " "
#define MEMFD(ID) "-object memory-backend-memfd,size=64M,id=" ID " "
#define ND "-nodefaults "

typedef struct {
    const char *name, *args; /* @DIR@ is a directory of the test, @FD@ a listening socket */
} Case;

static const Case cases[] = {
    {"none", ND ""},
    {"plain", ND "-m 64"},
    {"odd", ND "-m 100001K"},
    {"zero", ND "-m 0"},
    {"q35-maxmem", ND "-M q35 -m 64,slots=2,maxmem=1G"},
    {"memory-size", ND "-M memory.size=64M"},
    {"memory-size-and-m", ND "-M memory.size=64M -m 32"},
    {"isapc", ND "-M isapc -m 16"},
    {"microvm", ND "-M microvm -m 64"},
    {"old-pc", ND "-M pc-i440fx-2.0 -m 64"},
    {"old-q35", ND "-M pc-q35-3.1 -m 64"},
    {"old-ram", ND "-M pc-i440fx-3.1,memory-backend=pc.ram -m 64 " RAM("pc.ram")},
    {"old-memfd", ND "-M pc-i440fx-3.1,memory-backend=pc.ram -m 64 " MEMFD("pc.ram")},
    {"old-file", ND "-M pc-q35-3.1,memory-backend=pc.ram -m 64 -object memory-backend-file,"
                    "id=pc.ram,size=64M,mem-path=/dev/shm"},
    {"old-dimm", ND "-M pc-i440fx-3.1 -m 64,slots=2,maxmem=1G " RAM("d0")
                     MEMFD("d1") "-device pc-dimm,memdev=d0 -device pc-dimm,memdev=d1"},
    {"mem-path", ND "-M pc-i440fx-3.1 -m 64 -mem-path /dev/shm"},
    {"mem-prealloc", ND "-m 64 -smp 2 -mem-prealloc"},
    {"ram", ND "-M q35,memory-backend=m0 " RAM("m0")},
    {"memfd-no-seal", ND "-M q35,memory-backend=m0 -object memory-backend-memfd,id=m0,size=64M,"
                         "seal=off,share=on,dump=off,merge=off,reserve=on"},
    {"json", ND "-M q35,memory-backend=m0 -object '{\"qom-type\":\"memory-backend-memfd\","
                "\"id\":\"m0\",\"size\":67108864,\"prealloc\":true,\"prealloc-threads\":2}'"},
    {"numa", ND "-m 128 -smp 2 " RAM("m0") MEMFD("m1") "-numa node,nodeid=0,memdev=m0,cpus=0 "
                                                       "-numa node,nodeid=1,memdev=m1,cpus=1"},
    {"numa-old-mem", ND "-M pc-i440fx-5.0 -m 128 -smp 2 -numa node,mem=64,cpus=0 "
                        "-numa node,mem=64,cpus=1"},
    {"virtio-mem", ND "-M q35 -m 64,maxmem=1G -object memory-backend-ram,id=v,size=128M,"
                      "reserve=off -device virtio-mem-pci,memdev=v,requested-size=64M"},
    {"hugetlb",
     ND "-M memory-backend=h -object memory-backend-memfd,id=h,size=8M,hugetlb=on,prealloc=on"},
    {"unused", ND RAM("later")},
    {"sandbox", ND "-m 64 -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,"
                   "resourcecontrol=deny -chroot @DIR@"},
    {"config", ND "-readconfig @DIR@/machine.cfg"},
    {"config-qmp", ND "-readconfig @DIR@/machine.cfg -readconfig @DIR@/qmp.cfg"},
    {"config-memory", ND "-readconfig @DIR@/memory.cfg"},
    {"config-defaults", "-readconfig @DIR@/qmp.cfg -readconfig @DIR@/memory.cfg"},
    {"config-sandbox", ND "-readconfig @DIR@/memory.cfg -sandbox on,obsolete=deny,"
                          "elevateprivileges=deny,spawn=deny,resourcecontrol=deny -chroot @DIR@"},
    {"defaults", "-m 64"},
    {"nographic", "-m 64 -nographic"},
    {"nographic-serial", "-m 64 -nographic -serial null"},
    {"nographic-isa-serial", "-m 64 -nographic -device isa-serial,chardev=c -chardev null,id=c"},
    {"monitor-none", "-m 64 -monitor none"},
    {"labels", "-m 64 -qmp unix:@DIR@/a,server=on,wait=off -monitor none -monitor null "
               "-qmp-pretty unix:@DIR@/b,server,nowait -monitor unix:@DIR@/c,server=on,wait=off"},
    {"mon-fd", ND "-chardev socket,id=charmonitor,fd=@FD@,server=on,wait=off "
                  "-mon chardev=charmonitor,id=monitor,mode=control"},
    {"qmp-stdio", ND "-qmp stdio -S"},
    {"left", ND "-M memory-backend=m0 -object memory-backend-file,id=m0,size=64M,share=on,"
                "mem-path=@DIR@/file"},
};

typedef struct {
    char *dir;
    int probe; /* listening socket of the monitor that both QEMUs get */
    int user;  /* listening socket of the command line */
    int ram[MAX_FDS];
    int fds[MAX_FDS];
    unsigned n_fds;
} Fixture;

/* What is compared. */
typedef struct {
    char *blocks, *backends, *numa, *devices, *chardevs;
    bool all_shared, has_door;
} Shape;

static int keep(Fixture *fx, int fd)
{
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpuint(fx->n_fds, <, MAX_FDS);
    fx->fds[fx->n_fds++] = fd;
    return fd;
}

static int listen_at(const Fixture *fx, const char *name)
{
    g_autofree char *path = g_build_filename(fx->dir, name, NULL);
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    g_assert_cmpuint(g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path)), <,
                     sizeof(addr.sun_path));
    g_assert_no_errno(unlink(path) == 0 || errno == ENOENT ? 0 : -1);
    g_assert_no_errno(bind(fd, (struct sockaddr *)&addr, sizeof(addr)));
    g_assert_no_errno(listen(fd, 2));
    return fd;
}

static int connect_to(const Fixture *fx, const char *name)
{
    g_autofree char *path = g_build_filename(fx->dir, name, NULL);
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    g_assert_no_errno(connect(fd, (struct sockaddr *)&addr, sizeof(addr)));
    return fd;
}

static void write_file(const Fixture *fx, const char *name, const char *text)
{
    g_autofree char *path = g_build_filename(fx->dir, name, NULL);

    g_assert_true(g_file_set_contents(path, text, -1, NULL));
}

static void set_up(Fixture *fx)
{
    g_autofree char *probe = NULL, *qmp = NULL;

    fx->dir = g_dir_make_tmp("farfault-argv-XXXXXX", NULL);
    fx->probe = keep(fx, open("/dev/null", O_RDONLY));
    fx->user = keep(fx, listen_at(fx, "user"));
    write_file(fx, "machine.cfg", "[machine]\n  type = \"q35\"\n[memory]\n  size = \"64\"\n");
    qmp = g_strdup_printf("[chardev \"monitor\"]\nbackend = \"socket\"\nfd = \"%d\"\n"
                          "server = \"on\"\nwait = \"off\"\nlogfile = \"%s/log\"\n\n"
                          "[mon]\nchardev = \"monitor\"\nmode = \"control\"\n",
                          fx->user, fx->dir);
    write_file(fx, "qmp.cfg", qmp);
    write_file(fx, "memory.cfg",
               "[machine]\ntype = \"q35\"\n[memory]\nsize = \"96M\"\nmaxmem = \"1G\"\n"
               "slots = \"2\"\n[object \"m0\"]\nqom-type = \"memory-backend-memfd\"\n"
               "size = \"64M\"\nhost-nodes.0 = \"0\"\npolicy = \"bind\"\n"
               "[object \"m1\"]\nqom-type = \"memory-backend-ram\"\nsize = \"32M\"\n"
               "[numa]\ntype = \"node\"\nnodeid = \"0\"\nmemdev = \"m0\"\n"
               "[numa]\ntype = \"node\"\nnodeid = \"1\"\nmemdev = \"m1\"\n"
               "[object \"d0\"]\nqom-type = \"memory-backend-file\"\nsize = \"64M\"\n"
               "mem-path = \"/dev/shm\"\n[device \"dimm\"]\ndriver = \"pc-dimm\"\n"
               "memdev = \"d0\"\n");
    probe = g_strdup_printf("[chardev \"probe\"]\n backend = \"socket\"\n fd = \"%d\"\n"
                            " server = \"on\"\n wait = \"off\"\n"
                            "[mon \"probe\"]\n chardev = \"probe\"\n mode = \"control\"\n",
                            fx->probe);
    write_file(fx, "probe.cfg", probe);
}

static void tear_down(Fixture *fx)
{
    GDir *dir = g_dir_open(fx->dir, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(fx->dir, name, NULL);

        g_assert_no_errno(g_unlink(path));
    }
    g_dir_close(dir);
    g_assert_no_errno(g_rmdir(fx->dir));
    g_free(fx->dir);
    for (unsigned i = 0; i < fx->n_fds; i++) {
        close(fx->fds[i]);
    }
}

static void die_with_parent(gpointer data)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

/* Starts QEMU with ARGV and the probe's monitor. */
static GPid start(const Fixture *fx, char **argv)
{
    g_autoptr(GPtrArray) words = g_ptr_array_new();
    g_autofree char *config = g_build_filename(fx->dir, "probe.cfg", NULL);
    char *const more[] = {(char *)"-accel", (char *)"tcg",         (char *)"-display",
                          (char *)"none",   (char *)"-readconfig", config};
    g_autoptr(GError) err = NULL;
    GPid pid;

    for (char **word = argv; *word; word++) {
        g_ptr_array_add(words, *word);
        if (word == argv) {
            for (size_t i = 0; i < G_N_ELEMENTS(more); i++) {
                g_ptr_array_add(words, more[i]);
            }
        }
    }
    g_ptr_array_add(words, NULL);
    g_spawn_async(NULL, (char **)words->pdata, NULL,
                  G_SPAWN_SEARCH_PATH | G_SPAWN_LEAVE_DESCRIPTORS_OPEN | G_SPAWN_DO_NOT_REAP_CHILD |
                      G_SPAWN_STDOUT_TO_DEV_NULL,
                  die_with_parent, NULL, &pid, &err);
    g_assert_no_error(err);
    return pid;
}

static int compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* "name page-size used total" of each RAM block, sorted: the order of allocation may differ. */
static char *blocks_of(Qmp *qmp)
{
    g_autofree char *text = qmp_hmp(qmp, "info ramblock");
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    g_autoptr(GPtrArray) blocks = g_ptr_array_new_with_free_func(g_free);

    for (char **line = lines; *line; line++) {
        char name[256], page[32], unit[32], offset[32], used[32], total[32];

        if (sscanf(*line, " %255s %31s %31s %31s %31s %31s", name, page, unit, offset, used,
                   total) == 6 &&
            g_str_has_prefix(used, "0x")) {
            g_ptr_array_add(blocks, g_strjoin(" ", name, page, unit, used, total, NULL));
        }
    }
    g_assert_cmpuint(blocks->len, >, 0);
    g_ptr_array_sort(blocks, compare);
    g_ptr_array_add(blocks, NULL);
    return g_strjoinv("\n", (char **)blocks->pdata);
}

/* All backends with all they say of themselves but share. */
static char *backends_of(const char *text)
{
    g_auto(GStrv) backends = g_strsplit(text, "memory backend: ", -1);

    for (char **backend = backends; *backend; backend++) {
        char *share = strstr(*backend, "  share: ");

        if (share) {
            memset(share, ' ', strcspn(share, "\n"));
            g_strchomp(g_strdelimit(*backend, "\n", ' '));
            g_autofree char *old = *backend;
            g_auto(GStrv) words = g_strsplit_set(old, " ", -1);
            GString *line = g_string_new(NULL);

            for (char **word = words; *word; word++) {
                g_string_append_printf(line, "%s%s", **word ? " " : "", *word);
            }
            *backend = g_string_free(line, FALSE);
        }
    }
    qsort(backends, g_strv_length(backends), sizeof(char *), compare);
    return g_strjoinv("\n", backends);
}

/* All but what the launcher adds: each guest's private monitor, and a door (FF_CLIENT_DOOR). */
static char *chardevs_of(Qmp *qmp, bool *has_door)
{
    g_autofree char *text = qmp_hmp(qmp, "info chardev");
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);

    *has_door = false;
    for (char **line = lines; *line; line++) {
        g_autofree char *name = g_strndup(*line, strcspn(*line, ":"));
        bool is_door = g_str_equal(name, "farfault-door");

        *has_door |= is_door;
        if (*name && !is_door && !g_str_equal(name, "farfault-private")) {
            g_ptr_array_add(names, g_steal_pointer(&name));
        }
    }
    g_ptr_array_sort(names, compare);
    g_ptr_array_add(names, NULL);
    return g_strjoinv("\n", (char **)names->pdata);
}

static void read_shape(Qmp *qmp, Shape *shape)
{
    g_autofree char *memdev = qmp_hmp(qmp, "info memdev");

    shape->blocks = blocks_of(qmp);
    shape->backends = backends_of(memdev);
    shape->numa = qmp_hmp(qmp, "info numa");
    shape->devices = qmp_hmp(qmp, "info memory-devices");
    shape->chardevs = chardevs_of(qmp, &shape->has_door);
    shape->all_shared = strstr(memdev, "memory backend") && !strstr(memdev, "share: false");
}

/* QEMU unlinks the path of a listening socket at its end, so each one gets a fresh one under
 * the same number. */
static void renew(const Fixture *fx, int fd, const char *name)
{
    int fresh = listen_at(fx, name);

    g_assert_cmpint(dup2(fresh, fd), ==, fd);
    close(fresh);
}

static void shape_of(const Fixture *fx, char **argv, Shape *shape)
{
    renew(fx, fx->probe, "probe");
    renew(fx, fx->user, "user");
    GPid pid = start(fx, argv);
    Qmp *qmp = qmp_new(connect_to(fx, "probe"), "probe", false);
    int status;

    read_shape(qmp, shape);
    qmp_ok(qmp, "quit", NULL);
    qmp_free(qmp);
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(status, ==, 0);
}

static void shape_clear(Shape *shape)
{
    g_free(shape->blocks);
    g_free(shape->backends);
    g_free(shape->numa);
    g_free(shape->devices);
    g_free(shape->chardevs);
}

static char **render(Fixture *fx, const FfPlan *plan)
{
    int mon[MAX_FDS], configs[MAX_FDS];

    for (guint i = 0; i < plan->ram->len; i++) {
        const FfPlanRam *block = plan->ram->pdata[i];

        /* The default huge page size is the only one that these cases ask for. */
        fx->ram[i] = keep(fx, memfd_create(block->id, block->page_size > 4096 ? MFD_HUGETLB : 0));
        g_assert_no_errno(ftruncate(fx->ram[i], (off_t)block->size));
    }
    for (guint i = 0; i < plan->monitors->len; i++) {
        g_autofree char *name = g_strdup_printf("mon%u", i);

        mon[i] = keep(fx, listen_at(fx, name));
    }
    FfPlanFds fds = {fx->ram, mon, configs, keep(fx, listen_at(fx, "private"))};

    for (guint i = 0; i < plan->configs->len; i++) {
        g_autofree char *text = ff_plan_render_config(plan, i, &fds);

        configs[i] = keep(fx, memfd_create("config", 0));
        g_assert_cmpint(write(configs[i], text, strlen(text)), ==, strlen(text));
    }
    return ff_plan_render(plan, &fds);
}

static char **case_argv(const Fixture *fx, const Case *c)
{
    g_autofree char *fd = g_strdup_printf("%d", fx->user);
    GString *line = g_string_new("qemu-system-x86_64 ");
    char **argv = NULL;

    g_string_append(line, c->args);
    g_string_replace(line, "@DIR@", fx->dir, 0);
    g_string_replace(line, "@FD@", fd, 0);
    g_assert_true(g_shell_parse_argv(line->str, NULL, &argv, NULL));
    g_string_free(line, TRUE);
    return argv;
}

static void check_allocated(const Fixture *fx, const FfPlan *plan)
{
    for (guint i = 0; i < plan->ram->len; i++) {
        struct stat st;

        g_assert_no_errno(fstat(fx->ram[i], &st));
        g_assert_cmpuint((uint64_t)st.st_blocks * 512, ==,
                         ((FfPlanRam *)plan->ram->pdata[i])->size);
    }
}

static bool wants_door(const FfPlan *plan)
{
    for (guint i = 0; i < plan->monitors->len; i++) {
        if (((FfPlanMonitor *)plan->monitors->pdata[i])->kind == FF_CLIENT_DOOR) {
            return true;
        }
    }
    return false;
}

static void test_same(gconstpointer data)
{
    const Case *c = data;
    Fixture fx = {0};
    Shape before, after;
    bool is_huge = strstr(c->args, "hugetlb=on");
    HugePages *pages = is_huge ? hugepages_new(8) : NULL;

    if (is_huge && !pages) {
        return;
    }
    set_up(&fx);
    g_auto(GStrv) argv = case_argv(&fx, c);
    g_autoptr(FfPlan) plan = ff_plan_new((const char *const *)argv, ff_argv_system_real(), NULL);
    g_assert_nonnull(plan);
    shape_of(&fx, argv, &before);
    g_auto(GStrv) rewritten = render(&fx, plan);
    shape_of(&fx, rewritten, &after);
    if (strstr(c->args, "prealloc")) {
        check_allocated(&fx, plan);
    }
    g_assert_cmpstr(after.blocks, ==, before.blocks);
    g_assert_cmpstr(after.backends, ==, before.backends);
    g_assert_cmpstr(after.numa, ==, before.numa);
    g_assert_cmpstr(after.devices, ==, before.devices);
    g_assert_cmpstr(after.chardevs, ==, before.chardevs);
    g_assert_true(after.all_shared);
    g_assert_false(before.has_door);
    g_assert_cmpint(after.has_door, ==, wants_door(plan));
    shape_clear(&before);
    shape_clear(&after);
    tear_down(&fx);
    hugepages_free(pages);
}

static void expect_ram(const char *qemu, const char *type, bool known, const char *expected)
{
    g_autofree char *id = NULL;

    g_assert_cmpint(ff_argv_ask_ram_id(qemu, type, &id), ==, known);
    g_assert_cmpstr(id, ==, expected);
}

/* A QEMU of a distribution, whose machines have names of its own; and what is no QEMU. */
static void test_ask(void)
{
    g_autofree char *real = g_find_program_in_path("qemu-system-x86_64");
    g_autofree char *dir = g_dir_make_tmp("ff-argv-XXXXXX", NULL);
    g_autofree char *renamed = g_build_filename(dir, "renamed", NULL);
    g_autofree char *no_qemu = g_build_filename(dir, "no-qemu", NULL);
    g_autofree char *script = g_strdup_printf("#!/bin/sh\n"
                                              "%s \"$@\" | sed 's/\"alias\": \"pc\"/\"alias\": "
                                              "\"ubuntu\"/'\n",
                                              real);

    g_assert_true(g_file_set_contents(renamed, script, -1, NULL));
    g_assert_true(g_file_set_contents(no_qemu, "#!/bin/sh\nexit 1\n", -1, NULL));
    g_assert_cmpint(chmod(renamed, 0755), ==, 0);
    g_assert_cmpint(chmod(no_qemu, 0755), ==, 0);
    expect_ram(real, "pc", true, "pc.ram");
    expect_ram(real, "microvm", true, "microvm.ram");
    expect_ram(real, "x-remote", true, NULL);
    expect_ram(real, "ubuntu", false, NULL);
    expect_ram(renamed, "ubuntu", true, "pc.ram");
    expect_ram(no_qemu, "pc", false, NULL);
    expect_ram("/nonexistent/qemu", "pc", false, NULL);
    g_remove(renamed);
    g_remove(no_qemu);
    g_rmdir(dir);
}

int main(int argc, char **argv)
{
    g_autofree char *qemu = g_find_program_in_path("qemu-system-x86_64");

    g_test_init(&argc, &argv, NULL);
    if (!qemu) {
        g_print("1..0 # SKIP qemu-system-x86_64 is not installed\n");
        return 0;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strdup_printf("/argv-qemu/%s", cases[i].name);

        g_test_add_data_func(path, &cases[i], test_same);
    }
    g_test_add_func("/argv-qemu/ask", test_ask);
    return g_test_run();
}
