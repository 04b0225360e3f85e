/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the passes of the rewriter (guest/launch/argv*.c) share: the scanned command line and what
 * each pass wants done to it. One thread; lives for one call of ff_plan_new().
 */
#ifndef FF_GUEST_LAUNCH_ARGV_REWRITE_H
#define FF_GUEST_LAUNCH_ARGV_REWRITE_H

#include <json-glib/json-glib.h>

#include "guest/launch/argv-opts.h"
#include "guest/launch/plan.h"

typedef struct FfSection FfSection;

/* One option (with its argument) or one other word of the old command line, in order. After a
 * -readconfig: the sections of its file that are options as well. */
typedef struct {
    const FfOption *option; /* NULL: a disk image, or an option that is not known here */
    FfSection *section;     /* it is one of a file; NULL: it is on the command line */
    const char *word;       /* borrowed from the caller's argv; a section has none */
    const char *value;      /* borrowed; NULL if the option has none */
    bool drop;              /* leave the option out of the new argv */
    char *new_value;        /* stands in place of value; NULL: value stays */
    GPtrArray *before;      /* char *: words to put in front; NULL if there are none */
} FfArg;

/* A configuration file that QEMU reads. */
typedef struct {
    char *path;
    FfArg *arg;          /* its -readconfig; NULL: QEMU's default file, which stays as it is */
    char **lines;        /* without their ends */
    GPtrArray *sections; /* FfSection * */
} FfConfig;

/* One section of it. */
struct FfSection {
    const FfConfig *file;
    char *group, *id;    /* of its header; id is NULL if that has none */
    guint line, n_lines; /* the header's, from 0; up to the next header or the end */
    GPtrArray *opts;     /* FfOpt *; the header's id is the first */
    char *value;         /* the same as an option's argument */
};

typedef struct {
    const FfArgvSystem *sys;
    FfPlan *plan;
    GPtrArray *args;    /* FfArg * */
    GPtrArray *configs; /* FfConfig *, in the order in which QEMU reads them */
    GPtrArray *machine; /* FfOpt *: -machine of all options and files, in order; with dashes */
    GPtrArray *memory;  /* FfOpt *: -m, the same way */
    GPtrArray *tail;    /* char *: words to put at the end of the new argv */
} FfRewrite;

static inline FfOptKind ff_arg_kind(const FfArg *arg)
{
    return arg->option ? arg->option->kind : FF_OPT_OTHER;
}

/* Its value is a character device, as "stdio" and "unix:PATH". */
bool ff_arg_is_device(const FfArg *arg);

/* The file that ARG is in, NULL if it is on the command line. */
static inline const char *ff_arg_file(const FfArg *arg)
{
    return arg->section ? arg->section->file->path : NULL;
}

/* TRUE if ARG is in a file that QEMU gets no copy of. */
static inline bool ff_arg_is_fixed(const FfArg *arg)
{
    return arg->section && !arg->section->file->arg;
}

/* The first option of KIND, NULL if there is none. */
FfArg *ff_rewrite_find(const FfRewrite *rw, FfOptKind kind);
/* Puts words in front of ARG. */
void ff_arg_insert(FfArg *arg, const char *word, char *value);
/* Notes why the engine may not migrate this guest. The first reason stays, but not before one with
 * FF_RAM_ON_DISK, by which a destination is kept from a postcopy that would lose the guest. Takes
 * WHY. */
void ff_rewrite_refuse(FfRewrite *rw, char *why);

/* TRUE if the value of an -incoming is QEMU's second channel, cpr. */
bool ff_incoming_is_cpr(const char *value);
void ff_plan_monitor_free(FfPlanMonitor *mon);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfPlanMonitor, ff_plan_monitor_free)

/* argv-help.c: TRUE if QEMU starts no guest with this command line. */
bool ff_argv_starts_no_guest(const GPtrArray *args);
/* argv-config.c: reads the configuration files that QEMU will read, and puts their sections into
 * rw->args. */
void ff_argv_read_config(FfRewrite *rw);
/* After all other passes: plans a copy of each file with a section that one of them has changed. */
void ff_argv_write_config(FfRewrite *rw);
void ff_config_free(FfConfig *file);
/* argv-memory.c: guest RAM. */
void ff_argv_rewrite_memory(FfRewrite *rw);
/* argv-monitor.c: QMP monitors, and the private one. */
void ff_argv_rewrite_monitors(FfRewrite *rw);
/* Parses the DEV of "-qmp DEV" as QEMU's qemu_chr_parse_compat() does; NULL if it is no socket
 * or stdio; *KIND is then what it is. */
GPtrArray *ff_argv_device(const char *dev, const char **kind);
/* argv-sockets.c: plan->sockets. */
void ff_argv_note_sockets(FfRewrite *rw);
/* The chardevs of vhost-user devices; after the monitors, whose numbers stay what they are. */
void ff_argv_rewrite_backends(FfRewrite *rw);
/* After them, in this order. */
void ff_argv_keep_default_monitor(FfRewrite *rw);
void ff_argv_add_door(FfRewrite *rw);
void ff_argv_add_private_monitor(FfRewrite *rw);

/* One memory backend on the command line, in either of QEMU's two notations. */
typedef struct {
    FfArg *arg;
    GPtrArray *opts; /* key=value form; else NULL */
    JsonNode *json;  /* JSON form; else NULL */
    char *type, *id; /* id may be NULL */
    uint64_t size;   /* of the new backend, bytes */
    uint64_t page_size;
    bool seal, unreserved;
    char *mount; /* a directory of hugetlbfs; NULL: none */
    bool thp;    /* found by ff_backend_rewrite() */
} FfBackend;

/* argv-backend.c. ff_backend_new() returns NULL if ARG (an -object) makes no memory backend;
 * with *BROKEN set, it may make one but could not be read. */
FfBackend *ff_backend_new(FfArg *arg, bool *broken);
/* The same reading of a -device; type is its driver. NULL if it could not be read. */
FfBackend *ff_backend_new_device(const char *value);
/* And of a -netdev. */
FfBackend *ff_backend_new_netdev(const char *value);
void ff_backend_free(FfBackend *backend);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfBackend, ff_backend_free)
/* A property as text ("on"/"off" for booleans, digits for numbers); NULL if it is not set. */
char *ff_backend_get(const FfBackend *backend, const char *key);
/* RAM at PATH, a file or a folder that may not be there yet, is neither on tmpfs nor hugetlbfs:
 * FF_RAM_ON_DISK for the refusal, else "". */
const char *ff_backend_disk(const char *path, const FfArgvSystem *sys);
/* Finds size, page_size, seal and unreserved. Returns NULL if BACKEND can become a memfd, else why
 * not. */
char *ff_backend_check(FfBackend *backend, const FfArgvSystem *sys);
/*
 * A transparent huge page on x86_64, bytes. QEMU maps anonymous RAM at multiples of it
 * (QEMU_VMALLOC_ALIGN), and file backends at those of a page, where no huge page can be mapped,
 * whatever the kernel is told: so what was anonymous gets align=. At a destination it has no huge
 * page before all is there: postcopy, QEMU's own too, asks for single pages, and a hole in a huge
 * page is one only if the kernel can split it at that moment. Where it cannot, the guest would find
 * zeros.
 */
#define FF_THP_BYTES 2097152u
static inline bool ff_may_have_thp(uint64_t size, uint64_t page_size)
{
    return page_size == 4096 && size >= FF_THP_BYTES;
}

/* What is left out in the rewritten backend. */
typedef enum {
    FF_BACKEND_WHOLE,
    FF_BACKEND_INCOMING, /* a destination: no prealloc, and huge pages only when all is there */
    FF_BACKEND_ADDED,    /* object-add: no huge pages */
} FfBackendUse;

/* Gives the option a new value: a shared memory-backend-file over the RAM memfd INDEX. */
void ff_backend_rewrite(FfBackend *backend, guint index, FfBackendUse use);

#endif
