/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See stage.h. */
#include "stage.h"

#include <glib-unix.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "guest.h"

static void clear(BenchStage *stage)
{
    /* Of a relay that ends after its QEMU an engine may be left. */
    bench_guest_end_all();
    unlink(stage->qmp);
    rmdir(stage->run_dir);
    stage->tidy();
}

/* In the middle of a run. */
static gboolean on_signal(gpointer opaque)
{
    clear(opaque);
    _exit(1);
}

bool bench_stage_open(BenchStage *stage, const char *out, void (*tidy)(void))
{
    g_autofree char *results = g_build_filename(out, "results.jsonl", NULL);

    stage->tidy = tidy;
    stage->json = fopen(results, "ae");
    stage->run_dir = g_dir_make_tmp("farfault-bench-XXXXXX", NULL);
    if (!stage->json || !stage->run_dir) {
        g_printerr("bench: cannot write to %s or to %s\n", results, g_get_tmp_dir());
        if (stage->run_dir) {
            rmdir(stage->run_dir);
        }
        return false;
    }
    stage->qmp = g_build_filename(stage->run_dir, "qmp", NULL);
    g_unix_signal_add(SIGINT, on_signal, stage);
    g_unix_signal_add(SIGTERM, on_signal, stage);
    g_unix_signal_add(SIGHUP, on_signal, stage);
    return true;
}

void bench_stage_close(BenchStage *stage)
{
    if (stage->qmp) {
        clear(stage);
    }
    if (stage->json) {
        fclose(stage->json);
    }
    g_free(stage->qmp);
    g_free(stage->run_dir);
    *stage = (BenchStage){0};
}
