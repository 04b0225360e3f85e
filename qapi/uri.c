/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reads the URI or the channels of migrate and migrate-incoming.
 *
 * Whatever the engine does not carry, or QEMU would refuse, becomes FF_URI_OTHER: it goes to
 * QEMU, which has the right error text. Any thread.
 *
 * System calls: openat.
 */
#include "qapi/uri.h"

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "net/address.h"
#include "qapi/json.h"

void ff_uri_clear(FfUri *target)
{
    g_free(target->uri);
    g_free(target->said);
    g_free(target->host);
    g_free(target->port);
    g_free(target->path);
    g_free(target->name);
    *target = (FfUri){.kind = FF_URI_NONE};
}

int ff_uri_family(const FfUri *target)
{
    return target->ipv4 == target->ipv6 ? AF_UNSPEC : target->ipv4 ? AF_INET : AF_INET6;
}

/* The options are known. */
static void set_inet(FfUri *target, const char *host, const char *port)
{
    int family = ff_uri_family(target), number = ff_address_port(port);

    target->kind = FF_URI_TCP;
    target->host = g_strdup(host);
    target->port = number < 0 ? g_strdup(port) : g_strdup_printf("%d", number);
    target->uri =
        g_strdup_printf(strchr(host, ':') ? "tcp:[%s]:%s%s" : "tcp:%s:%s%s", host, target->port,
                        family == AF_INET    ? ",ipv4=on"
                        : family == AF_INET6 ? ",ipv6=on"
                                             : "");
}

/* One of the options after the port; FALSE: none that we know. */
static gboolean inet_option(FfUri *target, const char *option)
{
    if (!strcmp(option, "ipv4") || !strcmp(option, "ipv4=on")) {
        target->ipv4 = TRUE;
    } else if (!strcmp(option, "ipv6") || !strcmp(option, "ipv6=on")) {
        target->ipv6 = TRUE;
    } else {
        return FALSE;
    }
    return TRUE;
}

static void parse_inet(FfUri *target, const char *text)
{
    g_auto(GStrv) parts = g_strsplit(text, ",", -1);
    const char *colon = parts[0] ? strrchr(parts[0], ':') : NULL;

    target->kind = FF_URI_OTHER;
    if (!colon) {
        return;
    }
    g_autofree char *host = g_strndup(parts[0], (gsize)(colon - parts[0]));
    gsize length = strlen(host);
    gboolean brackets = length >= 2 && host[0] == '[' && host[length - 1] == ']';

    if (brackets) {
        host[length - 1] = 0;
        memmove(host, host + 1, length - 1);
    } else if (strchr(host, ':')) {
        return;
    }
    /* QEMU says what is wrong with a name. A number that is too large: the engine. */
    if (strspn(colon + 1, "0123456789") != strlen(colon + 1) ? ff_address_port(colon + 1) < 0
                                                             : !colon[1]) {
        return;
    }
    for (char **option = parts + 1; *option; option++) {
        if (!inet_option(target, *option)) {
            return;
        }
    }
    set_inet(target, host, colon + 1);
}

#define FDSET "/dev/fdset/"

/* What newer libvirts pass in place of a path. */
static void set_fdset(FfUri *target, const char *number, uint64_t offset)
{
    char *end;

    target->fdset = g_ascii_strtoll(number, &end, 10);
    target->in_fdset = g_ascii_isdigit(*number) && !*end;
    target->offset = offset;
}

static void set_file(FfUri *target, const char *path, uint64_t offset)
{
    if (g_str_has_prefix(path, FDSET)) {
        set_fdset(target, path + strlen(FDSET), offset);
        return;
    }
    if (*path) {
        target->kind = FF_URI_FILE;
        target->path = g_strdup(path);
        target->offset = offset;
        target->uri = offset ? g_strdup_printf("file:%s,offset=%" G_GUINT64_FORMAT, path, offset)
                             : g_strdup_printf("file:%s", path);
    }
}

/* PATH[,offset=NUMBER], with QEMU's suffixes: b, K, M, G, T. */
static void parse_file(FfUri *target, const char *text)
{
    const char *option = strstr(text, ",offset=");
    g_autofree char *path = option ? g_strndup(text, (gsize)(option - text)) : g_strdup(text);
    guint64 offset = 0;

    if (option) {
        static const char suffixes[] = "bKMGT";
        char *end;
        const char *digits = option + strlen(",offset=");
        offset = g_ascii_strtoull(digits, &end, 0);
        const char *suffix = *end ? strchr(suffixes, *end) : suffixes;
        if (end == digits || !suffix || (*end && end[1])) {
            return;
        }
        unsigned shift = 10 * (unsigned)(suffix - suffixes);
        if (offset > (guint64)G_MAXINT64 >> 3 >> shift) {
            return;
        }
        offset <<= shift;
    }
    set_file(target, path, offset);
}

void ff_uri_parse(FfUri *target, const char *uri)
{
    ff_uri_clear(target);
    target->kind = FF_URI_OTHER;
    if (g_str_has_prefix(uri, "tcp:")) {
        parse_inet(target, uri + strlen("tcp:"));
    } else if (g_str_has_prefix(uri, "unix:") && uri[strlen("unix:")] && !strchr(uri, ',')) {
        target->kind = FF_URI_UNIX;
        target->path = g_strdup(uri + strlen("unix:"));
        target->uri = g_strdup(uri);
    } else if (g_str_has_prefix(uri, "fd:") && uri[strlen("fd:")]) {
        target->kind = FF_URI_FD;
        target->name = g_strdup(uri + strlen("fd:"));
        target->uri = g_strdup(uri);
    } else if (g_str_has_prefix(uri, "file:")) {
        parse_file(target, uri + strlen("file:"));
    }
}

/* "off" for one is "on" for the other; FALSE: both are off, which QEMU refuses. */
static gboolean take_families(FfUri *target, JsonObject *addr)
{
    gboolean no4 = json_object_has_member(addr, "ipv4") && !ff_json_bool(addr, "ipv4");
    gboolean no6 = json_object_has_member(addr, "ipv6") && !ff_json_bool(addr, "ipv6");

    target->ipv4 = no6 || ff_json_bool(addr, "ipv4");
    target->ipv6 = no4 || ff_json_bool(addr, "ipv6");
    return !no4 || !no6;
}

static void from_address(FfUri *target, JsonObject *addr)
{
    const char *type = ff_json_string(addr, "type");

    if (!g_strcmp0(ff_json_string(addr, "transport"), "file")) {
        const char *name = ff_json_string(addr, "filename");
        set_file(target, name, json_object_get_int_member_with_default(addr, "offset", 0));
        return;
    }
    if (g_strcmp0(ff_json_string(addr, "transport"), "socket") || !type) {
        return;
    }
    if (!strcmp(type, "inet") && !json_object_has_member(addr, "to") &&
        !json_object_has_member(addr, "mptcp") && !ff_json_bool(addr, "keep-alive") &&
        take_families(target, addr)) {
        set_inet(target, ff_json_string(addr, "host"), ff_json_string(addr, "port"));
    } else if (!strcmp(type, "unix") && !ff_json_bool(addr, "abstract")) {
        target->kind = FF_URI_UNIX;
        target->path = g_strdup(ff_json_string(addr, "path"));
        target->uri = g_strdup_printf("unix:%s", target->path);
    } else if (!strcmp(type, "fd")) {
        target->kind = FF_URI_FD;
        target->name = g_strdup(ff_json_string(addr, "str"));
        target->uri = g_strdup_printf("fd:%s", target->name);
    }
}

void ff_uri_from_arguments(FfUri *target, JsonObject *args)
{
    const char *uri = ff_json_string(args, "uri");
    gboolean has_channels = args && json_object_has_member(args, "channels");

    ff_uri_clear(target);
    if (!uri && !has_channels) {
        return;
    }
    target->kind = FF_URI_OTHER;
    if (uri && has_channels) {
        return; /* QEMU refuses that */
    }
    if (uri) {
        ff_uri_parse(target, uri);
        return;
    }
    JsonArray *channels = json_object_get_array_member(args, "channels");

    if (json_array_get_length(channels) == 1) {
        JsonObject *channel = json_array_get_object_element(channels, 0);

        if (!g_strcmp0(ff_json_string(channel, "channel-type"), "main")) {
            from_address(target, json_object_get_object_member(channel, "addr"));
        }
    }
}

#define SOCKET_PATH_MAX sizeof(((struct sockaddr_un *)NULL)->sun_path)

/* NAME in the folder that BY_PROC leads to, if that folder's own name does so, too (g_free). A
 * process that is told where the socket is may see another /proc, or have no right to this one.
 * NULL: it is no name of it here (another root, a folder that is gone), or none that a URI can
 * have. */
static char *path_by_name(const char *by_proc, const char *name)
{
    g_autofree char *folder = g_file_read_link(by_proc, NULL);
    struct stat is, meant;

    if (!folder || strchr(folder, ',') || stat(by_proc, &meant) < 0 || stat(folder, &is) < 0 ||
        is.st_dev != meant.st_dev || is.st_ino != meant.st_ino) {
        return NULL;
    }
    g_autofree char *path = g_build_filename(folder, name, NULL);

    return strlen(path) < SOCKET_PATH_MAX ? g_steal_pointer(&path) : NULL;
}

bool ff_uri_make_absolute(FfUri *target, int pid)
{
    if (target->kind != FF_URI_UNIX || target->path[0] == '/') {
        return true;
    }
    g_autofree char *folder = g_strdup_printf("/proc/%d/cwd", pid);
    g_autofree char *path = path_by_name(folder, target->path);
    int fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0) {
        return false;
    }
    close(fd);
    if (!path) {
        path = g_strdup_printf("%s/%s", folder, target->path);
    }
    if (strlen(path) >= SOCKET_PATH_MAX) {
        return false;
    }
    target->said = g_steal_pointer(&target->uri);
    target->uri = g_strdup_printf("unix:%s", path);
    g_free(target->path);
    target->path = g_steal_pointer(&path);
    return true;
}

const char *ff_uri_said_path(const FfUri *target)
{
    return target->said ? target->said + strlen("unix:") : target->path;
}
