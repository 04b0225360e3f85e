/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The relay in front of a QEMU whose main loop stands still: that of a destination may wait for a
 * page. A client that asked QEMU for something is told after a while that it does not answer, and
 * the engine's commands are answered on every monitor, also to a client that comes only now. cont
 * counts as done: QEMU will do it. What QEMU says in the end reaches nobody. Here it is held by a
 * FIFO that nobody reads.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/qtest/relay-rig.h"

/* What the client of MON asks the engine is answered at once. */
static void expect_owned(Rig *rig, Stream *client, unsigned mon, const char *command)
{
    g_autofree char *text = g_strdup_printf("{'execute': '%s', 'id': 'ours'}", command);

    rig_send(client, text);
    g_autoptr(RigFrame) frame = rig_frame(rig, FF_LINK_COMMAND);
    g_assert_cmpuint(frame->header.mon, ==, mon);
    g_assert_nonnull(strstr(frame->text, command));
    rig_answer(rig, frame, FF_LINK_REPLY, "{\"return\": {}, \"id\": \"ours\"}");
    rig_expect(client, "ours");
}

static void expect_of_qemu(Stream *client, const char *id)
{
    g_autofree char *text = g_strdup_printf("{'execute': 'query-name', 'id': '%s'}", id);
    g_autofree char *want = g_strdup_printf("{\"return\": {}, \"id\": \"%s\"}", id);

    rig_send(client, text);
    g_autofree char *line = rig_line(client);
    g_assert_cmpstr(line, ==, want);
}

static void test_main_loop_stands(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) asks = rig_client(rig, 0, true, false);
    Stream *other = rig_client(rig, 1, true, false);
    g_autofree char *fifo = g_build_filename(rig->dir, "fifo", NULL);
    g_autofree char *hang = g_strdup_printf("{'execute': 'pmemsave', 'id': 'stands', 'arguments': "
                                            "{'val': 0, 'size': 1, 'filename': '%s'}}",
                                            fifo);

    rig_send(other, "{'execute': 'query-migrate', 'id': 'first'}");
    rig_engine_start(rig);
    g_autoptr(RigFrame) first = rig_frame(rig, FF_LINK_COMMAND);
    rig_filter(rig, FF_FILTER_RUN_STATE | FF_FILTER_MIGRATION_EVENTS | FF_FILTER_OVERDUE);
    rig_answer(rig, first, FF_LINK_REPLY, "{\"return\": {}, \"id\": \"first\"}");
    rig_expect(other, "first");

    g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
    rig_send(asks, hang);
    rig_send(asks, "{'execute': 'migrate-recover', 'id': 'behind it'}");
    /* The other monitor does not notice. */
    expect_owned(rig, other, 1, "query-migrate");
    expect_owned(rig, other, 1, "migrate-pause");
    /* Nor does a client that comes now. */
    stream_free(other);
    g_autoptr(RigFrame) gone = rig_frame(rig, FF_LINK_CLIENT_GONE);
    other = rig_client(rig, 1, false, false);
    rig_send(other, "{'execute': 'qmp_capabilities', 'id': 'new'}");
    rig_expect(other, "\"id\": \"new\"");
    expect_owned(rig, other, 1, "query-migrate");
    /* One that leaves QEMU's answers outstanding is not in the way of the next. */
    rig_send(other, "{'execute': 'query-name', 'id': 'nobody waits'}");
    stream_free(other);
    g_autoptr(RigFrame) left = rig_frame(rig, FF_LINK_CLIENT_GONE);
    other = rig_client(rig, 1, false, false);
    rig_send(other, "{'execute': 'query-name', 'id': 'early'}");
    rig_expect(other, "Expecting capabilities negotiation");
    rig_send(other, "{'execute': 'qmp_capabilities', 'id': 'newer'}");
    rig_expect(other, "{\"id\": \"newer\", \"return\": {}}");
    expect_owned(rig, other, 1, "migrate-recover");
    rig_send(other, "{'execute': 'cont', 'id': 'continues'}");
    g_autoptr(RigFrame) cont = rig_frame(rig, FF_LINK_COMMAND);
    g_assert_nonnull(strstr(cont->text, "cont"));
    rig_answer(rig, cont, FF_LINK_PASS, NULL);

    rig_expect(asks, "{\"id\": \"stands\", \"error\": {\"class\": \"GenericError\", \"desc\": "
                     "\"QEMU has not answered for 10 s");
    g_autoptr(RigFrame) recover = rig_frame(rig, FF_LINK_COMMAND);
    g_assert_nonnull(strstr(recover->text, "migrate-recover"));
    rig_answer(rig, recover, FF_LINK_REPLY, "{\"return\": {}, \"id\": \"behind it\"}");
    rig_expect(asks, "behind it");
    g_autofree char *goes = rig_line(other);
    g_assert_cmpstr(goes, ==, "{\"id\": \"continues\", \"return\": {}}");

    /* It continues. */
    char byte;
    int fd = open(fifo, O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(read(fd, &byte, 1), ==, 1);
    close(fd);
    expect_of_qemu(asks, "again");
    expect_of_qemu(other, "and here");
    stream_free(other);
    unlink(fifo);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/overdue/main-loop-stands", test_main_loop_stands);
    return g_test_run();
}
