/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault upgrade, and a signal that ends it. One thread. System calls: sigaction, write.
 */
#include "cli/upgrade/internal.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

/* What a signal makes this program say. Set before it can come; observer: on_signal(), in this
 * thread. */
static const char *volatile last_words;

void ff_upgrade_say_at_signal(const char *text)
{
    last_words = text;
}

/* It ends this program as before, which is all right at any moment: what is left is the engines'
 * and the relay's. But the user who typed Ctrl-C wants to know where the guest is. */
static void on_signal(int number)
{
    const char *words = last_words;

    (void)!write(STDERR_FILENO, words, strlen(words));
    signal(number, SIG_DFL);
    raise(number);
}

void ff_upgrade_watch_signals(void)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};

    last_words = "farfault: interrupted: the guest continues in the QEMU that it has\n";
    for (unsigned i = 0; i < G_N_ELEMENTS(signals); i++) {
        struct sigaction now;

        if (sigaction(signals[i], NULL, &now) == 0 && now.sa_handler != SIG_IGN) {
            signal(signals[i], on_signal);
        }
    }
}
