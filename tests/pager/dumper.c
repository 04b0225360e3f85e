/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See dumper.h. */
#include "tests/pager/dumper.h"

#include <arpa/inet.h>
#include <glib.h>
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

#include "tests/pager/client.h"
#include "tests/pager/lazy.h"

typedef struct {
    uint32_t command;
    uint64_t pages, addr, id;
} Frame;
G_STATIC_ASSERT(sizeof(Frame) == 32);

#define ADD_PRESENT (6 | 4 << 16)
#define GET 7
#define CLOSE 0x1023
#define MUCH 256u /* pages in one answer, at most */

typedef struct {
    DumperKind kind;
    unsigned n, answers;
    pid_t client;
    int sock, control;
    bool holds;
} Server;

/* Is the restored process there still? A zombie has no memory. */
static bool is_running(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", pid), *text = NULL;
    const char *state = NULL;

    if (g_file_get_contents(path, &text, NULL, NULL)) {
        state = strrchr(text, ')');
    }
    return state && !strchr("ZX", state[2]);
}

static G_GNUC_NORETURN void resume(const Server *s)
{
    _exit(is_running(s->client) ? DUMPER_TWO_COPIES : DUMPER_RESUMES);
}

static void send_all(const Server *s, const void *data, size_t len)
{
    if (send(s->sock, data, len, MSG_NOSIGNAL) != (ssize_t)len) {
        resume(s);
    }
}

static void fill(char *to, uint64_t addr, uint64_t pages)
{
    uint64_t *words = (uint64_t *)(void *)to;

    for (uint64_t i = 0; i < pages; i++) {
        for (unsigned k = 0; k < 512; k++) {
            *words++ = client_word((unsigned)((addr - LAZY_BASE) / 4096 + i), k);
        }
    }
}

static void hold(const Server *s)
{
    char byte = 'h';

    if (write(s->control, &byte, 1) != 1 || read(s->control, &byte, 1) != 1) {
        _exit(9);
    }
}

/* What it was asked for is read still, so that nobody hears of a reset. */
static G_GNUC_NORETURN void leave(const Server *s)
{
    char some[256];

    shutdown(s->sock, SHUT_WR);
    while (recv(s->sock, some, sizeof(some), 0) > 0) {
    }
    resume(s);
}

/* What is not as CRIU has it. */
static void be_bad(const Server *s, Frame *f, size_t *len)
{
    switch (s->kind) {
    case DUMPER_ENDS:
        leave(s);
    case DUMPER_CUTS:
        *len -= 100;
        break;
    case DUMPER_OTHER_ADDRESS:
        f->addr += 4096;
        break;
    case DUMPER_OTHER_PROCESS:
        f->id++;
        break;
    case DUMPER_OTHER_COMMAND:
        f->command = 6;
        break;
    case DUMPER_NO_PAGES:
        f->pages = 0;
        break;
    case DUMPER_TOO_MANY:
        f->pages++;
        break;
    default:
        break;
    }
}

static void give(Server *s, const Frame *asked)
{
    static char buf[MUCH * 4096];
    Frame f = *asked;

    f.pages = MIN(MIN(f.pages, lazy_run_at(f.addr)), MUCH);
    f.pages = s->kind == DUMPER_ONE_PAGE ? MIN(f.pages, 1) : f.pages;
    f.command = ADD_PRESENT;
    if (!f.pages) {
        resume(s); /* as for a page that was not dumped */
    }
    fill(buf, f.addr, f.pages);
    size_t len = f.pages * 4096;
    if (s->answers++ == s->n) {
        if (s->holds) {
            hold(s);
        }
        be_bad(s, &f, &len);
    }
    send_all(s, &f, sizeof(f));
    send_all(s, buf, len);
    if (s->answers == s->n + 1 && s->kind == DUMPER_CUTS) {
        leave(s);
    }
    if (s->answers > s->n && s->kind == DUMPER_UNASKED) {
        send_all(s, &f, sizeof(f));
    }
}

static G_GNUC_NORETURN void finish(const Server *s)
{
    int32_t status = s->kind == DUMPER_BAD_STATUS ? -1 : 0;
    char byte;

    if (s->holds && s->answers <= s->n) {
        hold(s);
    }
    if (s->kind == DUMPER_NO_STATUS) {
        close(s->sock);
        _exit(DUMPER_RESUMES);
    }
    send_all(s, &status, sizeof(status));
    if (read(s->sock, &byte, 1) != 0) {
        resume(s);
    }
    _exit(DUMPER_KILLS);
}

static G_GNUC_NORETURN void serve(Server *s)
{
    for (;;) {
        Frame f;
        ssize_t n = recv(s->sock, &f, sizeof(f), MSG_WAITALL);
        if (n == 0) {
            _exit(DUMPER_KILLS); /* CRIU takes this for the end */
        }
        if (n != sizeof(f)) {
            resume(s);
        }
        if (f.command == CLOSE) {
            finish(s);
        }
        if (f.command != GET || f.id > INT32_MAX) {
            resume(s);
        }
        give(s, &f);
    }
}

Dumper dumper_start(DumperKind kind, unsigned n, bool holds, pid_t client)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof(addr);
    int ends[2], listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    Dumper d;

    g_assert_cmpint(bind(listener, (struct sockaddr *)&addr, len), ==, 0);
    g_assert_cmpint(listen(listener, 1), ==, 0);
    g_assert_cmpint(getsockname(listener, (struct sockaddr *)&addr, &len), ==, 0);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), ==, 0);
    d.pid = fork();
    if (d.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(ends[0]);
        Server s = {.kind = kind, .n = n, .client = client, .holds = holds, .control = ends[1]};
        s.sock = accept(listener, NULL, NULL);
        close(listener); /* there is no second connection */
        serve(&s);
    }
    close(listener);
    close(ends[1]);
    d.control = ends[0];
    d.port = ntohs(addr.sin_port);
    d.option = g_strdup_printf("--page-server=127.0.0.1:%u", d.port);
    return d;
}

void dumper_wait_held(const Dumper *d)
{
    char byte;

    g_assert_cmpint(read(d->control, &byte, 1), ==, 1);
}

void dumper_go_on(const Dumper *d)
{
    g_assert_cmpint(write(d->control, "g", 1), ==, 1);
}

int dumper_wait(Dumper *d)
{
    int status;

    g_assert_cmpint(waitpid(d->pid, &status, 0), ==, d->pid);
    g_assert_true(WIFEXITED(status));
    close(d->control);
    g_free(d->option);
    return WEXITSTATUS(status);
}
