/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The command line of a QEMU that is started beside the one whose guest it takes over. */
#include "guest/launch/inherit-argv.h"

#include <string.h>

#define TAIL                                                                                       \
    " -incoming defer -chardev socket,id=farfault-upgrade,fd=9 -qmp "                              \
    "chardev:farfault-upgrade"

/* NAMES: "NOW>THEN" of each, with a space after it. */
static const struct {
    const char *from, *to, *names;
} cases[] = {
    {"q -m 1G", "q -m 1G", ""},
    {"q -S -incoming tcp::1 -daemonize x", "q x", ""},
    {"q --incoming tcp::1 --S", "q", ""},
    {"q -append -S -name -daemonize", "q -append -S -name -daemonize", ""},
    {"q -pidfile p", "q -pidfile p.upgrade-7", "/d/p.upgrade-7>/d/p "},
    {"q -pidfile ../p", "q -pidfile ../p.upgrade-7", "/p.upgrade-7>/p "},
    {"q -serial unix:/s,server,nowait", "q -serial unix:/s.upgrade-7,server=on,wait=off",
     "/s.upgrade-7>/s "},
    {"q -serial unix:/s,server", "q -serial unix:/s.upgrade-7,server=on,wait=off",
     "/s.upgrade-7>/s "},
    {"q -monitor unix:/s,server=on,wait=on", "q -monitor unix:/s.upgrade-7,server=on,wait=off",
     "/s.upgrade-7>/s "},
    {"q -serial file:/s -parallel none", "q -serial file:/s -parallel none", ""},
    {"q -chardev socket,path=/a,,b,id=c,server=on",
     "q -chardev socket,path=/a,,b.upgrade-7,id=c,server=on,wait=off", "/a,b.upgrade-7>/a,b "},
    {"q -chardev file,path=/a,id=c", "q -chardev file,path=/a,id=c", ""},
    {"q -chardev socket,path=/a,id=c", "q -chardev socket,path=/a,id=c", ""},
    {"q -chardev socket,path=a,id=c,server=on,abstract=on",
     "q -chardev socket,path=a,id=c,server=on,abstract=on", ""},
    /* Monitors of QMP are the launcher's; human ones are not. */
    {"q -mon c,mode=control -chardev socket,path=/a,id=c,server=on",
     "q -mon c,mode=control -chardev socket,path=/a,id=c,server=on", ""},
    {"q -qmp chardev:c -chardev socket,path=/a,id=c,server=on",
     "q -qmp chardev:c -chardev socket,path=/a,id=c,server=on", ""},
    {"q -object monitor-qmp,chardev=c,id=m -chardev socket,path=/a,id=c,server=on",
     "q -object monitor-qmp,chardev=c,id=m -chardev socket,path=/a,id=c,server=on", ""},
    {"q -object {\"qom-type\":\"monitor-hmp\",\"id\":\"m\",\"chardev\":\"c\"} -chardev "
     "socket,path=/a,id=c,server=on",
     "q -object {\"qom-type\":\"monitor-hmp\",\"id\":\"m\",\"chardev\":\"c\"} -chardev "
     "socket,path=/a.upgrade-7,id=c,server=on,wait=off",
     "/a.upgrade-7>/a "},
    {"q -mon chardev=c -chardev socket,path=/a,id=c,server=on",
     "q -mon chardev=c -chardev socket,path=/a.upgrade-7,id=c,server=on,wait=off",
     "/a.upgrade-7>/a "},
    {"q -qmp unix:/q,server=on", "q -qmp unix:/q,server=on", ""},
    {"q -netdev tap,id=n,ifname=t0,script=no,downscript=no,vhost=off -netdev user,id=u "
     "-netdev type=tap,ifname=t1,id=m,vnet_hdr=off",
     "q -netdev tap,id=n,vhost=off,fd=21 -netdev user,id=u -netdev tap,id=m,fd=22", ""},
    {"q -netdev "
     "{\"type\":\"tap\",\"id\":\"n\",\"ifname\":\"t0\",\"script\":\"no\",\"vhost\":false} "
     "-netdev {\"type\":\"user\",\"id\":\"u\"}",
     "q -netdev tap,id=n,vhost=off,fd=21 -netdev {\"type\":\"user\",\"id\":\"u\"}", ""},
    {"q -netdev user,id=u,hostfwd=tcp::1-:2,restrict=on,hostfwd=udp::3-:4 -nic "
     "user,id=v,hostfwd=tcp::5-:6,model=e1000",
     "q -netdev user,id=u,restrict=on -nic user,id=v,model=e1000", ""},
    {"q -netdev {\"type\":\"user\",\"id\":\"u\",\"hostfwd\":[{\"str\":\"tcp::1-:2\"}]}",
     "q -netdev user,id=u", ""},
    {"q -vnc none", "q -vnc none", ""},
    {"q -vnc :1,password=on", "q -vnc none,password=on", ""},
    {"q -vnc [::1]:1", "q -vnc none", ""},
    {"q -vnc unix:v,share=ignore", "q -vnc unix:v.upgrade-7,share=ignore", "/d/v.upgrade-7>/d/v "},
};

static void test_case(const void *opaque)
{
    unsigned i = GPOINTER_TO_UINT(opaque);
    g_auto(GStrv) from = g_strsplit(cases[i].from, " ", -1);
    g_autoptr(GPtrArray) names = NULL;
    g_auto(GStrv) to = ff_inherited_argv(from, 9, (const int[]){21, 22}, 7, "/d", &names);
    g_autofree char *text = g_strjoinv(" ", to), *expected = g_strconcat(cases[i].to, TAIL, NULL);
    g_autoptr(GString) all = g_string_new(NULL);

    for (guint n = 0; n < names->len; n++) {
        const FfInheritedName *name = names->pdata[n];
        g_string_append_printf(all, "%s>%s ", name->now, name->then);
    }
    g_assert_cmpstr(text, ==, expected);
    g_assert_cmpstr(all->str, ==, cases[i].names);
}

/* No name is longer by more than what paths are checked for. */
static void test_longer(void)
{
    char *argv[] = {(char *)"-pidfile", (char *)"/p", NULL};
    g_autoptr(GPtrArray) names = NULL;
    g_auto(GStrv) to =
        ff_inherited_argv(argv, -1, NULL, 4194304, NULL, &names); /* the kernel's largest */

    g_assert_cmpuint(strlen(to[1]), ==, strlen("/p") + FF_LENT_LONGER);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strdup_printf("/lent-argv/%u", i);
        g_test_add_data_func(path, GUINT_TO_POINTER(i), test_case);
    }
    g_test_add_func("/lent-argv/longer", test_longer);
    return g_test_run();
}
