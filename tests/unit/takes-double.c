/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A stand-in for QEMU, for test-takes.c: does what FF_DOUBLE says, and counts in the file FF_RUNS
 * how often it was started. Its fd 3 is the socket of the private monitor.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void answer(void)
{
    static const char answers[] = "{\"QMP\": {}}\n{\"return\": {}}\n{\"return\": {}}\n";
    char buf[4096];
    size_t got = 0;
    ssize_t n;
    int fd = accept(3, NULL, NULL);

    while ((n = read(fd, buf + got, sizeof(buf) - 1 - got)) > 0) {
        got += (size_t)n;
        buf[got] = 0;
        if (strstr(buf, "\"quit\"")) {
            break;
        }
    }
    if (write(fd, answers, strlen(answers)) < 0) {
        _exit(9);
    }
}

int main(void)
{
    const char *what = getenv("FF_DOUBLE");
    int runs = open(getenv("FF_RUNS"), O_WRONLY | O_CREAT | O_APPEND, 0600);

    if (write(runs, "x", 1) != 1) {
        return 9;
    }
    if (!strcmp(what, "takes")) {
        answer();
        return 0;
    }
    if (!strcmp(what, "aborts")) {
        raise(SIGABRT);
    }
    if (!strcmp(what, "is killed")) {
        raise(SIGKILL);
    }
    if (!strcmp(what, "refuses")) {
        fprintf(stderr, "double: warning: something\ndouble: -object x: no such thing\n");
    }
    return strcmp(what, "is no QEMU") != 0;
}
