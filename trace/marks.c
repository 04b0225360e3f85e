/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The marks of the engine; see marks.h. Any thread. */
#include "trace/marks.h"

#include <stddef.h>
#include <string.h>

#define SOURCE "source"
#define DESTINATION "destination"

const FfMarkRow ff_marks[] = {
    {"status",
     NULL,
     "a side's status has changed: begin, postcopy-active, pause, recovery, end",
     {{"before", FF_MARK_TEXT},
      {"now", FF_MARK_TEXT},
      {"side", FF_MARK_ROLE},
      {"number", FF_MARK_UNSIGNED}}},
    {"phase",
     NULL,
     "a step of the journal was stored: stop, give, grant, done",
     {{"side", FF_MARK_ROLE}, {"phase", FF_MARK_PHASE}, {"right", FF_MARK_RIGHT}}},
    {"pass", SOURCE, "a pass of precopy begins", {{"pass", FF_MARK_UNSIGNED}}},
    {"resumed",
     DESTINATION,
     "QEMU has answered cont; running=1: the guest runs",
     {{"running", FF_MARK_UNSIGNED}}},
    {"wait_begins",
     DESTINATION,
     "a thread waits for a page, and is noted; vcpu=-1: none of the guest's, -2: a device's",
     {{"block", FF_MARK_UNSIGNED}, {"page", FF_MARK_UNSIGNED}, {"vcpu", FF_MARK_SIGNED}}},
    {"page_asked",
     DESTINATION,
     "pages are asked for at the source",
     {{"block", FF_MARK_UNSIGNED}, {"page", FF_MARK_UNSIGNED}, {"pages", FF_MARK_UNSIGNED}}},
    {"pages_answered",
     SOURCE,
     "what was asked for is written",
     {{"requests", FF_MARK_UNSIGNED}, {"us", FF_MARK_UNSIGNED}}},
    {"bulk_claimed",
     SOURCE,
     "a run that nobody has asked for is about to be sent; channel=0: the main one",
     {{"block", FF_MARK_UNSIGNED},
      {"page", FF_MARK_UNSIGNED},
      {"pages", FF_MARK_UNSIGNED},
      {"channel", FF_MARK_UNSIGNED}}},
    {"wait_ends",
     DESTINATION,
     "the page was placed; the thread continues",
     {{"block", FF_MARK_UNSIGNED}, {"page", FF_MARK_UNSIGNED}, {"vcpu", FF_MARK_SIGNED}}},
    {NULL},
};

const FfMarkRow *ff_mark_row(const char *name)
{
    for (const FfMarkRow *row = ff_marks; row->name; row++) {
        if (strcmp(row->name, name) == 0) {
            return row;
        }
    }
    return NULL;
}
