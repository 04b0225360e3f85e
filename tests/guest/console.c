/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See console.h. */
#include "console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

void console_line(const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text - 1, format, args);
    va_end(args);
    if (n < 0)
        return;
    if (n > (int)sizeof text - 2)
        n = sizeof text - 2;
    text[n++] = '\n';
    for (int done = 0; done < n;) {
        ssize_t w = write(STDOUT_FILENO, text + done, n - done);
        if (w < 0 && errno != EINTR && errno != EAGAIN)
            return;
        done += w > 0 ? w : 0;
    }
}

void console_durations(const Durations *all)
{
    char text[900], *p = text;
    for (unsigned b = 0; b < DURATIONS_BUCKETS; b++) {
        if (all->bucket[b])
            p += sprintf(p, "%s%u:%u", p == text ? "" : ",", b, all->bucket[b]);
        if (p > text + sizeof text - 24 || (p > text && b == DURATIONS_BUCKETS - 1)) {
            console_line("FF waits hist=%s", text);
            p = text;
        }
    }
}

void console_begin(void (*option)(char *word))
{
    mkdir("/proc", 0755);
    mkdir("/dev", 0755);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    int console = open("/dev/console", O_RDWR);
    if (console >= 0) {
        for (int fd = 0; fd < 3; fd++)
            dup2(console, fd);
        struct termios t;
        if (!tcgetattr(STDIN_FILENO, &t)) {
            /* Keys come one by one, and are not echoed into the lines. */
            t.c_lflag &= ~(ICANON | ECHO);
            tcsetattr(STDIN_FILENO, TCSANOW, &t);
        }
    }
    char text[4096] = "";
    int fd = open("/proc/cmdline", O_RDONLY);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : 0;
    text[n > 0 ? n : 0] = 0;
    for (char *save, *word = strtok_r(text, " \n", &save); word;
         word = strtok_r(NULL, " \n", &save))
        option(word);
}

double console_now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

void console_serve(double every_ms, void (*report)(double seconds), void (*serve_key)(char key))
{
    double every = every_ms * 1e3, start = console_now_us(), next = start + every;
    struct pollfd console = {.fd = STDIN_FILENO, .events = POLLIN};
    for (;;) {
        double left = next - console_now_us();
        if (left <= 0) {
            report((next - start) / 1e6);
            /* A guest that was stopped for long does not catch up on lines. */
            next += left < -every ? every * (uint64_t)(1 - left / every) : every;
            continue;
        }
        if (poll(&console, 1, (int)(left / 1e3) + 1) <= 0)
            continue;
        char key;
        ssize_t n = read(STDIN_FILENO, &key, 1);
        if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
            console.fd = -1;
        else if (n == 1)
            serve_key(key);
    }
}
