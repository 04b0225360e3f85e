/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See page-server.h. */
#include "pager/remote/page-server.h"

#include <stddef.h>

const char *ff_page_server_check(const FfPageServerFrame *asked, const FfPageServerFrame *answer)
{
    if (answer->command != FF_PAGE_SERVER_ADD) {
        return "its answer is no pages";
    }
    if (answer->pid != asked->pid || answer->addr != asked->addr) {
        return "it gives other pages than it was asked for";
    }
    if (!answer->pages || answer->pages > asked->pages) {
        return "it gives no pages, or more than it was asked for";
    }
    return NULL;
}
