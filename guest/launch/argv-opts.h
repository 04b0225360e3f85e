/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU's option syntax: which options there are, "key=value,..." lists, sizes and switches.
 * Shared by the files of the rewriter (guest/launch/argv*.c) and farfault upgrade. Pure functions;
 * any thread.
 */
#ifndef FF_GUEST_LAUNCH_ARGV_OPTS_H
#define FF_GUEST_LAUNCH_ARGV_OPTS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* What an option is to the rewriter. FF_OPT_OTHER: it is copied and never looked into. */
typedef enum {
    FF_OPT_OTHER,
    FF_OPT_ACCEL,
    FF_OPT_CHARDEV,
    FF_OPT_CPU,
    FF_OPT_DAEMONIZE,
    FF_OPT_DEVICE,
    FF_OPT_GLOBAL,
    FF_OPT_INCOMING,
    FF_OPT_LOG,
    FF_OPT_M,
    FF_OPT_MACHINE,
    FF_OPT_MEM_PATH,
    FF_OPT_MEM_PREALLOC,
    FF_OPT_MON,
    FF_OPT_MONITOR,
    FF_OPT_NAME,
    FF_OPT_NETDEV,
    FF_OPT_NO_USER_CONFIG,
    FF_OPT_NODEFAULTS,
    FF_OPT_NOGRAPHIC,
    FF_OPT_NUMA,
    FF_OPT_OBJECT,
    FF_OPT_PRECONFIG,
    FF_OPT_QMP,
    FF_OPT_QMP_PRETTY,
    FF_OPT_QUITS, /* QEMU prints or writes something and ends */
    FF_OPT_READCONFIG,
    FF_OPT_RUN_WITH,
    FF_OPT_RUNAS,
    FF_OPT_S,
    FF_OPT_SERIAL,
    FF_OPT_PARALLEL,
    FF_OPT_CHARDEV_USER, /* its value is a character device: -debugcon, -gdb, -qtest */
    FF_OPT_SET,
    FF_OPT_TPMDEV,
} FfOptKind;

typedef enum {
    FF_HELP_NO,    /* the value is free text */
    FF_HELP_WHOLE, /* the whole value may be "help" */
    FF_HELP_PART,  /* a part of the comma-separated value may be */
} FfOptHelp;

typedef struct {
    const char *name; /* without dashes */
    bool has_arg;
    FfOptKind kind;
    FfOptHelp help;
    const char *implied; /* key of a first part without "="; NULL if there is none */
} FfOption;

/* Looks up an option word ("-m", "--m"); NULL if QEMU has no such option that is known here. */
const FfOption *ff_option_find(const char *word);

/* The next option in *ARGV that has a value, which is *VALUE; *ARGV is behind it then. NULL: there
 * is none. */
const FfOption *ff_option_next(char *const **argv, const char **value);

/* One part of a "key=value,..." list. */
typedef struct {
    char *key, *value;
    bool bare; /* written without "=": a flag ("nowait" is {wait, off}) */
} FfOpt;

/* Parses TEXT as QEMU's QemuOpts does (",," is a comma in a value). IMPLIED: the key of a first
 * part without "=", or NULL. Array of FfOpt *, free with g_ptr_array_unref(). */
GPtrArray *ff_opts_parse(const char *text, const char *implied);
/* The same of a value that may also be a JSON object (-device, -netdev, -object, -blockdev,
 * -display, -audiodev): switches are "on" and "off", what is inside of a part has a dotted key
 * ("file.driver", "hostfwd.0.str"). JSON that is broken is an empty list, as is an empty object. */
GPtrArray *ff_opts_read(const char *text, const char *implied);
/* An empty list, and one more part for it; takes KEY and VALUE. */
GPtrArray *ff_opts_new(void);
void ff_opts_add(GPtrArray *opts, char *key, char *value, bool bare);
/* Value of KEY, the last one if there are several, as in QEMU; NULL if there is none. */
const char *ff_opts_get(const GPtrArray *opts, const char *key);
void ff_opts_remove(GPtrArray *opts, const char *key);
/* Sets KEY, in the place of the first one if there is one. */
void ff_opts_set(GPtrArray *opts, const char *key, const char *value);
/* Writes the list; the first part without its key if that is IMPLIED. */
char *ff_opts_print(const GPtrArray *opts, const char *implied);
/* VALUE with its commas doubled. */
char *ff_opts_escape(const char *value);

/* The chardev (g_free) of the monitor that OPTION with VALUE makes, if it is -mon, or -object of
 * QEMU 11.1 and newer; *CONTROL: it is a QMP monitor. NULL: it makes none. */
char *ff_opt_monitor(const FfOption *option, const char *value, bool *control);
/* TRUE if QOM-TYPE (can be NULL) is one of QEMU's monitors. */
static inline bool ff_opt_is_monitor_type(const char *qom_type)
{
    return qom_type && g_str_has_prefix(qom_type, "monitor-");
}
#define FF_QMP_MONITOR_TYPE "monitor-qmp"

/* "help" and its old form. */
bool ff_is_help(const char *text);
/* QEMU's booleans: on, yes, true, y, off, no, false, n. */
bool ff_opt_is_bool(const char *text);
/* Anything else (NULL too) is DEFAULT_VALUE. */
bool ff_opt_bool(const char *value, bool default_value);
/* A size as in QEMU: a decimal number, perhaps with a fraction, or 0x...; suffix B K M G T P E,
 * else DEFAULT_SUFFIX. FALSE if it is not one. */
bool ff_opt_size(const char *text, char default_suffix, uint64_t *size);

#endif
