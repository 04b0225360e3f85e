/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The rewriting of command lines, word by word: real ones (QEMU's documentation, libvirt, QEMU's
 * own migration tests), what must be left alone, and random ones that must not crash. The tables
 * are in argv-cases-*.c.
 */
#include "contract/state.h"
#include "guest/launch/argv-opts.h"
#include "guest/launch/argv.h"
#include "tests/unit/argv-cases.h"
#include "tests/unit/config-reader.h"

#include <string.h>
#include <unistd.h>

/* ------------------------------------------------------------------ an invented system */

static char fake_fs_kind(const char *path, uint64_t *page_size, void *opaque)
{
    static const struct {
        const char *path;
        char kind;
        uint64_t page_size;
    } places[] = {
        {"/dev/shm/.", 't', 0},
        {"/dev/shm/file", 't', 0},
        {"/dev/hugepages/.", 'h', 2048 << 10},
        {"/dev/hugepages/libvirt/.", 'h', 2048 << 10},
        {"/dev/hugepages/file", 'h', 2048 << 10},
        {"/hp1g/.", 'h', 1 << 30},
        {"/var/.", 'r', 0},
        {"/var/file", 'r', 0},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(places); i++) {
        if (g_str_equal(places[i].path, path)) {
            if (places[i].kind == 'h') {
                *page_size = places[i].page_size;
            }
            return places[i].kind;
        }
    }
    return 0;
}

static bool fake_fd_is_listening(int fd, void *opaque)
{
    return fd >= 30 && fd < 40;
}

static char *fake_read_file(const char *path, GError **error, void *opaque)
{
    static const struct {
        const char *path, *text;
    } files[] = {
        {"/plain.cfg", "# a comment\n[machine]\n  type = \"q35\"\n  accel = \"tcg\"\n"
                       "[memory]\n  size = \"256\"\n[device \"d\"]\n driver = \"e1000\"\n"},
        {"/hmp.cfg", "[mon \"m\"]\n chardev = \"c\"\n mode = \"readline\"\n"},
        {"/hmp-object.cfg", "[object \"m\"]\n chardev = \"c\"\n qom-type = \"monitor-hmp\"\n"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(files); i++) {
        if (g_str_equal(files[i].path, path)) {
            return g_strdup(files[i].text);
        }
    }
    for (const ArgvFile *file = argv_config_files; file->path; file++) {
        if (g_str_equal(file->path, path)) {
            return g_strdup(file->text);
        }
    }
    g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_NOENT, "no such file: %s", path);
    return NULL;
}

static bool fake_machine_ram_id(const char *type, char **ram_id, void *opaque)
{
    *ram_id = g_strdup(g_str_equal(type, "ubuntu") ? "pc.ram" : NULL);
    return *ram_id || g_str_equal(type, "x-remote");
}

static const FfArgvSystem fake = {
    .machine_ram_id = fake_machine_ram_id,
    .fs_kind = fake_fs_kind,
    .fd_is_listening = fake_fd_is_listening,
    .read_file = fake_read_file,
    .folder = "/here",
    .default_hugepage_size = 2048 << 10,
    .takes_backends = true,
    .has_agent = true,
};

/* ------------------------------------------------------------------ what a plan says, in text */

static void monitor_summary(GString *text, const FfPlanMonitor *mon)
{
    static const char *const kinds[] = {
        [FF_CLIENT_LISTEN_UNIX] = "listen-unix",
        [FF_CLIENT_LISTEN_TCP] = "listen-tcp",
        [FF_CLIENT_LISTEN_FD] = "listen-fd",
        [FF_CLIENT_CONNECT_UNIX] = "connect-unix",
        [FF_CLIENT_CONNECT_TCP] = "connect-tcp",
        [FF_CLIENT_CONNECTED_FD] = "connected-fd",
        [FF_CLIENT_STDIO] = "stdio",
    };

    g_string_append_printf(text, "mon=%s:%s", mon->chardev_id, kinds[mon->kind]);
    if (mon->path) {
        g_string_append_printf(text, ":%s", mon->path);
    }
    if (mon->port) {
        g_string_append_printf(text, ":[%s]:%s", mon->host, mon->port);
    }
    if (mon->kind == FF_CLIENT_LISTEN_FD || mon->kind == FF_CLIENT_CONNECTED_FD) {
        g_string_append_printf(text, ":%d", mon->fd);
    }
    if (mon->to) {
        g_string_append_printf(text, ":to%u", mon->to);
    }
    if (mon->backend) {
        g_string_append(text, mon->network ? ":network" : ":backend");
    }
    if (mon->reconnect) {
        g_string_append_printf(text, ":re%u", mon->reconnect);
    }
    g_string_append_printf(text, "%s%s%s%s ", mon->ipv4 ? ":v4" : "", mon->ipv6 ? ":v6" : "",
                           mon->abstract ? ":abstract" : "", mon->wait ? ":wait" : "");
}

static char *summary(const FfPlan *plan)
{
    GString *text = g_string_new(plan->passthrough ? "passthrough " : NULL);

    for (guint i = 0; i < plan->ram->len; i++) {
        const FfPlanRam *ram = plan->ram->pdata[i];

        g_string_append_printf(text, "ram=%s:%" G_GUINT64_FORMAT ":%" G_GUINT64_FORMAT "%s%s ",
                               ram->id, ram->size, ram->page_size, ram->seal ? ":seal" : "",
                               ram->unreserved ? ":unreserved" : "");
    }
    for (guint i = 0; i < plan->monitors->len; i++) {
        FfClientKind kind = ((FfPlanMonitor *)plan->monitors->pdata[i])->kind;

        /* These are on the command line; the others: test_network(). */
        if (kind != FF_CLIENT_SPARE && kind != FF_CLIENT_DOOR) {
            monitor_summary(text, plan->monitors->pdata[i]);
        }
    }
    if (plan->incoming) {
        g_string_append_printf(text, "%s=%s ", plan->incoming_taken ? "takes" : "incoming",
                               plan->incoming);
    }
    if (plan->name) {
        g_string_append_printf(text, "name=%s ", plan->name);
    }
    if (plan->runas) {
        g_string_append_printf(text, "runas=%s ", plan->runas);
    }
    g_string_append_printf(text, "%s%s", plan->start_paused ? "S " : "",
                           plan->daemonize ? "daemonize " : "");
    return g_string_free(text, FALSE);
}

static char **split(const char *line)
{
    g_autoptr(GError) err = NULL;
    char **argv = NULL;

    g_shell_parse_argv(line, NULL, &argv, &err);
    g_assert_no_error(err);
    return argv;
}

static void check_words(const FfPlan *plan, const char *expected)
{
    g_auto(GStrv) words = split(expected);

    for (guint i = 0; words[i] || plan->argv->pdata[i]; i++) {
        g_assert_cmpstr(plan->argv->pdata[i], ==, words[i]);
    }
    g_assert_cmpuint(plan->argv->len, ==, g_strv_length(words) + 1);
}

static char *configs_text(const FfPlan *plan)
{
    GString *text = g_string_new(NULL);

    for (guint i = 0; i < plan->configs->len; i++) {
        g_string_append(text, ((FfPlanConfig *)plan->configs->pdata[i])->text);
    }
    return g_string_free(text, FALSE);
}

/* A file for huge pages is of use only to RAM that is mapped at multiples of one; no destination
 * may have either. */
static void check_thp(const FfPlan *plan)
{
    g_autofree char *words = g_strjoinv(" ", (char **)plan->argv->pdata);
    g_autofree char *configs = configs_text(plan), *all = g_strconcat(words, configs, NULL);

    for (guint i = 0; i < plan->ram->len; i++) {
        const FfPlanRam *ram = plan->ram->pdata[i];

        g_assert_false(ram->thp && (plan->incoming || ram->seal || ram->page_size > 4096));
        g_assert_true(!ram->thp || strstr(all, "align"));
    }
}

static void check_configs(const FfPlan *plan, const char *expected)
{
    g_autofree char *text = configs_text(plan);

    g_assert_cmpuint(plan->configs->len, ==, expected ? 1 : 0);
    g_assert_cmpstr(text, ==, expected ? expected : "");
}

static void test_case(gconstpointer data)
{
    const ArgvCase *c = data;
    g_autoptr(GError) err = NULL;
    g_auto(GStrv) argv = split(c->in);
    g_autoptr(FfPlan) plan = ff_plan_new((const char *const *)argv, &fake, &err);

    g_assert_no_error(err);
    g_autofree char *text = summary(plan);
    check_words(plan, c->out ? c->out : c->in);
    g_assert_cmpstr(text, ==, c->summary);
    check_thp(plan);
    if (c->refused) {
        g_assert_nonnull(plan->engine_refused);
        g_assert_nonnull(strstr(plan->engine_refused, c->refused));
        g_assert_null(strchr(plan->engine_refused, '\n'));
    } else {
        g_assert_cmpstr(plan->engine_refused, ==, NULL);
    }
    check_configs(plan, c->configs);
    g_assert_cmpuint(plan->warnings->len, ==, c->warnings ? c->warnings : c->warning ? 1 : 0);
    if (c->warning) {
        g_assert_nonnull(strstr(plan->warnings->pdata[0], c->warning));
    }
}

/* ------------------------------------------------------------------ the tables */

static const char *const no_guest[] = {
    "-version",
    "--version",
    "-h",
    "-help",
    "--help",
    "-machine help",
    "-M ?",
    "-M pc,help",
    "-machine type=help",
    "-cpu help",
    "-cpu ?",
    "-device help",
    "-device virtio-net-pci,help",
    "-device ?",
    "-device driver=help",
    "-accel help",
    "-object help",
    "-object memory-backend-file,help",
    "-netdev help",
    "-chardev help",
    "-audiodev help",
    "-audio help",
    "-audio-help",
    "-d help",
    "-d ?",
    "-d trace:help",
    "-trace help",
    "-trace enable=help",
    "-drive file=x,format=?",
    "-drive format=help",
    "-L help",
    "-vga help",
    "-display help",
    "-smp help",
    "-nic user,model=help",
    "-net nic,model=?",
    "-machine none",
    "-M none,accel=kvm:tcg",
    "-machine accel=tcg -M none",
    "-dump-vmstate /x",
    "-m 1G -qmp stdio -device help",
    "-m",
    "-m 1G -name",
    "-tpmdev help",
    "-M q35 -M none",
    /* libvirt's probe of an emulator */
    "-S -no-user-config -nodefaults -nographic -machine none,accel=kvm:tcg "
    "-qmp unix:/var/lib/libvirt/qemu/qmp-1/qmp.monitor,server=on,wait=off "
    "-pidfile /var/lib/libvirt/qemu/qmp-1/qmp.pid -daemonize",
    /* probe of QEMU 10.0's migration-test */
    "-qtest unix:/tmp/qtest-1.sock -qtest-log /dev/null "
    "-chardev socket,path=/tmp/qtest-1.qmp,id=char0 -mon chardev=char0,mode=control "
    "-display none -audio none -machine none -accel qtest",
};

/* ------------------------------------------------------------------ other tests */

static void test_no_guest(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(no_guest); i++) {
        g_autofree char *line = g_strconcat(Q, no_guest[i], NULL);
        ArgvCase c = {no_guest[i], line, NULL, "passthrough "};

        test_case(&c);
    }
}

/* Refused memory, or monitors that QEMU keeps: the words stay, with the private monitor after
 * them. */
static void test_left(gconstpointer data)
{
    ArgvCase c = *(const ArgvCase *)data;
    bool hmp = !strstr(c.in, "-mon") && !strstr(c.in, "-qmp") && !strstr(c.in, "monitor-") &&
               !strstr(c.in, ND);
    bool nographic = strstr(c.in, "-nographic") != NULL;
    g_autofree char *out =
        g_strconcat(c.in, c.refused ? "" : PC128, hmp && !nographic ? HMP : "", PRIV, NULL);

    c.out = out;
    test_case(&c);
}

/* A pipe is left full for QEMU. */
static void test_config_pipe(void)
{
    static const char text[] = "[machine]\n type = \"q35\"\n";
    char got[sizeof(text)];
    int fds[2];

    g_assert_cmpint(pipe(fds), ==, 0);
    g_assert_cmpint(write(fds[1], text, sizeof(text)), ==, sizeof(text));
    close(fds[1]);
    g_autofree char *line =
        g_strdup_printf(Q "-no-user-config -readconfig /dev/fd/%d -nodefaults", fds[0]);
    g_autofree char *why = g_strdup_printf("-readconfig /dev/fd/%d: it can be read only once, by "
                                           "QEMU: write it to a regular file to let farfault "
                                           "migrate this guest",
                                           fds[0]);
    g_autofree char *out = g_strconcat(line, PRIV, NULL);
    g_auto(GStrv) argv = split(line);
    g_autoptr(FfPlan) plan = ff_plan_new((const char *const *)argv, ff_argv_system_real(), NULL);

    check_words(plan, out);
    g_assert_cmpstr(plan->engine_refused, ==, why);
    g_assert_cmpint(read(fds[0], got, sizeof(got)), ==, sizeof(got));
    g_assert_cmpmem(got, sizeof(got), text, sizeof(text));
    close(fds[0]);
}

static char *read_default(const char *path, GError **error, void *opaque)
{
    return g_str_equal(path, "/etc/qemu/qemu.conf") ? g_strdup(opaque) : NULL;
}

/* QEMU's default file is understood, but nobody knows whether it is this QEMU's: there is no copy
 * of it. */
static void test_config_default(void)
{
    static const struct {
        const char *text, *line, *out, *refused;
        guint warnings;
    } rows[] = {
        {"[memory]\nsize = \"64\"\n[device]\ndriver = \"isa-serial\"\n", Q "-nographic",
         Q "-nographic" PC(67108864) " -monitor stdio" PRIV, NULL, 0},
        {"[chardev \"c\"]\nbackend = \"socket\"\npath = \"/a\"\n[mon]\nchardev = \"c\"\n"
         "mode = \"control\"\n",
         Q ND, Q ND PRIV, "a file that stays as it is", 1},
        {"[chardev \"c\"]\nbackend = \"socket\"\npath = \"/a\"\n", Q ND "-qmp chardev:c",
         Q ND "-qmp chardev:c" PRIV, "a file that stays as it is", 1},
        {"[object \"m\"]\nqom-type = \"memory-backend-ram\"\nsize = \"64M\"\n", Q ND, Q ND PRIV,
         "id=m of /etc/qemu/qemu.conf stays as it is", 0},
        {"[mon\n", Q ND, Q ND PRIV, "qemu.conf: line 1", 1},
        {"[mon\n", Q ND "-no-user-config", Q ND "-no-user-config" PC128 PRIV, NULL, 0},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        FfArgvSystem sys = fake;

        g_test_message("%s", rows[i].text);
        sys.read_file = read_default;
        sys.opaque = (void *)rows[i].text;
        g_auto(GStrv) argv = split(rows[i].line);
        g_autoptr(FfPlan) plan = ff_plan_new((const char *const *)argv, &sys, NULL);

        check_words(plan, rows[i].out);
        check_configs(plan, NULL);
        g_assert_true((plan->engine_refused == NULL) == (rows[i].refused == NULL));
        g_assert_true(!rows[i].refused || strstr(plan->engine_refused, rows[i].refused));
        g_assert_cmpuint(plan->warnings->len, ==, rows[i].warnings);
    }
}

/* The real system: NAME, its text and its length. */
static char *read_real(const char *name, const char *text, size_t len)
{
    g_autofree char *dir = g_dir_make_tmp("farfault-argv-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, name, NULL);
    g_autoptr(GError) err = NULL;
    const FfArgvSystem *sys = ff_argv_system_real();

    g_assert_true(g_file_set_contents(path, text, (gssize)len, NULL));
    char *got = sys->read_file(path, &err, sys->opaque);
    g_assert_true((got == NULL) == g_error_matches(err, G_FILE_ERROR, G_FILE_ERROR_INVAL));
    g_assert_no_errno(unlink(path));
    g_assert_no_errno(rmdir(dir));
    return got ? got : g_strdup(err->message);
}

/* What QEMU would read further in, and what has no end. */
static void test_config_real(void)
{
    static const char nul[] = "[machine]\0\n[mon]\n";
    g_autoptr(GError) err = NULL;
    const FfArgvSystem *sys = ff_argv_system_real();
    size_t size = (256 << 10) + 1;
    g_autofree char *large = g_malloc(size);

    memset(large, '\n', size);
    g_autofree char *whole = read_real("x", large, size - 1);
    g_autofree char *more = read_real("x", large, size);
    g_autofree char *zero = read_real("x", nul, sizeof(nul) - 1);
    g_autofree char *empty = read_real("x", "", 0);

    g_assert_cmpuint(strlen(whole), ==, size - 1);
    g_assert_cmpstr(more, ==, "it is larger than 256 KiB");
    g_assert_cmpstr(zero, ==, "it has a NUL byte");
    g_assert_cmpstr(empty, ==, "");
    g_assert_null(sys->read_file("/dev/zero", &err, sys->opaque));
    g_assert_error(err, G_FILE_ERROR, G_FILE_ERROR_INVAL);
    g_clear_error(&err);
    g_assert_null(sys->read_file("/nowhere.cfg", &err, sys->opaque));
    g_assert_error(err, G_FILE_ERROR, G_FILE_ERROR_NOENT);
}

/* A line that is longer than QEMU's buffer goes on as one more: a comment hides a section. */
static void test_config_long(void)
{
    g_autofree char *line = g_strnfill(1001, '#'), *most = g_strnfill(1000, '#');
    g_autoptr(GString) many = g_string_new(NULL);
    g_autofree char *fill = g_strnfill(1023, '#');
    g_autofree char *trap = g_strconcat("[chardev \"c\"]\nbackend = \"socket\"\npath = \"/a\"\n",
                                        fill, "[mon]\nchardev = \"c\"\nmode = \"control\"\n", NULL);
    const char *texts[] = {most, line, trap, NULL};
    const bool refused[] = {false, true, true, true};

    for (int i = 0; i < 513; i++) {
        g_string_append(many, "[drive]\n");
    }
    texts[3] = many->str;
    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        FfArgvSystem sys = fake;

        sys.read_file = read_default;
        sys.opaque = (void *)texts[i];
        g_auto(GStrv) argv = split(Q ND);
        g_autoptr(FfPlan) plan = ff_plan_new((const char *const *)argv, &sys, NULL);

        g_assert_cmpint(plan->engine_refused != NULL, ==, refused[i]);
    }
}

static void test_nothing(void)
{
    static const char *const argv[] = {NULL};
    g_autoptr(GError) err = NULL;

    g_assert_null(ff_plan_new(argv, &fake, &err));
    g_assert_nonnull(err);
}

static void test_render(void)
{
    g_auto(GStrv) argv = split(Q "-qmp unix:/a,server=on -object memory-backend-ram,id=m,size=64M "
                                 "-append 'fd=@FF_MON1@ @FF_RAM0@' -name @FF_PRIV@,fd=@FF_RAMx@");
    FfArgvSystem sys = fake;
    int ram[] = {10, 11}, mon[] = {12};
    const FfPlanFds fds = {ram, mon, NULL, 13};

    sys.takes_backends = false; /* one socket */
    g_autoptr(FfPlan) plan = ff_plan_new((const char *const *)argv, &sys, NULL);
    g_auto(GStrv) out = ff_plan_render(plan, &fds);
    g_auto(GStrv) expected = split(
        Q
        "-qmp unix:fd=12,server=on,wait=on"
        " -object memory-backend-file,id=m,size=64M,mem-path=/proc/self/fd/10,share=on,"
        "x-use-canonical-path-for-ramblock-id=off,align=2097152 -append 'fd=@FF_MON1@ @FF_RAM0@' "
        "-name @FF_PRIV@,fd=@FF_RAMx@ -object memory-backend-file,id=pc.ram,size=134217728,"
        "mem-path=/proc/self/fd/11,share=on,x-use-canonical-path-for-ramblock-id=off,align=2097152 "
        "-machine memory-backend=pc.ram -chardev socket,id=farfault-private,fd=13,server=on,"
        "wait=off -qmp chardev:farfault-private");

    for (guint i = 0; out[i] || expected[i]; i++) {
        g_assert_cmpstr(out[i], ==, expected[i]);
    }
}

/* The socket of a network's back-end is the agent's to give: without it QEMU would not start. The
 * number is behind the path. */
static void test_network(void)
{
    g_auto(GStrv) argv =
        split(Q "-chardev socket,id=v,path=/b -netdev vhost-user,id=n,chardev=v -monitor none");
    FfArgvSystem sys = fake;
    int ram[] = {10}, mon[1 + FF_STATE_PLUGGED] = {12};
    const FfPlanFds fds = {ram, mon, NULL, 13};
    g_autoptr(FfPlan) plan = ff_plan_new((const char *const *)argv, &sys, NULL);
    g_auto(GStrv) out = ff_plan_render(plan, &fds);

    g_assert_cmpuint(plan->monitors->len, ==, G_N_ELEMENTS(mon));
    for (guint i = 1; i < plan->monitors->len; i++) {
        const FfPlanMonitor *spare = plan->monitors->pdata[i];

        g_assert_cmpint(spare->kind, ==, FF_CLIENT_SPARE);
        g_assert_true(spare->backend);
    }
    g_assert_true(g_strv_contains((const char *const *)out,
                                  "socket,id=v,path=/proc/self/farfault-fd/12,server=on,wait=off"));
    sys.has_agent = false;
    g_autoptr(FfPlan) left = ff_plan_new((const char *const *)argv, &sys, NULL);
    g_assert_cmpuint(left->monitors->len, ==, 0);
    g_assert_cmpuint(left->warnings->len, ==, 1);
    g_assert_nonnull(strstr(left->warnings->pdata[0], "farfault-agent.so"));
}

/* Where QEMU is to listen, in all of its notations. */
static void test_sockets(void)
{
    static const struct {
        const char *words, *paths;
    } rows[] = {
        {"-qmp unix:a,server=on,wait=off -monitor unix:b,server,nowait", "a b"},
        {"-serial unix:a,server=on -serial mon:unix:b,server=on -parallel none", "a b"},
        {"-chardev socket,id=c,path=a,,b,server=on,wait=off -mon chardev=c,mode=control", "a,b"},
        {"-gdb unix:a,server=on -vnc unix:b -vnc unix:c,reverse=on -vnc 127.0.0.1:1", "a b"},
        {"-qmp unix:a -serial unix:b,server=off -chardev socket,id=c,path=d", ""},
        {"-chardev socket,id=c,path=a,server=on,abstract=on -qmp tcp:127.0.0.1:1,server=on", ""},
        {"-chardev pty,id=c -serial stdio -name unix:a,server=on", ""},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *line = g_strconcat(Q, rows[i].words, NULL);
        g_auto(GStrv) argv = split(line);
        g_autoptr(FfPlan) plan = ff_plan_new((const char *const *)argv, &fake, NULL);

        g_ptr_array_add(plan->sockets, NULL);
        g_autofree char *paths = g_strjoinv(" ", (char **)plan->sockets->pdata);
        g_assert_cmpstr(paths, ==, rows[i].paths);
    }
}

static void test_sizes(void)
{
    static const struct {
        const char *text;
        char suffix;
        bool ok;
        uint64_t size;
    } sizes[] = {
        {"1", 'B', true, 1},         {"1", 'M', true, 1 << 20},
        {"0x10", 'B', true, 16},     {"1.5K", 'B', true, 1536},
        {"2b", 'M', true, 2},        {"1e", 'B', true, 1ull << 60},
        {"16E", 'B', false, 0},      {"", 'M', false, 0},
        {"-1", 'M', false, 0},       {"1MB", 'M', false, 0},
        {"1.5", 'B', false, 0},      {"G", 'M', false, 0},
        {" 1", 'M', false, 0},       {"0", 'M', true, 0},
        {"0.1M", 'B', true, 104858}, {"99999999999999999999", 'B', false, 0},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        uint64_t size = 0;

        g_test_message("%s", sizes[i].text);
        g_assert_cmpint(ff_opt_size(sizes[i].text, sizes[i].suffix, &size), ==, sizes[i].ok);
        g_assert_cmpuint(size, ==, sizes[i].size);
    }
}

/* Words that a pass may leave out or replace: these options, and their arguments. */
static bool may_change(const char *word, const char *before)
{
    static const char *const flags[] = {"mem-prealloc", "mem-path", NULL};
    static const char *const with_arg[] = {"object",   "chardev",  "qmp",        "qmp-pretty",
                                           "incoming", "mem-path", "readconfig", NULL};

    before += strspn(before, "-");
    return (word[0] == '-' && g_strv_contains(flags, word + strspn(word, "-"))) ||
           g_strv_contains(with_arg, before);
}

/* All other words of the old command line are in the new one, in their order. */
static void check_kept(const char *const *argv, char **out)
{
    for (guint i = 1; argv[i]; i++) {
        if (may_change(argv[i], argv[i - 1])) {
            continue;
        }
        while (*out && !g_str_equal(*out, argv[i])) {
            out++;
        }
        g_assert_nonnull(*out);
        out++;
    }
}

/* What no rewriting may break, whatever the words are. */
static void check_invariants(const char *const *argv)
{
    g_autoptr(FfPlan) plan = ff_plan_new(argv, &fake, NULL);
    int ram[64], mon[64], configs[64];
    const FfPlanFds fds = {ram, mon, configs, 7};

    g_assert_nonnull(plan);
    g_assert_cmpuint(plan->ram->len, <, G_N_ELEMENTS(ram));
    g_assert_cmpuint(plan->monitors->len, <, G_N_ELEMENTS(mon));
    g_assert_cmpuint(plan->configs->len, <, G_N_ELEMENTS(configs));
    g_assert_true(!plan->engine_refused || plan->ram->len == 0);
    g_assert_true(!plan->engine_refused || !plan->incoming_taken);
    for (guint i = 0; i < plan->ram->len; i++) {
        const FfPlanRam *block = plan->ram->pdata[i];

        g_assert_cmpuint(block->size, >, 0);
        g_assert_cmpuint(block->size % block->page_size, ==, 0);
    }
    memset(ram, 0, sizeof(ram));
    memset(mon, 0, sizeof(mon));
    memset(configs, 0, sizeof(configs));
    g_auto(GStrv) out = ff_plan_render(plan, &fds);
    if (plan->passthrough) {
        g_assert_true(g_strv_equal((const char *const *)out, argv));
    } else {
        check_kept(argv, out);
    }
}

/* Words of all tables, shuffled, cut and with bytes changed. */
static void test_random(void)
{
    static const ArgvCase *const tables[] = {
        argv_memory_cases, argv_left_memory_cases, argv_monitor_cases,    argv_left_monitor_cases,
        argv_whole_cases,  argv_config_cases,      argv_left_config_cases};
    g_autoptr(GRand) rand = g_rand_new_with_seed(20250101);
    g_autoptr(GPtrArray) words = g_ptr_array_new_with_free_func(g_free);

    for (size_t t = 0; t < G_N_ELEMENTS(tables); t++) {
        for (const ArgvCase *c = tables[t]; c->name; c++) {
            g_auto(GStrv) argv = split(c->in);

            for (char **word = argv + 1; *word; word++) {
                g_ptr_array_add(words, g_strdup(*word));
            }
        }
    }
    for (int round = 0; round < 3000; round++) {
        g_autoptr(GPtrArray) argv = g_ptr_array_new_with_free_func(g_free);
        int n = g_rand_int_range(rand, 0, 24);

        g_ptr_array_add(argv, g_strdup("qemu-system-x86_64"));
        for (int i = 0; i < n; i++) {
            guint pick = (guint)g_rand_int_range(rand, 0, (gint32)words->len);
            char *word = g_strdup(words->pdata[pick]);

            if (word[0] && g_rand_int_range(rand, 0, 6) == 0) {
                size_t at = (size_t)g_rand_int_range(rand, 0, (gint32)strlen(word));
                static const char bytes[] = ",=-{}\"\\:@.0x\xff\x01n";

                word[at] = bytes[g_rand_int_range(rand, 0, sizeof(bytes))];
            }
            g_ptr_array_add(argv, word);
            if (word[0] == '-' && pick + 1 < words->len && g_rand_int_range(rand, 0, 5)) {
                g_ptr_array_add(argv, g_strdup(words->pdata[pick + 1]));
            }
        }
        g_ptr_array_add(argv, NULL);
        check_invariants((const char *const *)argv->pdata);
    }
}

static char *read_given(const char *path, GError **error, void *opaque)
{
    return g_str_equal(path, "/given") ? g_strdup(opaque) : NULL;
}

/* Pieces of a file, in any order and with bytes changed: what QEMU makes a QMP monitor of, the
 * launcher sees. */
static void test_config_random(void)
{
    static const char *const pieces[] = {
        "[mon]\n",
        "[mon \"m\"]\n",
        "[mon",
        "[mon]",
        "[chardev \"c\"]\n",
        "[chardev]\n",
        "[chardev \"c",
        "[object \"m\"]\n",
        "qom-type = \"monitor-qmp\"\n",
        "chardev = \"c\"\n",
        "mode = \"control\"\n",
        "backend = \"socket\"\n",
        "path = \"/a\"\n",
        "server = \"on\"\n",
        "id = \"c\"\n",
        "\n",
        " ",
        "#",
        "\"",
        "]",
        "[",
        "= \"x\"",
        "# comment\n",
        "[machine]\n",
        "type = \"q35\"\n",
        /* As it should be. */
        "[chardev \"c\"]\nbackend = \"socket\"\npath = \"/a\"\n[mon]\nchardev = \"c\"\nmode = "
        "\"control\"\n",
    };
    g_autoptr(GRand) rand = g_rand_new_with_seed(20261130);
    g_autofree char *fill = g_strnfill(1023, '#');
    FfArgvSystem sys = fake;
    int ram[8] = {0}, mon[64], config[1] = {0};
    guint copies = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(mon); i++) {
        mon[i] = 77;
    }
    sys.read_file = read_given;
    for (int round = 0; round < 20000; round++) {
        g_autoptr(GString) text = g_string_new(NULL);
        int n = g_rand_int_range(rand, 1, 12);

        for (int i = 0; i < n; i++) {
            gint32 pick = g_rand_int_range(rand, 0, G_N_ELEMENTS(pieces) + 1);

            g_string_append(text, pick < (gint32)G_N_ELEMENTS(pieces) ? pieces[pick] : fill);
        }
        if (text->len && g_rand_int_range(rand, 0, 3) == 0) {
            text->str[g_rand_int_range(rand, 0, (gint32)text->len)] =
                "\n\t \"[]=#x\r"[g_rand_int_range(rand, 0, 10)];
        }
        static const char *const argv[] = {"qemu-system-x86_64", "-nodefaults", "-readconfig",
                                           "/given", NULL};
        const FfPlanFds fds = {ram, mon, config, 3};
        sys.opaque = text->str;
        g_autoptr(FfPlan) plan = ff_plan_new(argv, &sys, NULL);
        g_autofree char *copy = plan->configs->len ? ff_plan_render_config(plan, 0, &fds) : NULL;

        copies += copy != NULL;
        config_check_monitors(plan, copy ? copy : text->str, 77);
    }
    g_assert_cmpuint(copies, >, 100);
}

static void add_table(const char *prefix, const ArgvCase *cases, GTestDataFunc func)
{
    for (const ArgvCase *c = cases; c->name; c++) {
        g_autofree char *path = g_strdup_printf("/argv/%s/%s", prefix, c->name);

        g_test_add_data_func(path, c, func);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add_table("memory", argv_memory_cases, test_case);
    add_table("left-memory", argv_left_memory_cases, test_left);
    add_table("monitors", argv_monitor_cases, test_case);
    add_table("left-monitors", argv_left_monitor_cases, test_left);
    add_table("whole", argv_whole_cases, test_case);
    add_table("config", argv_config_cases, test_case);
    add_table("left-config", argv_left_config_cases, test_left);
    g_test_add_func("/argv/no-guest", test_no_guest);
    g_test_add_func("/argv/nothing", test_nothing);
    g_test_add_func("/argv/config-pipe", test_config_pipe);
    g_test_add_func("/argv/config-default", test_config_default);
    g_test_add_func("/argv/config-real", test_config_real);
    g_test_add_func("/argv/config-long", test_config_long);
    g_test_add_func("/argv/render", test_render);
    g_test_add_func("/argv/network", test_network);
    g_test_add_func("/argv/sockets", test_sockets);
    g_test_add_func("/argv/sizes", test_sizes);
    g_test_add_func("/argv/random", test_random);
    g_test_add_func("/argv/config-random", test_config_random);
    return g_test_run();
}
