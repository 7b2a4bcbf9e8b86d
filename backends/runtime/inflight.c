/* SPDX-License-Identifier: MIT */
#include "inflight.h"

#include <stddef.h>

#include "virtqueue.h"

_Static_assert(sizeof(struct sc_inflight_split) == 16 && sizeof(struct sc_inflight_split_entry) == 16, "wire layout");
_Static_assert(offsetof(struct sc_inflight_packed, desc) == 32 && sizeof(struct sc_inflight_packed_entry) == 32,
               "wire layout");

uint64_t sc_inflight_size(uint16_t queue_size, bool packed)
{
    uint64_t size = packed ? sizeof(struct sc_inflight_packed) + queue_size * sizeof(struct sc_inflight_packed_entry)
                           : sizeof(struct sc_inflight_split) + queue_size * sizeof(struct sc_inflight_split_entry);
    return (size + 63) & ~63ull;
}

void sc_vq_set_inflight(struct sc_virtqueue *vq, void *region)
{
    vq->inflight_split = vq->packed ? NULL : region;
    vq->inflight_packed = vq->packed ? region : NULL;
    vq->inflight_followed = false;
}

void sc_inflight_retire(struct sc_virtqueue *vq)
{
    if (vq->inflight_split)
        vq->inflight_split->version = 0;
    if (vq->inflight_packed)
        vq->inflight_packed->version = 0;
}

void sc_inflight_resubmit(struct sc_virtqueue *vq, uint16_t entry, uint64_t counter)
{
    vq->resubmit[vq->resubmit_count++] = entry;
    if (counter >= vq->inflight_counter)
        vq->inflight_counter = counter + 1;
}

static uint64_t counter_of(const struct sc_virtqueue *vq, uint16_t entry)
{
    return vq->inflight_split ? vq->inflight_split->desc[entry].counter : vq->inflight_packed->desc[entry].counter;
}

void sc_inflight_sort(struct sc_virtqueue *vq)
{
    for (uint16_t i = 1; i < vq->resubmit_count; i++) {
        uint16_t entry = vq->resubmit[i];
        uint16_t j = i;
        for (; j > 0 && counter_of(vq, vq->resubmit[j - 1]) > counter_of(vq, entry); j--)
            vq->resubmit[j] = vq->resubmit[j - 1];
        vq->resubmit[j] = entry;
    }
}
