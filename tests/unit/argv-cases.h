/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Command lines and what must become of them: the tables of test-argv.c.
 *
 * A case is a command line, the new one, and a summary of the plan (summary() in test-argv.c).
 * Command lines are split as a shell does. The system below them is invented: /dev/hugepages has
 * 2 MiB pages, /hp1g 1 GiB pages, /dev/shm is tmpfs, fds 30 to 39 listen.
 */
#ifndef FF_TESTS_ARGV_CASES_H
#define FF_TESTS_ARGV_CASES_H

#include <stddef.h>

#define Q "qemu-system-x86_64 "
#define PRIV                                                                                       \
    " -chardev socket,id=farfault-private,fd=@FF_PRIV@,server=on,wait=off"                         \
    " -qmp chardev:farfault-private"
/* Where all monitors are taken by who has given their sockets. N: of plan->monitors. */
#define DOOR(N)                                                                                    \
    " -chardev socket,id=farfault-door,fd=@FF_MON" #N "@,server=on,wait=off"                       \
    " -qmp chardev:farfault-door"
#define HMP " -monitor vc:80Cx24C"
#define FD(N) "mem-path=/proc/self/fd/@FF_RAM" #N "@,share=on"
#define RAM_ALIGNED(ID, SIZE, N, ALIGN)                                                            \
    " -object memory-backend-file,id=" ID ",size=" #SIZE                                           \
    "," FD(N) ",x-use-canonical-path-for-ramblock-id=off" ALIGN " -machine memory-backend=" ID
#define RAM(ID, SIZE, N) RAM_ALIGNED(ID, SIZE, N, ",align=2097152")
/* hugetlb. */
#define RAM_UNALIGNED(ID, SIZE, N) RAM_ALIGNED(ID, SIZE, N, "")
#define PC(SIZE) RAM("pc.ram", SIZE, 0)
#define PC128 PC(134217728)
#define MON(ID, N, WAIT) "-chardev socket,id=" ID ",fd=@FF_MON" #N "@,server=on,wait=" WAIT
#define DEV(N, WAIT) "unix:fd=@FF_MON" #N "@,server=on,wait=" WAIT
#define NET(ID, N)                                                                                 \
    "-chardev socket,id=" ID ",path=/proc/self/farfault-fd/@FF_MON" #N "@,server=on,wait=off"
#define S128 "ram=pc.ram:134217728:4096 "
#define ND "-nodefaults "

typedef struct {
    const char *name, *in;
    const char *out;     /* NULL: IN, and what every start gets after it */
    const char *summary; /* of the plan; refusals and warnings are apart */
    const char *refused; /* part of the reason; NULL: none */
    const char *warning; /* part of the only warning; NULL: none */
    const char *configs; /* the texts of all copies of configuration files; NULL: there are none */
    unsigned warnings;   /* how many there are, if more than one */
} ArgvCase;

/* A configuration file of the invented system. */
typedef struct {
    const char *path, *text;
} ArgvFile;

/* Each ends with a case without name. */
extern const ArgvCase argv_memory_cases[];
extern const ArgvCase argv_left_memory_cases[]; /* memory that stays as it is */
extern const ArgvCase argv_monitor_cases[];
extern const ArgvCase argv_left_monitor_cases[]; /* monitors that QEMU keeps */
extern const ArgvCase argv_whole_cases[];
extern const ArgvCase argv_config_cases[];
extern const ArgvCase argv_left_config_cases[]; /* files that QEMU keeps */
extern const ArgvFile argv_config_files[];      /* the last one has no path */

#endif
