/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is in a saved guest's file, counted: all of it is looked at.
 */
#ifndef FF_CONTENT_IMAGE_STATISTICS_H
#define FF_CONTENT_IMAGE_STATISTICS_H

#include "content/image/saved.h"

typedef struct {
    uint64_t data, zero; /* pages, each as it was saved last */
    uint64_t absent;     /* pages that the file says nothing of: QEMU leaves them as they are */
} FfSurveyBlock;

typedef struct {
    FfSurveyBlock *blocks; /* as FfSaved.blocks */
    uint64_t data, zero, absent;
    bool complete;
    char *problem;         /* one line; NULL: complete */
    unsigned major, minor; /* QEMU must be at least of this version to load it; 0: not known */
    unsigned machine_major, machine_minor; /* to have its machine; 0: not known */
} FfSurvey;

/* OPENED: what ff_saved_open() complained of, or NULL. Always answers. One thread. */
FfSurvey *ff_statistics_new(FfSaved *s, const GError *opened);
void ff_statistics_free(FfSurvey *v);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfSurvey, ff_statistics_free)

#endif
