/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See shapednet.h. The namespaces have no names: they live as long as a process or the object holds
 * them. One thread, whose own network namespace changes.
 */
#include "tests/lib/shapednet.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <ifaddrs.h>
#include <linux/if_link.h>
#include <sched.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/lib/stream.h"

struct ShapedNet {
    int namespaces[SHAPED_PLACES];
};

/* A command line without quotes. */
G_GNUC_PRINTF(1, 2) static bool run(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *line = g_strdup_vprintf(format, args);
    va_end(args);
    g_autofree char *err = NULL;
    g_autoptr(GError) error = NULL;
    int status = -1;

    if (g_spawn_command_line_sync(line, NULL, &err, &status, &error) && status == 0)
        return true;
    g_test_message("%s: %s", line, error ? error->message : err);
    return false;
}

static int here(void)
{
    return open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
}

static bool set_up(const char *address, unsigned megabits)
{
    return run("ip link set lo up") && run("ip address add %s/24 dev veth", address) &&
           run("ip link set veth up") &&
           (!megabits ||
            run("tc qdisc add dev veth root tbf rate %umbit burst 128kb latency 20ms", megabits));
}

static bool build(ShapedNet *net, unsigned megabits, const char **why)
{
    net->namespaces[SHAPED_OUTSIDE] = here();
    for (unsigned i = SHAPED_SOURCE; i <= SHAPED_DESTINATION; i++) {
        if (unshare(CLONE_NEWNET)) {
            *why = "no permission to make network namespaces";
            return false;
        }
        net->namespaces[i] = here();
    }
    *why = "no shaped veth pair can be made (ip, tc with tbf)";
    if (!run("ip link add veth type veth peer name far") ||
        !run("ip link set far netns /proc/%d/fd/%d", getpid(), net->namespaces[SHAPED_SOURCE]) ||
        !set_up(SHAPED_ADDRESS_DESTINATION, megabits))
        return false;
    shaped_net_enter(net, SHAPED_SOURCE);
    return run("ip link set far name veth") && set_up(SHAPED_ADDRESS_SOURCE, megabits);
}

ShapedNet *shaped_net_new(unsigned megabits, const char **why)
{
    ShapedNet *net = g_new(ShapedNet, 1);

    memset(net->namespaces, -1, sizeof(net->namespaces));
    if (!build(net, megabits, why)) {
        shaped_net_free(net);
        return NULL;
    }
    return net;
}

void shaped_net_enter(const ShapedNet *net, ShapedPlace place)
{
    if (setns(net->namespaces[place], CLONE_NEWNET))
        test_fail("setns: %s", g_strerror(errno));
}

/* In the place where this thread is. */
static uint64_t sent_here(void)
{
    struct ifaddrs *all;
    uint64_t bytes = 0;

    if (getifaddrs(&all))
        test_fail("getifaddrs: %s", g_strerror(errno));
    for (struct ifaddrs *i = all; i; i = i->ifa_next)
        if (i->ifa_addr && i->ifa_addr->sa_family == AF_PACKET && !strcmp(i->ifa_name, "veth"))
            bytes = ((const struct rtnl_link_stats *)i->ifa_data)->tx_bytes;
    freeifaddrs(all);
    return bytes;
}

uint64_t shaped_net_sent(const ShapedNet *net, ShapedPlace place)
{
    int before = here();

    shaped_net_enter(net, place);
    uint64_t bytes = sent_here();
    if (setns(before, CLONE_NEWNET))
        test_fail("setns: %s", g_strerror(errno));
    close(before);
    return bytes;
}

void shaped_net_free(ShapedNet *net)
{
    shaped_net_enter(net, SHAPED_OUTSIDE);
    for (unsigned i = 0; i < SHAPED_PLACES; i++)
        if (net->namespaces[i] >= 0)
            close(net->namespaces[i]);
    g_free(net);
}
