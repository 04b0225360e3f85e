/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A buffered byte stream with deadlines, for the test clients of sockets (QMP, qtest, serial).
 * Waiting is poll(2), never a timer. What does not come in time fails the test, by name.
 */
#ifndef FF_TESTS_STREAM_H
#define FF_TESTS_STREAM_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* Seconds that anything which must happen may take; generous, as machines are shared. */
#define TEST_TIMEOUT 120

/* Ends the test program with one line; before that the hook (vm.c) shows what the VMs said. */
G_NORETURN void test_fail(const char *format, ...) G_GNUC_PRINTF(1, 2);
extern void (*test_fail_hook)(void);

/* So many times as long as on a usual machine all takes: FF_TEST_SLOWER, or 1. */
unsigned test_slower(void);
/* An absolute deadline on the monotonic clock, SECONDS (times test_slower()) from now;
 * microseconds. */
int64_t test_deadline(unsigned seconds);
/* Waits until FD is readable. Returns false at the deadline. */
bool test_wait_readable(int fd, int64_t deadline);

typedef struct Stream Stream;
/* Owns FD. LABEL is what error messages call it. */
Stream *stream_new(int fd, const char *label);
void stream_free(Stream *s);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Stream, stream_free)
int stream_fd(const Stream *s);
/* Sends all of DATA; the fds go with its first byte. */
void stream_send(Stream *s, const void *data, size_t length, const int *fds, unsigned n_fds);
/* The next line without its end (\n or \r\n); NULL at the end of the stream. WHAT is named when
 * it does not come in time. */
char *stream_read_line(Stream *s, const char *what, int64_t deadline);
/* As above, but NULL at the deadline too, with *TIMED_OUT set. */
char *stream_try_line(Stream *s, bool *timed_out, int64_t deadline);
/* Waits until TEXT has come; everything up to its end is taken from the stream. False at the end
 * of the stream. */
bool stream_wait_text(Stream *s, const char *text, int64_t deadline);
/* As above, but false at the deadline too. */
bool stream_try_text(Stream *s, const char *text, int64_t deadline);
/* Forgets all that came so far. */
void stream_drain(Stream *s);
/* All that has come by now and was not taken; it stays. */
const char *stream_rest(Stream *s);
/* TRUE when the other end closes before the deadline; what comes until then is dropped. */
bool stream_wait_eof(Stream *s, int64_t deadline);

#endif
