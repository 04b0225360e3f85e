/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A double of the relay for the launcher's tests: it checks what it was handed, and reports.
 *
 * It stands where farfault-relay would (a tree of its own is made for each test, so nothing in
 * the launcher knows of it). It connects to QEMU's private monitor, waits for the greeting (the
 * guest's RAM is mapped then), takes all hand-overs of the agent that came until then, registers
 * a page of guest RAM with a userfaultfd of the last one, and writes one JSON line to the FIFO
 * FF_TEST_REPORT. Then it waits for one byte on the FIFO FF_TEST_GO and makes QEMU quit.
 * FF_TEST_DIE: end before being ready.
 *
 * Threads: one.
 */
#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <json-glib/json-glib.h>
#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "contract/discards.h"
#include "guest/agent/agent.h"

typedef struct {
    int hellos;
    FfAgentHello last;
    int fds[FF_AGENT_MAX_FDS];
    int n_fds;
} HandOver;

/* Takes one message. Returns FALSE when there is none, or the other end is closed. */
static bool take_hello(int sock, HandOver *h)
{
    FfAgentHello hello;
    union {
        char buf[CMSG_SPACE(sizeof(h->fds))];
        struct cmsghdr align;
    } control;
    struct iovec iov = {.iov_base = &hello, .iov_len = sizeof(hello)};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.buf,
                         .msg_controllen = sizeof(control.buf)};
    if (recvmsg(sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != sizeof(hello)) {
        return false;
    }
    g_assert_cmpuint(hello.magic, ==, FF_AGENT_MAGIC);
    g_assert_cmpuint(hello.version, ==, FF_AGENT_VERSION);
    for (int i = 0; i < h->n_fds; i++) {
        close(h->fds[i]);
    }
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
    h->n_fds = cmsg ? (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int) : 0;
    if (cmsg) {
        memcpy(h->fds, CMSG_DATA(cmsg), sizeof(int) * h->n_fds);
    }
    h->last = hello;
    h->hellos++;
    return true;
}

/* Registers the first page of the guest's RAM, found through MAPS. Returns 0 or an errno. */
static int try_register(int maps, int uffd)
{
    g_autoptr(GString) text = g_string_new(NULL);
    char buf[4096];
    ssize_t n;
    while ((n = read(maps, buf, sizeof(buf))) > 0) {
        g_string_append_len(text, buf, n);
    }
    g_auto(GStrv) lines = g_strsplit(text->str, "\n", -1);
    unsigned long start = 0;
    for (char **line = lines; *line && !start; line++) {
        /* A memfd, or an unnamed file of a tmpfs; nothing else of QEMU is shared and deleted, but
         * for what arms the hook. */
        if (strstr(*line, " rw-s ") && g_str_has_suffix(*line, "(deleted)") &&
            !strstr(*line, "/memfd:" FF_DISCARDS_NAME)) {
            start = strtoul(*line, NULL, 16);
        }
    }
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register reg = {.range = {.start = start, .len = 4096},
                                  .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (!start) {
        return ENOENT;
    }
    if (ioctl(uffd, UFFDIO_API, &api) < 0 || ioctl(uffd, UFFDIO_REGISTER, &reg) < 0) {
        return errno;
    }
    return ioctl(uffd, UFFDIO_UNREGISTER, &reg.range) < 0 ? errno : 0;
}

static int connect_to_inode(int path_fd)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    g_snprintf(addr.sun_path, sizeof(addr.sun_path), "/proc/self/fd/%d", path_fd);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        return -errno;
    }
    return fd;
}

static char *read_line(int fd)
{
    g_autoptr(GString) line = g_string_new(NULL);
    char c;
    while (read(fd, &c, 1) == 1 && c != '\n') {
        if (c != '\r') {
            g_string_append_c(line, c);
        }
    }
    return g_string_free(g_steal_pointer(&line), false);
}

static void say(int fd, const char *line)
{
    g_assert_cmpint(write(fd, line, strlen(line)), ==, (ssize_t)strlen(line));
}

static JsonObject *read_plan(JsonParser *parser, const char *fd)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%s", fd);
    g_autoptr(GError) error = NULL;
    json_parser_load_from_file(parser, path, &error);
    g_assert_no_error(error);
    return json_node_get_object(json_parser_get_root(parser));
}

static void report(JsonObject *plan, const HandOver *h, int registered, const char *greeting)
{
    json_object_set_int_member(plan, "test-hellos", h->hellos);
    json_object_set_int_member(plan, "test-pid", h->last.pid);
    for (int i = 0; i < FF_KINDS; i++) {
        static const char *const kinds[] = FF_KIND_NAMES;
        g_autofree char *error = g_strdup_printf("test-%s-errno", kinds[i]);
        g_autofree char *kept = g_strdup_printf("test-%s-kept", kinds[i]);
        json_object_set_int_member(plan, error, h->last.error[i]);
        json_object_set_int_member(plan, kept, h->last.kept[i]);
    }
    json_object_set_int_member(plan, "test-n-fds", h->n_fds);
    json_object_set_int_member(plan, "test-register", registered);
    json_object_set_string_member(plan, "test-greeting", greeting);
    json_object_set_int_member(plan, "test-uid", getuid());
    json_object_set_int_member(plan, "test-relay-pid", getpid());
    json_object_set_int_member(plan, "test-sid", getsid(0));
    json_object_set_int_member(plan, "test-ppid", getppid());
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);
    json_node_set_object(node, plan);
    g_autofree char *text = json_to_string(node, false);
    int fd = open(g_getenv("FF_TEST_REPORT"), O_WRONLY | O_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    say(fd, text);
    say(fd, "\n");
    close(fd);
}

int main(int argc, char **argv)
{
    g_assert_cmpint(argc, >=, 2); /* the third is the guest's name */
    if (g_getenv("FF_TEST_DIE")) {
        return 1;
    }
    g_autoptr(JsonParser) parser = json_parser_new();
    JsonObject *plan = read_plan(parser, argv[1]);
    int ready = json_object_get_int_member(plan, "ready-fd");
    int agent = json_object_get_int_member(plan, "agent-fd");
    say(ready, "1");
    close(ready);

    int mon = connect_to_inode(json_object_get_int_member(plan, "qemu-monitor"));
    g_assert_cmpint(mon, >=, 0);
    g_autofree char *greeting = read_line(mon);
    HandOver h = {0};
    while (agent >= 0 && take_hello(agent, &h)) {
    }
    int registered = ENODEV;
    if (h.n_fds == FF_AGENT_MAX_FDS) {
        registered =
            try_register(h.fds[FF_AGENT_FD_MAPS], h.fds[FF_AGENT_FD_UFFDS + FF_KIND_MISSING]);
    }
    report(plan, &h, registered, greeting);

    int go = open(g_getenv("FF_TEST_GO"), O_RDONLY | O_CLOEXEC);
    char byte;
    if (go >= 0 && read(go, &byte, 1) == 1) {
        say(mon, "{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"quit\"}\n");
        while (read(mon, &byte, 1) == 1) {
        }
    }
    return 0;
}
