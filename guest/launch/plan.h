/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the launcher makes of a command line, and what it asks of the system for that (argv.h).
 */
#ifndef FF_GUEST_LAUNCH_PLAN_H
#define FF_GUEST_LAUNCH_PLAN_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* One guest RAM backend that the launcher makes as a memfd. Token: "@FF_RAM<index>@". */
typedef struct {
    char *id;           /* id of the memory backend object, e.g. "pc.ram" */
    uint64_t size;      /* bytes */
    uint64_t page_size; /* bytes: 4096, or the huge page size for a hugetlb memfd */
    bool seal;          /* the user asked memory-backend-memfd for sealing */
    bool thp;           /* without farfault it would have transparent huge pages */
    bool unreserved;    /* reserve=off: its pages need not be there at the start */
    char *mount;        /* the directory of hugetlbfs that the user named; NULL: none */
} FfPlanRam;

typedef enum {
    FF_CLIENT_LISTEN_UNIX,  /* listen on .path (unlinked first, as QEMU does) */
    FF_CLIENT_LISTEN_TCP,   /* listen on .host/.port (.to: highest port to try, 0 = none) */
    FF_CLIENT_LISTEN_FD,    /* .fd is a listening socket that was inherited */
    FF_CLIENT_CONNECT_UNIX, /* connect to .path at the start */
    FF_CLIENT_CONNECT_TCP,
    FF_CLIENT_CONNECTED_FD, /* .fd is a connected socket that was inherited */
    FF_CLIENT_STDIO,        /* the process's stdin and stdout */
    FF_CLIENT_SPARE, /* nobody yet: a chardev that is added later (guest/relay/hotplug-vhost.h) */
    FF_CLIENT_DOOR,  /* who asks the relay (guest/relay/replace-relay.h): where all others are taken
                      */
} FfClientKind;

/* One control-mode monitor that the relay stands in for. Token: "@FF_MON<index>@" is the fd of
 * a private listening unix socket that QEMU is given in its place (server=on); of a network's
 * back-end as a path that stands for it (FF_AGENT_SOCKET_PATH). */
typedef struct {
    char *chardev_id; /* id of the chardev in the new argv */
    FfClientKind kind;
    char *path, *host, *port;
    unsigned to;
    bool ipv4, ipv6; /* as given; both false = unspecified */
    bool abstract;   /* unix socket in the abstract namespace */
    int fd;
    bool wait;          /* QEMU waits for the first client before it starts */
    unsigned reconnect; /* seconds, CONNECT_* only; 0 = never */
    bool backend;       /* no monitor: the chardev of a vhost-user device ... */
    bool network;       /* ... which is a network, and no disk */
    bool followed;      /* ... whose writes migrations follow */
} FfPlanMonitor;

/* A configuration file that QEMU gets in place of the user's. Token: "@FF_CONFIG<index>@". */
typedef struct {
    char *path; /* of the user's */
    char *text; /* tokens inside */
} FfPlanConfig;

typedef struct {
    /* TRUE: this invocation starts no guest; exec the real QEMU with the old argv. */
    bool passthrough;
    GPtrArray *argv;     /* char *, NULL-terminated; tokens inside; argv[0] is the caller's */
    GPtrArray *ram;      /* FfPlanRam * */
    GPtrArray *monitors; /* FfPlanMonitor * */
    GPtrArray *configs;  /* FfPlanConfig * */
    char *incoming;      /* URI given with -incoming (socket kinds are taken over: argv then
                            holds "-incoming defer"; others stay in argv); NULL if none */
    bool incoming_taken; /* the URI was replaced by "defer" */
    bool start_paused;   /* -S */
    bool daemonize;
    char *runas; /* user of -runas; NULL if none */
    char *name;  /* guest name from -name, for messages; NULL if none */
    /* Why the engine may never migrate this guest (regular-file RAM, pmem, ...): one line that
     * names what and the fix; NULL if nothing stands against it. */
    char *engine_refused;
    /* char *: unix sockets at which QEMU, or the relay, is to listen: it takes the names away. */
    GPtrArray *sockets;
    GPtrArray *warnings; /* char *: one-line warnings to print (monitor left to QEMU, ...) */
} FfPlan;

/* What the rewriter must ask of the system; tests inject fakes. */
typedef struct {
    /* Kind of the file system at PATH: 't' tmpfs, 'h' hugetlbfs (*page_size set), 'r' regular,
     * 0 if it does not exist. PATH may name a directory or a file. */
    char (*fs_kind)(const char *path, uint64_t *page_size, void *opaque);
    /* TRUE if FD (inherited) is a listening socket. */
    bool (*fd_is_listening)(int fd, void *opaque);
    /* Contents of a -readconfig file; NULL and error when unreadable. G_FILE_ERROR_INVAL: QEMU may
     * be able to read it, as the only one (no regular file), or it is none for farfault. */
    char *(*read_file)(const char *path, GError **error, void *opaque);
    /* What the machine TYPE (a name that is not in the table here) calls its RAM. TRUE: *RAM_ID
     * (g_free) is it, NULL if it makes none. FALSE: nobody knows. Can be NULL. */
    bool (*machine_ram_id)(const char *type, char **ram_id, void *opaque);
    const char *folder;             /* that QEMU is started in; NULL: not known */
    uint64_t default_hugepage_size; /* bytes; 0 = none configured */
    bool takes_backends;            /* the relay stands in the sockets of vhost-user devices */
    bool has_agent;                 /* there is one to be loaded into QEMU */
    bool follows_backends;          /* migrations follow what these write */
    bool clients_come_later; /* QEMU waits for no monitor's first client, whatever wait= says */
    void *opaque;
} FfArgvSystem;

#endif
