/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The inner migration on real QEMUs, without an engine: this program is the coordinator of both
 * ends. It carries the device state from one to the other, copies the RAM while the source stands,
 * and plays the return path.
 *
 * Threads: the tests' own (the coordinator), and one that runs the QMP clients' context.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "guest/qemu/device-state.h"
#include "guest/qemu/hotplug.h"
#include "guest/qemu/settings.h"
#include "guest/qemu/vmm-qemu.h"
#include "tests/lib/check.h"
#include "tests/lib/vm.h"

#define RAM (64ull << 20)

typedef struct {
    Vm *vm;
    int memfd;
    FfQmpClient *client;
    FfStateHeader *state;
    FfQemu *qemu;
    FfVmm *vmm; /* of qemu */
    FfQemuConfig config;
    GPtrArray *ram;
} End;

typedef struct {
    End s, d;
    BootsectConfig boot;
    char *disk; /* can be NULL */
    GMainContext *context;
    GMainLoop *loop;
    GThread *io;
} Pair;

static void ok(bool result, GError *error)
{
    g_assert_no_error(error);
    g_assert_true(result);
}
/* OK(call(..., &error)) */
#define OK(expression)                                                                             \
    do {                                                                                           \
        g_autoptr(GError) error = NULL;                                                            \
        bool result = (expression);                                                                \
        ok(result, error);                                                                         \
    } while (0)

static void *run_loop(void *data)
{
    g_main_loop_run(data);
    return NULL;
}

static gboolean quit_loop(void *data)
{
    g_main_loop_quit(data);
    return G_SOURCE_REMOVE;
}

/* A listening socket that has no name any more, and the O_PATH fd to reach it by. */
static int private_listener(int *inode)
{
    g_autofree char *dir = g_dir_make_tmp("ff-inner-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "s", NULL);
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); /* as the launcher's */

    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    g_assert_cmpint(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    g_assert_cmpint(listen(fd, 1), ==, 0);
    *inode = open(path, O_PATH | O_CLOEXEC);
    unlink(path);
    rmdir(dir);
    return fd;
}

static void end_new_vmm(End *e)
{
    if (e->qemu) {
        ff_qemu_free(e->qemu);
    }
    e->qemu = ff_qemu_new(&e->config);
    e->vmm = ff_qemu_vmm(e->qemu);
}

static void end_start(Pair *p, End *e, const char *name, const char *incoming, bool paused,
                      const char *const *more)
{
    g_autoptr(GPtrArray) args = g_ptr_array_new_with_free_func(g_free);
    int inode, listener = private_listener(&inode), fd;
    FfRamBlock *block = g_new0(FfRamBlock, 1);
    g_autoptr(GError) error = NULL;

    e->memfd = memfd_create("ram", MFD_CLOEXEC);
    g_assert_cmpint(ftruncate(e->memfd, RAM), ==, 0);
    g_ptr_array_add(args, g_strdup("-object"));
    g_ptr_array_add(args, g_strdup_printf("memory-backend-file,id=pc.ram,size=%llu,mem-path="
                                          "/proc/self/fd/%d,share=on",
                                          RAM, e->memfd));
    g_ptr_array_add(args, g_strdup("-machine"));
    g_ptr_array_add(args, g_strdup("pc,memory-backend=pc.ram"));
    g_ptr_array_add(args, g_strdup("-chardev"));
    g_ptr_array_add(
        args, g_strdup_printf("socket,id=farfault-private,fd=%d,server=on,wait=off", listener));
    g_ptr_array_add(args, g_strdup("-mon"));
    g_ptr_array_add(args, g_strdup("chardev=farfault-private,mode=control"));
    if (p->disk) {
        g_ptr_array_add(args, g_strdup("-blockdev"));
        g_ptr_array_add(args, g_strdup_printf("driver=qcow2,node-name=q,file.driver=file,"
                                              "file.locking=on,file.filename=%s",
                                              p->disk));
        g_ptr_array_add(args, g_strdup("-device"));
        g_ptr_array_add(args, g_strdup("virtio-blk-pci,drive=q"));
    }
    for (; more && *more; more++) {
        g_ptr_array_add(args, g_strdup(*more));
    }
    g_ptr_array_add(args, NULL);
    e->vm = vm_start(&(VmConfig){.name = name,
                                 .memory = "64,slots=2,maxmem=1G",
                                 .args = (const char *const *)args->pdata,
                                 .boot = &p->boot,
                                 .incoming = incoming,
                                 .paused = paused,
                                 .fds = (int[]){e->memfd, listener, -1}});
    close(listener);
    fd = ff_qmp_connect(inode, &error);
    g_assert_no_error(error);
    close(inode);
    e->client = ff_qmp_client_new(fd, p->context, NULL, NULL, NULL);
    e->state = g_new0(FfStateHeader, 1);
    *block = (FfRamBlock){.id = "pc.ram", .size = RAM, .page_size = 4096, .memfd = e->memfd};
    e->ram = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(e->ram, block);
    e->config = (FfQemuConfig){.qmp = e->client,
                               .state = e->state,
                               .ram = e->ram,
                               .name = name,
                               .qemu_pid = vm_pid(e->vm),
                               .backends = -1,
                               .cancel = g_cancellable_new(),
                               .deadline_ms = 60000};
    end_new_vmm(e);
}

static void end_end(End *e)
{
    if (!e->vm) {
        return;
    }
    ff_qemu_free(e->qemu);
    g_object_unref(e->config.cancel);
    ff_qmp_client_close(e->client);
    ff_qmp_client_unref(e->client);
    g_free(e->state);
    g_ptr_array_unref(e->ram);
    vm_end(e->vm);
    close(e->memfd);
}

static void pair_open(Pair *p)
{
    p->boot = bootsect_config(RAM, 16 << 20, 1);
    p->context = g_main_context_new();
    p->loop = g_main_loop_new(p->context, FALSE);
    p->io = g_thread_new("io", run_loop, p->loop);
}

static void pair_close(Pair *p)
{
    end_end(&p->s);
    end_end(&p->d);
    g_main_context_invoke(p->context, quit_loop, p->loop);
    g_thread_join(p->io);
    g_main_loop_unref(p->loop);
    g_main_context_unref(p->context);
    if (p->disk) {
        unlink(p->disk);
        g_free(p->disk);
    }
}

static void make_disk(Pair *p)
{
    int fd = g_file_open_tmp("ff-inner-XXXXXX.qcow2", &p->disk, NULL);
    const char *argv[] = {"qemu-img", "create", "-q", "-f", "qcow2", p->disk, "16M", NULL};
    int status = -1;

    close(fd);
    g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL,
                               NULL, &status, NULL));
    g_assert_cmpint(status, ==, 0);
}

/* Values of a client that would disturb the inner migration. */
static void client_settings(End *e)
{
    Qmp *q = vm_qmp(e->vm);
    qmp_set_capability(q, "pause-before-switchover", true);
    qmp_set_capability(q, "xbzrle", true);
    qmp_ok(q, "migrate-set-parameters", "{'max-bandwidth': 1000000, 'downtime-limit': 20}");
}

/* All of QEMU's capabilities and parameters, as text. */
static char *settings(End *e)
{
    g_autoptr(JsonObject) c = qmp_call(vm_qmp(e->vm), "query-migrate-capabilities", NULL);
    g_autoptr(JsonObject) q = qmp_call(vm_qmp(e->vm), "query-migrate-parameters", NULL);
    g_autofree char *a = json_to_string(json_object_get_member(c, "return"), FALSE);
    g_autofree char *b = json_to_string(json_object_get_member(q, "return"), FALSE);
    return g_strconcat(a, b, NULL);
}

static void assert_state(End *e, const char *expected)
{
    g_autofree char *state = qmp_run_state(vm_qmp(e->vm));
    g_assert_cmpstr(state, ==, expected);
}

static void check_both(Pair *p)
{
    GPtrArray *a, *b;
    uint8_t u[16], v[16];

    OK(p->s.vmm->memory.check(&p->s.vmm->memory, FF_ROLE_SOURCE, &a, u, &error) == FF_GUEST_FITS);
    OK(p->d.vmm->memory.check(&p->d.vmm->memory, FF_ROLE_DESTINATION, &b, v, &error) ==
       FF_GUEST_FITS);
    g_assert_cmpuint(a->len, ==, 1);
    g_assert_cmpuint(b->len, ==, 1);
    g_assert_cmpstr(((FfRamBlock *)a->pdata[0])->id, ==, "pc.ram");
    g_assert_cmpmem(u, 16, v, 16);
    OK(p->s.vmm->state.prepare(&p->s.vmm->state, FF_ROLE_SOURCE, &error));
    OK(p->d.vmm->state.prepare(&p->d.vmm->state, FF_ROLE_DESTINATION, &error));
    g_assert_cmpuint(p->s.state->undo_len, >, 0);
    g_assert_cmpuint(p->d.state->undo_len, >, 0);
}

static void copy_ram(Pair *p)
{
    void *from = mmap(NULL, RAM, PROT_READ, MAP_SHARED, p->s.memfd, 0);
    void *to = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED, p->d.memfd, 0);

    g_assert_true(from != MAP_FAILED && to != MAP_FAILED);
    memcpy(to, from, RAM);
    munmap(from, RAM);
    munmap(to, RAM);
}

static void write_all(int fd, const void *data, size_t length)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = send(fd, (const char *)data + done, length - done, MSG_NOSIGNAL);
        g_assert_cmpint(n, >, 0);
        done += n;
    }
}

/* Takes whole messages off BUF (u16 type, u16 length, big endian). Returns the value of SHUT, or -1
 * if there is none yet. */
static int read_messages(GByteArray *buf)
{
    int shut = -1;

    while (shut < 0 && buf->len >= 4) {
        unsigned type = buf->data[0] << 8 | buf->data[1];
        unsigned length = buf->data[2] << 8 | buf->data[3];
        if (buf->len < 4 + length) {
            break;
        }
        g_test_message("return path: type %u, %u bytes", type, length);
        if (type == 1) {
            g_assert_cmpuint(length, ==, 4);
            shut = buf->data[7];
        }
        g_byte_array_remove_range(buf, 0, 4 + length);
    }
    return shut;
}

/* Carries device state from SOURCE to DESTINATION until the destination says SHUT. No message of
 * the return path goes back. Returns the blob's size. */
static size_t pump(int source, int destination)
{
    g_autoptr(GByteArray) rp = g_byte_array_new();
    g_autofree uint8_t *data = g_malloc(1 << 16);
    size_t total = 0;

    for (;;) {
        struct pollfd p[2] = {{.fd = source, .events = POLLIN},
                              {.fd = destination, .events = POLLIN}};
        g_assert_cmpint(poll(p, 2, 60000), >, 0);
        if (p[0].revents) {
            ssize_t n = read(source, data, 1 << 16);
            g_assert_cmpint(n, >, 0);
            write_all(destination, data, n);
            total += n;
        }
        if (p[1].revents) {
            ssize_t n = read(destination, data, 1 << 16);
            g_assert_cmpint(n, >, 0);
            g_byte_array_append(rp, data, n);
            int shut = read_messages(rp);
            if (shut >= 0) {
                g_assert_cmpint(shut, ==, 0);
                return total;
            }
        }
    }
}

static void send_shut(int fd, int status)
{
    const uint8_t message[8] = {0, 1, 0, 4, 0, 0, 0, status};
    write_all(fd, message, sizeof(message));
}

/* qemu-img may not open an image for writing that a running QEMU has locked. */
static bool is_locked(Pair *p)
{
    const char *argv[] = {"qemu-img", "resize", "-q", p->disk, "+1M", NULL};
    int status = -1;

    g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL,
                               G_SPAWN_SEARCH_PATH | G_SPAWN_STDERR_TO_DEV_NULL, NULL, NULL, NULL,
                               NULL, &status, NULL));
    return status != 0;
}

static double since_ms(gint64 *start)
{
    gint64 now = g_get_monotonic_time();
    double ms = (now - *start) / 1000.0;
    *start = now;
    return ms;
}

typedef struct {
    const char *name;
    bool disk, paused;
    /* When the source says SHUT(1): 0 = never (commit), 1 = before a byte was read, 2 = when the
     * destination had loaded. */
    int fail_at;
    /* The source's engine dies then and another continues: with the stream, or (rollback)
     * without. */
    bool new_engine;
    bool offered; /* stop and save in one go, on a stream that QEMU was offered before */
} Case;

static const Case cases[] = {
    {"commit", false, false, 0},
    {"commit-disk", true, false, 0},
    {"commit-paused", false, true, 0},
    {"rollback-early", false, false, 1},
    {"rollback-loaded", false, false, 2},
    {"rollback-disk", true, false, 2},
    {"rollback-paused", false, true, 1},
    {"commit-new-engine", false, false, 0, true},
    {"rollback-new-engine", true, false, 1, true},
    {"commit-offered", true, false, 0, .offered = true},
    {"rollback-offered", false, false, 1, .offered = true},
    {"rollback-offered-loaded", true, false, 2, .offered = true},
    {"rollback-offered-new-engine", false, false, 1, true, .offered = true},
};

static void assert_frozen(End *e)
{
    g_autofree char *refused = qmp_error(vm_qmp(e->vm), "cont", NULL);
    g_assert_cmpstr(refused, ==, "Migration is not finalized yet");
    assert_state(e, "finish-migrate");
}

static void assert_restored(End *e, const char *before)
{
    g_autofree char *after = settings(e);
    g_assert_cmpstr(after, ==, before);
    g_assert_cmpuint(e->state->undo_len, ==, 0);
    g_assert_null(ff_qemu_view_capabilities(e->qemu));
}

static void assert_guest_right(Pair *p, End *e)
{
    g_autofree char *wrong = NULL;
    qmp_ok(vm_qmp(e->vm), "stop", NULL);
    wrong = check_counters(e->vm, &p->boot);
    if (wrong) {
        g_test_fail_printf("%s", wrong);
    }
}

static void commit(Pair *p, const Case *c, int out, const char *run_state, const char *before_s,
                   const char *before_d)
{
    gint64 t = g_get_monotonic_time();
    bool running;

    OK(p->d.vmm->run.resume(&p->d.vmm->run, run_state, true, &running, &error));
    g_test_message("cont: %.2f ms", since_ms(&t));
    g_assert_cmpint(running, ==, !c->paused);
    assert_frozen(&p->s);
    if (running) {
        vm_wait_new_serial(p->d.vm, "B");
    }
    if (c->new_engine) {
        end_new_vmm(&p->s);
        ff_qemu_adopt_stream(p->s.qemu, fcntl(out, F_DUPFD_CLOEXEC, 3));
    }
    since_ms(&t);
    send_shut(out, 0);
    OK(p->s.vmm->state.wait_saved(&p->s.vmm->state, 0, &error));
    g_test_message("SHUT(0) to postmigrate: %.2f ms", since_ms(&t));
    assert_state(&p->s, "postmigrate");
    OK(p->s.vmm->state.undo(&p->s.vmm->state, &error));
    OK(p->d.vmm->state.undo(&p->d.vmm->state, &error));
    OK(p->s.vmm->state.undo(&p->s.vmm->state, &error));
    assert_restored(&p->s, before_s);
    assert_restored(&p->d, before_d);
    assert_guest_right(p, &p->d);
}

static bool is_completed(JsonObject *data, const void *opaque)
{
    return strcmp(json_object_get_string_member(data, "status"), "completed") == 0;
}

/* What x-ignore-shared left on would break: QEMU's own migration takes the RAM with it. */
static void assert_native_whole(End *e)
{
    Qmp *q = vm_qmp(e->vm);
    g_autoptr(JsonObject) info = NULL;

    qmp_set_capability(q, "events", true);
    qmp_set_capability(q, "pause-before-switchover", false);
    qmp_ok(q, "migrate-set-parameters", "{'max-bandwidth': 1000000000}");
    qmp_ok(q, "migrate", "{'uri': 'exec:cat > /dev/null'}");
    /* Not the harness's own wait: the failure of the inner migration is still in its queue. */
    json_object_unref(qmp_wait_event(q, "MIGRATION", is_completed, NULL, TEST_TIMEOUT));
    info = qmp_return(q, "query-migrate", NULL);
    /* The guest has written to 15 MiB. */
    g_assert_cmpint(
        json_object_get_int_member(json_object_get_object_member(info, "ram"), "transferred"), >,
        15 << 20);
}

static void roll_back(Pair *p, const Case *c, int out, const char *run_state, const char *before_s)
{
    bool running;

    p->d.vmm->state.abandon(&p->d.vmm->state);
    /* A QEMU that has loaded everything can only be told to quit. */
    g_assert_cmpint(vm_wait_exit(p->d.vm), ==, c->fail_at == 2 ? 0 : 1);
    if (c->new_engine) {
        end_new_vmm(&p->s);
        close(out);
    } else {
        send_shut(out, 1);
    }
    /* What made the migration fail must not end this. */
    g_cancellable_cancel(p->s.config.cancel);
    OK(p->s.vmm->state.wait_saved(&p->s.vmm->state, 1, &error));
    OK(p->s.vmm->state.undo(&p->s.vmm->state, &error));
    OK(p->s.vmm->run.resume(&p->s.vmm->run, run_state, true, &running, &error));
    p->s.vmm->run.announce(&p->s.vmm->run);
    g_assert_cmpint(running, ==, !c->paused);
    assert_restored(&p->s, before_s);
    if (c->paused) {
        qmp_ok(vm_qmp(p->s.vm), "cont", NULL);
    }
    vm_wait_new_serial(p->s.vm, "B");
    if (c->disk) {
        /* The image is locked and open for writing again. */
        g_assert_true(is_locked(p));
        qmp_ok(vm_qmp(p->s.vm), "block_resize", "{'node-name': 'q', 'size': 33554432}");
    }
    assert_guest_right(p, &p->s);
    assert_native_whole(&p->s);
}

static void test_switchover(const void *data)
{
    const Case *c = data;
    g_autofree char *before_s = NULL;
    g_autofree char *before_d = NULL;
    g_autofree char *run_state = NULL;
    Pair p = {0};
    int out, in = -1;
    gint64 t;
    size_t size = 0;

    pair_open(&p);
    if (c->disk) {
        make_disk(&p);
    }
    end_start(&p, &p.s, "source", NULL, false, NULL);
    end_start(&p, &p.d, "destination", "defer", false, NULL);
    vm_wait_serial(p.s.vm, "AB");
    client_settings(&p.s);
    client_settings(&p.d);
    before_s = settings(&p.s);
    before_d = settings(&p.d);
    if (c->paused) {
        qmp_ok(vm_qmp(p.s.vm), "stop", NULL);
    }
    check_both(&p);
    if (c->offered) {
        OK(p.s.vmm->state.offer(&p.s.vmm->state, &out, &error));
    }
    t = g_get_monotonic_time();
    OK(c->offered ? p.s.vmm->state.stop_and_save(&p.s.vmm->state, &run_state, &error)
                  : p.s.vmm->run.stop(&p.s.vmm->run, &run_state, &error));
    g_test_message("stop: %.2f ms", since_ms(&t));
    g_assert_cmpstr(run_state, ==, c->paused ? "paused" : "running");
    copy_ram(&p);
    since_ms(&t);
    if (!c->offered) {
        OK(p.s.vmm->state.save(&p.s.vmm->state, &out, &error));
        g_test_message("save: %.2f ms", since_ms(&t));
    }
    if (c->fail_at != 1) {
        OK(p.d.vmm->state.load(&p.d.vmm->state, &in, &error));
        g_test_message("load: %.2f ms", since_ms(&t));
        size = pump(out, in);
        g_test_message("blob: %zu bytes in %.2f ms", size, since_ms(&t));
        /* Without the RAM: some hundred KiB. */
        g_assert_cmpuint(size, <, RAM / 8);
        assert_state(&p.d, "paused");
        if (c->disk) {
            /* Given up by the source, not yet taken by the destination. */
            g_assert_false(is_locked(&p));
        }
        assert_frozen(&p.s);
    }
    if (c->fail_at) {
        roll_back(&p, c, out, run_state, before_s);
    } else {
        commit(&p, c, out, run_state, before_s, before_d);
    }
    if (!c->fail_at || !c->new_engine) {
        close(out);
    }
    if (in >= 0) {
        close(in);
    }
    pair_close(&p);
}

/* An engine dies after prepare(): the next one, which knows nothing but the state, undoes it. */
static void test_adopt_log(void)
{
    g_autofree char *before = NULL;
    g_autofree char *changed = NULL;
    Pair p = {0};

    pair_open(&p);
    end_start(&p, &p.s, "source", NULL, true, NULL);
    client_settings(&p.s);
    before = settings(&p.s);
    OK(p.s.vmm->state.prepare(&p.s.vmm->state, FF_ROLE_SOURCE, &error));
    changed = settings(&p.s);
    g_assert_cmpstr(changed, !=, before);
    end_new_vmm(&p.s);
    OK(p.s.vmm->state.prepare(&p.s.vmm->state, FF_ROLE_SOURCE, &error));
    end_new_vmm(&p.s);
    OK(p.s.vmm->state.undo(&p.s.vmm->state, &error));
    assert_restored(&p.s, before);
    pair_close(&p);
}

static bool view_capability(End *e, const char *name)
{
    g_autoptr(JsonNode) view = ff_qemu_view_capabilities(e->qemu);
    JsonArray *list = json_node_get_array(view);

    for (guint i = 0; i < json_array_get_length(list); i++) {
        JsonObject *c = json_array_get_object_element(list, i);
        if (strcmp(json_object_get_string_member(c, "capability"), name) == 0) {
            return json_object_get_boolean_member(c, "state");
        }
    }
    g_assert_not_reached();
}

/* Before the guest runs again QEMU has what its client has set, however long it takes until all is
 * undone. What somebody has set at a monitor of QEMU's own, and would leave the guest's memory out,
 * it has not. */
static void test_put_back(void)
{
    g_autofree char *run_state = NULL;
    bool running;
    Pair p = {0};
    int out;

    pair_open(&p);
    end_start(&p, &p.s, "source", NULL, true, NULL);
    client_settings(&p.s);
    qmp_set_capability(vm_qmp(p.s.vm), "events", true); /* waited for until the end */
    g_autofree char *before = settings(&p.s);
    qmp_set_capability(vm_qmp(p.s.vm), "x-ignore-shared", true);
    OK(p.s.vmm->state.prepare(&p.s.vmm->state, FF_ROLE_SOURCE, &error));
    OK(p.s.vmm->state.offer(&p.s.vmm->state, &out, &error));
    OK(p.s.vmm->state.stop_and_save(&p.s.vmm->state, &run_state, &error));
    send_shut(out, 1);
    OK(p.s.vmm->state.wait_saved(&p.s.vmm->state, 1, &error));
    close(out);
    OK(p.s.vmm->run.resume(&p.s.vmm->run, run_state, true, &running, &error));
    g_assert_cmpuint(p.s.state->undo_len, >, 0);
    g_autofree char *resumed = settings(&p.s);
    g_assert_cmpstr(resumed, ==, before);
    OK(p.s.vmm->state.undo(&p.s.vmm->state, &error));
    assert_restored(&p.s, before);
    pair_close(&p);
}

static void set_parameter(End *e, const char *name, const char *json, const char *refused)
{
    g_autoptr(JsonNode) value = json_from_string(json, NULL);
    g_autoptr(GError) error = NULL;
    bool done = ff_qemu_view_set_parameter(e->qemu, name, value, &error);

    g_assert_cmpint(done, ==, refused == NULL);
    g_assert_cmpstr(error ? error->message : NULL, ==, refused);
}

/* What the client reads and sets meanwhile, QEMU gets in the end. */
static void test_view(void)
{
    g_autofree char *before = NULL;
    g_autofree char *after = NULL;
    g_autoptr(JsonNode) view = NULL;
    g_autoptr(GError) refused = NULL;
    Pair p = {0};

    pair_open(&p);
    end_start(&p, &p.s, "source", NULL, true, NULL);
    client_settings(&p.s);
    g_assert_null(ff_qemu_view_parameters(p.s.qemu));
    OK(p.s.vmm->state.prepare(&p.s.vmm->state, FF_ROLE_SOURCE, &error));
    g_assert_true(view_capability(&p.s, "xbzrle"));
    g_assert_false(view_capability(&p.s, "x-ignore-shared"));
    OK(ff_qemu_view_set_capability(p.s.qemu, "xbzrle", false, &error));
    OK(ff_qemu_view_set_capability(p.s.qemu, "auto-converge", true, &error));
    g_assert_false(view_capability(&p.s, "xbzrle"));
    g_assert_true(view_capability(&p.s, "auto-converge"));
    g_assert_false(ff_qemu_view_set_capability(p.s.qemu, "no-such", true, &refused));
    g_assert_cmpstr(refused->message, ==, "Parameter 'capability' does not accept value 'no-such'");
    set_parameter(&p.s, "max-bandwidth", "777", NULL);
    set_parameter(&p.s, "tls-creds", "null", NULL);
    set_parameter(&p.s, "no-such", "777", "Parameter 'no-such' is unexpected");
    set_parameter(&p.s, "max-bandwidth", "\"fast\"",
                  "Invalid parameter type for 'max-bandwidth', expected: integer");
    view = ff_qemu_view_parameters(p.s.qemu);
    g_assert_cmpint(json_object_get_int_member(json_node_get_object(view), "max-bandwidth"), ==,
                    777);
    g_assert_cmpint(json_object_get_int_member(json_node_get_object(view), "downtime-limit"), ==,
                    20);
    OK(p.s.vmm->state.undo(&p.s.vmm->state, &error));
    after = settings(&p.s);
    qmp_set_capability(vm_qmp(p.s.vm), "xbzrle", false);
    qmp_set_capability(vm_qmp(p.s.vm), "auto-converge", true);
    qmp_ok(vm_qmp(p.s.vm), "migrate-set-parameters", "{'max-bandwidth': 777}");
    before = settings(&p.s);
    g_assert_cmpstr(after, ==, before);
    pair_close(&p);
}

/* The log grows to its end: refused in words, and what was before still stands. */
static void test_log_full(void)
{
    g_autoptr(GError) full = NULL;
    Pair p = {0};
    int i = 0;

    pair_open(&p);
    end_start(&p, &p.s, "source", NULL, true, NULL);
    OK(p.s.vmm->state.prepare(&p.s.vmm->state, FF_ROLE_SOURCE, &error));
    g_assert_cmpuint(p.s.state->undo_len, <, FF_STATE_UNDO_MAX / 8);
    while (!full) {
        g_autofree char *text = g_strnfill(20000, 'a' + i++);
        g_autoptr(JsonNode) value = json_node_init_string(json_node_alloc(), text);
        g_assert_cmpint(i, <, 10);
        ff_qemu_view_set_parameter(p.s.qemu, "tls-hostname", value, &full);
    }
    g_assert_error(full, G_IO_ERROR, G_IO_ERROR_NO_SPACE);
    g_assert_cmpuint(p.s.state->undo_len, <=, FF_STATE_UNDO_MAX);
    OK(p.s.vmm->state.undo(&p.s.vmm->state, &error));
    g_assert_cmpuint(p.s.state->undo_len, ==, 0);
    pair_close(&p);
}

typedef struct {
    const char *name;
    const char *args[8];
    const char *part; /* of the error */
    const char *incoming;
    FfRole role;
    FfGuestFit fit; /* 0: FF_GUEST_REFUSED */
} Refusal;

static const Refusal refusals[] = {
    {"shared-backend",
     {"-object", "memory-backend-memfd,id=other,size=2M,share=on"},
     "memory backend \"other\" (2 MiB, shared) was not made by farfault",
     NULL,
     FF_ROLE_SOURCE},
    {"blocker",
     {"-device", "nvme,serial=x"},
     "QEMU cannot migrate this guest",
     NULL,
     FF_ROLE_SOURCE},
    {"not-incoming",
     {NULL},
     "start QEMU with -incoming defer",
     NULL,
     FF_ROLE_DESTINATION,
     FF_GUEST_OCCUPIED},
    {"inmigrate",
     {NULL},
     "a guest that is \"inmigrate\" cannot be migrated",
     "defer",
     FF_ROLE_SOURCE},
};

static void test_refusal(const void *data)
{
    const Refusal *r = data;
    g_autoptr(GError) error = NULL;
    GPtrArray *blocks;
    uint8_t uuid[16];
    Pair p = {0};

    pair_open(&p);
    end_start(&p, &p.s, "source", r->incoming, true, r->args);
    g_assert_cmpint(p.s.vmm->memory.check(&p.s.vmm->memory, r->role, &blocks, uuid, &error), ==,
                    r->fit ? r->fit : FF_GUEST_REFUSED);
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, r->part));
    g_assert_null(strchr(error->message, '\n'));
    pair_close(&p);
}

/* A guest in S3, put there by its ACPI register. A QEMU that keeps it asleep over a migration moves
 * it; one that would wake it is not asked to. */
static void test_suspended(void)
{
    g_autofree char *run_state = NULL;
    g_autoptr(GError) refused = NULL;
    GPtrArray *blocks;
    uint8_t uuid[16];
    bool running;
    Pair p = {0};
    int out, in;

    pair_open(&p);
    end_start(&p, &p.s, "source", NULL, false, NULL);
    end_start(&p, &p.d, "destination", "defer", false, NULL);
    vm_wait_serial(p.s.vm, "AB");
    g_free(qmp_hmp(vm_qmp(p.s.vm), "o/h 0x604 0x2400"));
    qmp_expect(vm_qmp(p.s.vm), "SUSPEND");
    assert_state(&p.s, "suspended");
    OK(ff_qmp_client_wait_ready(p.s.client, 0, NULL, &error));
    if (ff_qmp_client_version(p.s.client) < 90000) {
        g_assert_cmpint(
            p.s.vmm->memory.check(&p.s.vmm->memory, FF_ROLE_SOURCE, &blocks, uuid, &refused), ==,
            FF_GUEST_REFUSED);
        g_assert_nonnull(strstr(refused->message, "system_wakeup"));
        assert_state(&p.s, "suspended");
        pair_close(&p);
        return;
    }
    check_both(&p);
    OK(p.s.vmm->run.stop(&p.s.vmm->run, &run_state, &error));
    g_assert_cmpstr(run_state, ==, "suspended");
    copy_ram(&p);
    OK(p.s.vmm->state.save(&p.s.vmm->state, &out, &error));
    OK(p.d.vmm->state.load(&p.d.vmm->state, &in, &error));
    pump(out, in);
    OK(p.d.vmm->run.resume(&p.d.vmm->run, run_state, true, &running, &error));
    g_assert_true(running);
    assert_state(&p.d, "suspended");
    send_shut(out, 0);
    OK(p.s.vmm->state.wait_saved(&p.s.vmm->state, 0, &error));
    qmp_ok(vm_qmp(p.d.vm), "system_wakeup", NULL);
    qmp_expect(vm_qmp(p.d.vm), "WAKEUP");
    assert_state(&p.d, "running");
    close(in);
    close(out);
    pair_close(&p);
}

static void test_identity(void)
{
    static const char *const args[] = {"-uuid", "11111111-2222-4333-8444-555555555555", "-smp", "3",
                                       NULL};
    static const uint8_t expected[16] = {0x11, 0x11, 0x11, 0x11, 0x22, 0x22, 0x43, 0x33,
                                         0x84, 0x44, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55};
    g_autoptr(GArray) threads = NULL;
    GPtrArray *blocks;
    uint8_t uuid[16];
    Pair p = {0};

    pair_open(&p);
    end_start(&p, &p.s, "source", NULL, true, args);
    OK(p.s.vmm->memory.check(&p.s.vmm->memory, FF_ROLE_SOURCE, &blocks, uuid, &error) ==
       FF_GUEST_FITS);
    g_assert_cmpmem(uuid, 16, expected, 16);
    threads = p.s.vmm->run.vcpu_threads(&p.s.vmm->run);
    g_assert_cmpuint(threads->len, ==, 3);
    for (unsigned i = 0; i < 3; i++) {
        g_autofree char *path = g_strdup_printf("/proc/%d/task/%d/comm", vm_pid(p.s.vm),
                                                g_array_index(threads, int32_t, i));
        g_autofree char *name = g_strdup_printf("CPU %u/TCG\n", i);
        g_autofree char *comm = NULL;
        g_assert_true(g_file_get_contents(path, &comm, NULL, NULL));
        g_assert_cmpstr(comm, ==, name);
    }
    pair_close(&p);
}

static void test_abandon_idle(void)
{
    Pair p = {0};

    pair_open(&p);
    end_start(&p, &p.d, "destination", "defer", false, NULL);
    /* With it QEMU takes no such stream. */
    qmp_set_capability(vm_qmp(p.d.vm), "multifd", true);
    p.d.vmm->state.abandon(&p.d.vmm->state);
    g_assert_cmpint(vm_wait_exit(p.d.vm), ==, 1);
    pair_close(&p);
}

typedef struct {
    GAsyncQueue *queue; /* the answer's text */
    int memfd;
    int64_t fdset;
} Plug;

static int make_ram(const FfPlanRam *ram, GError **error, void *opaque)
{
    int fd = memfd_create(ram->id, MFD_CLOEXEC);
    g_assert_cmpint(ftruncate(fd, ram->size), ==, 0);
    return fd;
}

static void plugged(const char *text, const FfPlanRam *ram, int memfd, int64_t fdset,
                    const GError *error, void *opaque)
{
    Plug *plug = opaque;

    g_assert_no_error(error);
    g_assert_cmpstr(ram->id, ==, "dimm-ram");
    g_assert_cmpuint(ram->size, ==, 128 << 20);
    plug->memfd = memfd;
    plug->fdset = fdset;
    g_async_queue_push(plug->queue, g_strdup(text));
}

static void remove_fd(FfQmpClient *qmp, int64_t fdset)
{
    g_autoptr(JsonObject) args = json_object_new();

    json_object_set_int_member(args, "fdset-id", fdset);
    ff_qmp_call(qmp, "remove-fd", args, NULL, 0, NULL, NULL);
}

/* Memory that is plugged in while the guest runs is ours, has its address, and can go again. */
static void test_hotplug(void)
{
    Plug plug = {.queue = g_async_queue_new_full(g_free)};
    FfObjectAdd ops = {
        .sys = ff_argv_system_real(), .make_ram = make_ram, .done = plugged, .opaque = &plug};
    g_autofree char *text = NULL;
    g_autofree char *sets = NULL;
    GPtrArray *blocks;
    uint8_t uuid[16];
    FfRamBlock *block;
    uint64_t seen = 0;
    Pair p = {0};

    pair_open(&p);
    end_start(&p, &p.s, "source", NULL, true, NULL);
    ff_qemu_object_add(p.s.client,
                       "{\"qom-type\": \"memory-backend-ram\", \"id\": \"dimm-ram\", "
                       "\"size\": 134217728}",
                       &ops);
    text = g_async_queue_pop(plug.queue);
    g_test_message("%s", text);
    for (char *c = text; *c; c++) {
        *c = *c == '"' ? '\'' : *c;
    }
    qmp_ok(vm_qmp(p.s.vm), "object-add", "%s", text);
    remove_fd(p.s.client, plug.fdset);
    qmp_ok(vm_qmp(p.s.vm), "device_add",
           "{'driver': 'pc-dimm', 'id': 'dimm0', 'memdev': 'dimm-ram'}");
    sets = qmp_hmp(vm_qmp(p.s.vm), "info mtree -f");
    g_assert_nonnull(strstr(sets, "dimm-ram"));

    block = g_new0(FfRamBlock, 1);
    *block =
        (FfRamBlock){.id = "dimm-ram", .size = 128 << 20, .page_size = 4096, .memfd = plug.memfd};
    g_ptr_array_add(p.s.ram, block);
    end_new_vmm(&p.s);
    OK(p.s.vmm->memory.check(&p.s.vmm->memory, FF_ROLE_SOURCE, &blocks, uuid, &error) ==
       FF_GUEST_FITS);
    g_assert_cmpuint(blocks->len, ==, 2);
    block = blocks->pdata[1];
    g_assert_cmpuint(block->gpa, ==, 4ull << 30);
    qtest_writeq(vm_qtest(p.s.vm), block->gpa + 4096, 0xfeed);
    g_assert_cmpint(pread(plug.memfd, &seen, sizeof(seen), 4096), ==, sizeof(seen));
    g_assert_cmpuint(seen, ==, 0xfeed);

    /* Unplugged, as a guest's ACPI code ejects it: slot 0 (selector), then "eject" (flags). */
    qmp_ok(vm_qmp(p.s.vm), "device_del", "{'id': 'dimm0'}");
    g_free(qmp_hmp(vm_qmp(p.s.vm), "o/w 0xa00 0"));
    g_free(qmp_hmp(vm_qmp(p.s.vm), "o/b 0xa14 8"));
    qmp_expect(vm_qmp(p.s.vm), "DEVICE_DELETED");
    qmp_ok(vm_qmp(p.s.vm), "object-del", "{'id': 'dimm-ram'}");
    g_ptr_array_set_size(p.s.ram, 1);
    end_new_vmm(&p.s);
    OK(p.s.vmm->memory.check(&p.s.vmm->memory, FF_ROLE_SOURCE, &blocks, uuid, &error) ==
       FF_GUEST_FITS);
    g_assert_cmpuint(blocks->len, ==, 1);
    pair_close(&p);
    close(plug.memfd);
    g_async_queue_unref(plug.queue);
}

/* A backend that is not plugged goes by object-del, and QEMU then holds nothing of it. */
static void test_hotplug_del(void)
{
    Plug plug = {.queue = g_async_queue_new_full(g_free)};
    FfObjectAdd ops = {
        .sys = ff_argv_system_real(), .make_ram = make_ram, .done = plugged, .opaque = &plug};
    g_autofree char *text = NULL;
    g_autofree char *line = NULL;
    g_autofree char *said = NULL;
    g_autofree char *maps = NULL;
    g_autofree char *path = NULL;
    Pair p = {0};

    pair_open(&p);
    end_start(&p, &p.s, "source", NULL, false, NULL);
    ff_qemu_object_add(p.s.client, "memory-backend-memfd,id=dimm-ram,size=128M,prealloc=off", &ops);
    text = g_async_queue_pop(plug.queue);
    g_test_message("%s", text);
    line = g_strconcat("object_add ", text, NULL);
    said = qmp_hmp(vm_qmp(p.s.vm), line);
    g_assert_cmpstr(said, ==, "");
    remove_fd(p.s.client, plug.fdset);
    qmp_ok(vm_qmp(p.s.vm), "object-del", "{'id': 'dimm-ram'}");
    {
        /* On the same connection as remove-fd: that is done then. */
        g_autoptr(GError) error = NULL;
        g_autoptr(JsonNode) node =
            ff_qmp_call_sync(p.s.client, "query-fdsets", NULL, NULL, 0, 0, NULL, &error);
        g_assert_no_error(error);
        g_assert_cmpuint(json_array_get_length(json_node_get_array(node)), ==, 0);
    }
    /* QEMU unmaps in an RCU callback; a device_add that fails waits for all of them. */
    g_free(qmp_error(vm_qmp(p.s.vm), "device_add", "{'driver': 'no-such-device'}"));
    path = g_strdup_printf("/proc/%d/maps", vm_pid(p.s.vm));
    g_assert_true(g_file_get_contents(path, &maps, NULL, NULL));
    g_assert_null(strstr(maps, "memfd:dimm-ram"));
    pair_close(&p);
    close(plug.memfd);
    g_async_queue_unref(plug.queue);
}

/* A stream that QEMU was offered and that comes to nothing: what ends one that was begun ends it
 * too, also for an engine that does not know. The next attempt is a good one. */
static void test_offer_dropped(const void *data)
{
    bool new_engine = GPOINTER_TO_INT(data), running;
    g_autofree char *run_state = NULL;
    Pair p = {0};
    int out;

    pair_open(&p);
    end_start(&p, &p.s, "source", NULL, false, NULL);
    vm_wait_serial(p.s.vm, "AB");
    g_autofree char *before = settings(&p.s);
    OK(p.s.vmm->state.prepare(&p.s.vmm->state, FF_ROLE_SOURCE, &error));
    OK(p.s.vmm->state.offer(&p.s.vmm->state, &out, &error));
    if (new_engine) {
        end_new_vmm(&p.s);
        ff_qemu_adopt_stream(p.s.qemu, dup(out));
    }
    OK(p.s.vmm->state.wait_saved(&p.s.vmm->state, 1, &error));
    close(out);
    OK(p.s.vmm->state.undo(&p.s.vmm->state, &error));
    assert_restored(&p.s, before);
    assert_state(&p.s, "running");

    OK(p.s.vmm->state.prepare(&p.s.vmm->state, FF_ROLE_SOURCE, &error));
    OK(p.s.vmm->state.offer(&p.s.vmm->state, &out, &error));
    OK(p.s.vmm->state.stop_and_save(&p.s.vmm->state, &run_state, &error));
    g_assert_cmpstr(run_state, ==, "running");
    send_shut(out, 1);
    OK(p.s.vmm->state.wait_saved(&p.s.vmm->state, 1, &error));
    close(out);
    OK(p.s.vmm->state.undo(&p.s.vmm->state, &error));
    OK(p.s.vmm->run.resume(&p.s.vmm->run, run_state, true, &running, &error));
    g_assert_true(running);
    vm_wait_new_serial(p.s.vm, "B");
    assert_guest_right(&p, &p.s);
    pair_close(&p);
}

/* QEMU refuses the inner migration after stop: the guest stands, and can continue. */
static void test_save_refused(void)
{
    g_autofree char *run_state = NULL;
    g_autoptr(GError) refused = NULL;
    bool running;
    Pair p = {0};
    int out;

    pair_open(&p);
    end_start(&p, &p.s, "source", NULL, false, NULL);
    vm_wait_serial(p.s.vm, "AB");
    OK(p.s.vmm->state.prepare(&p.s.vmm->state, FF_ROLE_SOURCE, &error));
    OK(p.s.vmm->state.offer(&p.s.vmm->state, &out, &error));
    /* It has the name no more. */
    g_autoptr(GError) none = NULL;
    g_autoptr(JsonObject) args = json_object_new();
    json_object_set_string_member(args, "fdname", "farfault-inner");
    g_autoptr(JsonNode) closed =
        ff_qmp_call_sync(p.s.client, "closefd", args, NULL, 0, 0, NULL, &none);
    g_assert_no_error(none);
    g_assert_false(p.s.vmm->state.stop_and_save(&p.s.vmm->state, &run_state, &refused));
    g_assert_nonnull(strstr(refused->message, "migrate: "));
    g_assert_cmpstr(run_state, ==, "running");
    assert_state(&p.s, "paused");
    g_clear_error(&refused);
    p.s.vmm->state.wait_saved(&p.s.vmm->state, 1, &refused);
    close(out);
    OK(p.s.vmm->state.undo(&p.s.vmm->state, &error));
    OK(p.s.vmm->run.resume(&p.s.vmm->run, run_state, true, &running, &error));
    g_assert_true(running);
    vm_wait_new_serial(p.s.vm, "B");
    pair_close(&p);
}

/* QEMU dies while its end of the migration is waited for: an error, no hang. */
static void test_death(void)
{
    g_autoptr(GError) died = NULL;
    g_autofree char *run_state = NULL;
    Pair p = {0};
    int out;

    pair_open(&p);
    end_start(&p, &p.s, "source", NULL, false, NULL);
    vm_wait_serial(p.s.vm, "AB");
    OK(p.s.vmm->state.prepare(&p.s.vmm->state, FF_ROLE_SOURCE, &error));
    OK(p.s.vmm->run.stop(&p.s.vmm->run, &run_state, &error));
    OK(p.s.vmm->state.save(&p.s.vmm->state, &out, &error));
    vm_kill(p.s.vm);
    g_assert_false(p.s.vmm->state.wait_saved(&p.s.vmm->state, 0, &died));
    g_assert_error(died, FF_QMP_ERROR, FF_QMP_ERROR_GONE);
    close(out);
    pair_close(&p);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strdup_printf("/inner/%s", cases[i].name);
        g_test_add_data_func(path, &cases[i], test_switchover);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(refusals); i++) {
        g_autofree char *path = g_strdup_printf("/inner/refuse/%s", refusals[i].name);
        g_test_add_data_func(path, &refusals[i], test_refusal);
    }
    g_test_add_func("/inner/adopt-log", test_adopt_log);
    g_test_add_func("/inner/view", test_view);
    g_test_add_func("/inner/put-back", test_put_back);
    g_test_add_func("/inner/log-full", test_log_full);
    g_test_add_func("/inner/identity", test_identity);
    g_test_add_func("/inner/abandon-idle", test_abandon_idle);
    g_test_add_func("/inner/death", test_death);
    g_test_add_data_func("/inner/offer-dropped", GINT_TO_POINTER(false), test_offer_dropped);
    g_test_add_data_func("/inner/offer-dropped/new-engine", GINT_TO_POINTER(true),
                         test_offer_dropped);
    g_test_add_func("/inner/save-refused", test_save_refused);
    g_test_add_func("/inner/suspended", test_suspended);
    g_test_add_func("/inner/hotplug", test_hotplug);
    g_test_add_func("/inner/hotplug-del", test_hotplug_del);
    return g_test_run();
}
