/* SPDX-License-Identifier: MIT
 *
 * Split virtqueues (virtio 1.2, 2.7). Everything in guest memory may change while it is read: each field is read once.
 */
#include <errno.h>
#include <string.h>

#include "inflight.h"
#include "virtqueue.h"

#define DESC_NEXT 1
#define DESC_WRITE 2
#define DESC_INDIRECT 4
#define AVAIL_NO_INTERRUPT 1
#define USED_NO_NOTIFY 1

struct split_descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
};

struct used_element {
    uint32_t id;
    uint32_t length;
};

#define AVAIL_FLAGS(vq) ((uint16_t *)(vq)->driver)
#define AVAIL_INDEX(vq) ((uint16_t *)((vq)->driver + 2))
#define AVAIL_RING(vq) ((uint16_t *)((vq)->driver + 4))
#define USED_EVENT(vq) (AVAIL_RING(vq) + (vq)->size)
#define USED_FLAGS(vq) ((uint16_t *)(vq)->device)
#define USED_INDEX(vq) ((uint16_t *)((vq)->device + 2))
#define USED_RING(vq) ((struct used_element *)((vq)->device + 4))
#define AVAIL_EVENT(vq) ((uint16_t *)(USED_RING(vq) + (vq)->size))

static uint16_t load(const uint16_t *field)
{
    return __atomic_load_n(field, __ATOMIC_ACQUIRE);
}

static void mark_used(const struct sc_virtqueue *vq, uint64_t offset, uint64_t length)
{
    if (vq->log_used)
        sc_memory_mark(vq->memory, vq->log_used_gpa + offset, length);
}

/* After a crash: what was published but not yet noted is done, everything else that is in flight is to be done again.
 * -EPROTO for a region that cannot be of this ring: doing the wrong requests again is worse than none.
 */
static int recover(struct sc_virtqueue *vq)
{
    struct sc_inflight_split *region = vq->inflight_split;
    if (!region)
        return 0;
    struct sc_inflight_split before = *region; /* once: whoever kept the file may change it at this moment */
    sc_inflight_order();
    if (before.version == 0 || before.desc_num != vq->size) {
        memset(region, 0, sizeof(*region) + vq->size * sizeof(region->desc[0]));
        region->desc_num = vq->size;
        region->used_idx = vq->next_used;
        sc_inflight_order();
        region->version = SC_INFLIGHT_VERSION;
        return 0;
    }
    uint16_t unnoted = (uint16_t)(vq->next_used - before.used_idx);
    if (before.version != SC_INFLIGHT_VERSION || unnoted > vq->size)
        return -EPROTO;
    for (uint16_t i = 0, head = before.last_batch_head; i < unnoted; i++) {
        if (head >= vq->size)
            return -EPROTO;
        uint16_t next = __atomic_load_n(&region->desc[head].next, __ATOMIC_RELAXED);
        region->desc[head].inflight = 0;
        head = next;
    }
    sc_inflight_order();
    region->used_idx = vq->next_used;
    for (uint16_t i = 0; i < vq->size; i++)
        if (region->desc[i].inflight == 1)
            sc_inflight_resubmit(vq, i, region->desc[i].counter);
    sc_inflight_sort(vq);
    vq->next_avail = (uint16_t)(vq->next_used + vq->resubmit_count);
    return 0;
}

int sc_split_start(struct sc_virtqueue *vq, uint32_t base)
{
    if (base > UINT16_MAX)
        return -EINVAL;
    vq->next_avail = (uint16_t)base;
    vq->next_used = load(USED_INDEX(vq));
    return recover(vq);
}

bool sc_split_available(const struct sc_virtqueue *vq)
{
    return load(AVAIL_INDEX(vq)) != vq->next_avail;
}

static int add_indirect(struct sc_virtqueue *vq, struct sc_chain *chain, const struct split_descriptor *table)
{
    if (!vq->indirect || table->flags & DESC_NEXT || table->length == 0 || table->length % sizeof(*table))
        return -EINVAL;
    uint32_t count = table->length / (uint32_t)sizeof(*table);
    if (count > SC_MAX_SEGMENTS)
        return -E2BIG;
    uint16_t next = 0;
    for (uint32_t seen = 0; seen < count; seen++) {
        struct split_descriptor descriptor;
        int result = sc_memory_read(vq->memory, table->address + (uint64_t)next * sizeof(descriptor), &descriptor,
                                    sizeof(descriptor));
        if (result < 0)
            return result;
        if (descriptor.flags & DESC_INDIRECT)
            return -EINVAL;
        result = sc_chain_add(vq->memory, chain, descriptor.address, descriptor.length, descriptor.flags & DESC_WRITE);
        if (result < 0)
            return result;
        if (!(descriptor.flags & DESC_NEXT))
            return 0;
        next = descriptor.next;
        if (next >= count)
            return -EINVAL;
    }
    return -ELOOP;
}

static int walk(struct sc_virtqueue *vq, struct sc_chain *chain, uint16_t head)
{
    uint16_t next = head;
    for (uint16_t seen = 0; seen < vq->size; seen++) {
        struct split_descriptor descriptor;
        memcpy(&descriptor, vq->descriptors + (size_t)next * sizeof(descriptor), sizeof(descriptor));
        if (descriptor.flags & DESC_INDIRECT)
            return add_indirect(vq, chain, &descriptor);
        int result =
            sc_chain_add(vq->memory, chain, descriptor.address, descriptor.length, descriptor.flags & DESC_WRITE);
        if (result < 0)
            return result;
        if (!(descriptor.flags & DESC_NEXT))
            return 0;
        next = descriptor.next;
        if (next >= vq->size)
            return -EINVAL;
    }
    return -ELOOP;
}

static int next_head(struct sc_virtqueue *vq, uint16_t *head)
{
    if (vq->resubmit_next < vq->resubmit_count) {
        *head = vq->resubmit[vq->resubmit_next++];
        vq->outstanding++;
        return 1;
    }
    uint16_t waiting = (uint16_t)(load(AVAIL_INDEX(vq)) - vq->next_avail);
    if (waiting == 0)
        return 0;
    if (waiting > vq->size)
        return -EINVAL;
    if (vq->outstanding >= vq->size)
        return -EOVERFLOW;
    *head = __atomic_load_n(&AVAIL_RING(vq)[vq->next_avail % vq->size], __ATOMIC_RELAXED);
    if (*head >= vq->size)
        return -EINVAL;
    vq->next_avail++;
    vq->outstanding++;
    if (vq->inflight_split) {
        vq->inflight_split->desc[*head].counter = vq->inflight_counter++;
        __atomic_store_n(&vq->inflight_split->desc[*head].inflight, 1, __ATOMIC_RELEASE);
    }
    return 1;
}

int sc_split_pop(struct sc_virtqueue *vq, struct sc_chain *chain)
{
    uint16_t head;
    int result = next_head(vq, &head);
    if (result <= 0)
        return result < 0 ? sc_vq_break(vq, result) : 0;
    chain->id = head;
    result = walk(vq, chain, head);
    return result < 0 ? sc_vq_break(vq, result) : 1;
}

void sc_split_push(struct sc_virtqueue *vq, const struct sc_chain *chain, uint32_t written)
{
    uint16_t slot = vq->next_used % vq->size;
    struct used_element *element = &USED_RING(vq)[slot];
    element->id = chain->id;
    element->length = written;
    mark_used(vq, 4 + slot * sizeof(*element), sizeof(*element));
    if (vq->inflight_split) {
        vq->inflight_split->desc[chain->id].next = vq->inflight_split->last_batch_head;
        sc_inflight_order();
        vq->inflight_split->last_batch_head = chain->id;
    }
    vq->batch[vq->batch_count++] = chain->id;
    vq->next_used++;
}

static void note_batch(struct sc_virtqueue *vq)
{
    struct sc_inflight_split *region = vq->inflight_split;
    if (region) {
        sc_inflight_order();
        for (uint16_t i = 0; i < vq->batch_count; i++)
            region->desc[vq->batch[i]].inflight = 0;
        __atomic_store_n(&region->used_idx, vq->next_used, __ATOMIC_RELEASE);
    }
    vq->outstanding = (uint16_t)(vq->outstanding - vq->batch_count);
    vq->batch_count = 0;
}

bool sc_split_publish(struct sc_virtqueue *vq)
{
    mark_used(vq, 2, 2);
    __atomic_store_n(USED_INDEX(vq), vq->next_used, __ATOMIC_RELEASE);
    note_batch(vq);
    /* The driver writes its wish and then reads our index; we wrote the index and now read the wish. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    uint16_t before = vq->signalled_used;
    bool valid = vq->signalled_valid;
    vq->signalled_used = vq->next_used;
    vq->signalled_valid = true;
    if (!vq->event_idx)
        return !(load(AVAIL_FLAGS(vq)) & AVAIL_NO_INTERRUPT);
    return !valid || sc_need_event(load(USED_EVENT(vq)), vq->next_used, before);
}

void sc_split_notifications(struct sc_virtqueue *vq, bool on)
{
    if (vq->event_idx) {
        if (!on)
            return; /* a stale event index keeps the driver quiet */
        __atomic_store_n(AVAIL_EVENT(vq), vq->next_avail, __ATOMIC_RELEASE);
        mark_used(vq, 4 + vq->size * sizeof(struct used_element), 2);
    } else {
        __atomic_store_n(USED_FLAGS(vq), on ? 0 : USED_NO_NOTIFY, __ATOMIC_RELEASE);
        mark_used(vq, 0, 2);
    }
}
