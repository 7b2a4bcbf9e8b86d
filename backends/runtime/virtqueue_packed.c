/* SPDX-License-Identifier: MIT
 *
 * Packed virtqueues (virtio 1.2, 2.8). A descriptor's flags say whose turn it is, relative to a wrap counter.
 */
#include <errno.h>
#include <string.h>

#include "inflight.h"
#include "virtqueue.h"

#define DESC_NEXT 1
#define DESC_WRITE 2
#define DESC_INDIRECT 4
#define DESC_AVAIL (1 << 7)
#define DESC_USED (1 << 15)
#define EVENT_ENABLE 0
#define EVENT_DISABLE 1
#define EVENT_DESC 2
#define WRAP_BIT 0x8000

struct packed_descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t id;
    uint16_t flags;
};

struct event_suppression {
    uint16_t offset_wrap;
    uint16_t flags;
};

static struct packed_descriptor *slot(const struct sc_virtqueue *vq, uint16_t index)
{
    return (struct packed_descriptor *)vq->descriptors + index;
}

static bool is_available(uint16_t flags, bool wrap)
{
    return !!(flags & DESC_AVAIL) == wrap && !!(flags & DESC_USED) != wrap;
}

bool sc_packed_available(const struct sc_virtqueue *vq)
{
    return is_available(__atomic_load_n(&slot(vq, vq->next_avail)->flags, __ATOMIC_ACQUIRE), vq->avail_wrap);
}

static void advance(uint16_t *index, bool *wrap, uint16_t by, uint16_t size)
{
    *index = (uint16_t)(*index + by);
    if (*index >= size) {
        *index = (uint16_t)(*index - size);
        *wrap = !*wrap;
    }
}

static void clear_region(struct sc_virtqueue *vq)
{
    struct sc_inflight_packed *region = vq->inflight_packed;
    memset(region, 0, sizeof(*region) + vq->size * sizeof(region->desc[0]));
    region->desc_num = vq->size;
    for (uint16_t i = 0; i < vq->size; i++)
        region->desc[i].next = (uint16_t)(i + 1);
    region->used_idx = region->old_used_idx = vq->next_used;
    region->used_wrap_counter = region->old_used_wrap_counter = vq->used_wrap;
    sc_inflight_order();
    region->version = SC_INFLIGHT_VERSION;
}

/* A completion that the crash cut in two is either visible to the driver, and then done, or taken back. It stores, in
 * this order: free_head, used_idx and its wrap counter, the ring's descriptor, the entry's mark, old_free_head, the
 * other old_ ones. So with both free heads equal it had got past the mark: the new position holds.
 */
static void settle(struct sc_virtqueue *vq, struct sc_inflight_packed *head)
{
    struct sc_inflight_packed *region = vq->inflight_packed;
    if (head->free_head == head->old_free_head)
        return;
    uint16_t flags = __atomic_load_n(&slot(vq, head->old_used_idx)->flags, __ATOMIC_ACQUIRE);
    bool used = flags & DESC_USED, wrap = head->old_used_wrap_counter & 1;
    bool moved = head->used_idx != head->old_used_idx || (head->used_wrap_counter & 1) != wrap;
    if (moved && used == wrap) { /* whatever AVAIL says: the driver may have filled the slot again */
        if (head->free_head < vq->size)
            region->desc[head->free_head].inflight = 0;
    } else {
        region->used_idx = head->used_idx = head->old_used_idx;
        region->used_wrap_counter = head->used_wrap_counter = head->old_used_wrap_counter;
    }
}

/* Chains in flight own their entries; the rest is free, in a list through `next`. -EPROTO when two chains overlap. */
static int rebuild_free_list(struct sc_virtqueue *vq)
{
    struct sc_inflight_packed *region = vq->inflight_packed;
    bool taken[SC_MAX_QUEUE_SIZE] = {false};
    for (uint16_t i = 0; i < vq->resubmit_count; i++) {
        uint16_t entry = vq->resubmit[i];
        for (uint16_t left = region->desc[entry].num; left > 0; left--) {
            if (entry >= vq->size || taken[entry])
                return -EPROTO;
            taken[entry] = true;
            region->desc[vq->resubmit[i]].last = entry;
            entry = region->desc[entry].next;
        }
    }
    uint16_t head = vq->size;
    for (uint16_t i = vq->size; i > 0; i--)
        if (!taken[i - 1]) {
            region->desc[i - 1].next = head;
            head = (uint16_t)(i - 1);
        }
    region->free_head = region->old_free_head = head;
    region->old_used_idx = region->used_idx;
    region->old_used_wrap_counter = region->used_wrap_counter;
    return 0;
}

/* -EPROTO for a region that cannot be of this ring: doing the wrong requests again is worse than none. */
static int recover(struct sc_virtqueue *vq)
{
    struct sc_inflight_packed *region = vq->inflight_packed;
    if (!region)
        return 0;
    struct sc_inflight_packed head = *region; /* once: whoever kept the file may change it at this moment */
    sc_inflight_order();
    if (head.version == 0 || head.desc_num != vq->size) {
        clear_region(vq);
        return 0;
    }
    if (head.version != SC_INFLIGHT_VERSION || head.old_used_idx >= vq->size || head.used_idx >= vq->size)
        return -EPROTO;
    settle(vq, &head);
    uint16_t base_used = vq->next_used;
    bool base_wrap = vq->used_wrap;
    vq->next_used = head.used_idx;
    vq->used_wrap = head.used_wrap_counter & 1;
    uint32_t slots = 0;
    for (uint16_t i = 0; i < vq->size; i++)
        if (region->desc[i].inflight == 1) {
            uint16_t count = __atomic_load_n(&region->desc[i].num, __ATOMIC_RELAXED);
            slots += count;
            if (count == 0 || slots > vq->size)
                return -EPROTO;
            sc_inflight_resubmit(vq, i, region->desc[i].counter);
        }
    if (vq->inflight_followed && vq->resubmit_count == 0) {
        vq->next_used = base_used;
        vq->used_wrap = base_wrap;
        clear_region(vq);
        return 0;
    }
    sc_inflight_sort(vq);
    vq->next_avail = vq->next_used;
    vq->avail_wrap = vq->used_wrap;
    advance(&vq->next_avail, &vq->avail_wrap, (uint16_t)slots, vq->size);
    return rebuild_free_list(vq);
}

int sc_packed_start(struct sc_virtqueue *vq, uint32_t base)
{
    vq->next_avail = base & 0x7FFF;
    vq->avail_wrap = base >> 15 & 1;
    vq->next_used = base >> 16 & 0x7FFF;
    vq->used_wrap = base >> 31 & 1;
    if (vq->next_avail >= vq->size || vq->next_used >= vq->size)
        return -EINVAL;
    return recover(vq);
}

static int add_indirect(struct sc_virtqueue *vq, struct sc_chain *chain, uint64_t address, uint32_t length)
{
    if (!vq->indirect || length == 0 || length % sizeof(struct packed_descriptor))
        return -EINVAL;
    uint32_t count = length / (uint32_t)sizeof(struct packed_descriptor);
    if (count > SC_MAX_SEGMENTS)
        return -E2BIG;
    for (uint32_t i = 0; i < count; i++) {
        struct packed_descriptor descriptor;
        int result = sc_memory_read(vq->memory, address + i * sizeof(descriptor), &descriptor, sizeof(descriptor));
        if (result < 0)
            return result;
        if (descriptor.flags & DESC_INDIRECT)
            return -EINVAL;
        result = sc_chain_add(vq->memory, chain, descriptor.address, descriptor.length, descriptor.flags & DESC_WRITE);
        if (result < 0)
            return result;
    }
    return 0;
}

static int add_one(struct sc_virtqueue *vq, struct sc_chain *chain, const struct packed_descriptor *descriptor,
                   uint16_t position)
{
    if (!(descriptor->flags & DESC_INDIRECT))
        return sc_chain_add(vq->memory, chain, descriptor->address, descriptor->length, descriptor->flags & DESC_WRITE);
    if (position > 0 || descriptor->flags & DESC_NEXT)
        return -EINVAL;
    return add_indirect(vq, chain, descriptor->address, descriptor->length);
}

/* The ring's slots are overwritten by used descriptors, so the region keeps a copy of each chain. */
static int remember(struct sc_virtqueue *vq, struct sc_chain *chain, const struct packed_descriptor *copies,
                    uint16_t count)
{
    struct sc_inflight_packed *region = vq->inflight_packed;
    uint16_t head = region->free_head, entry = head, last = head;
    for (uint16_t i = 0; i < count; i++) {
        if (entry >= vq->size)
            return -EINVAL;
        struct sc_inflight_packed_entry *to = &region->desc[entry];
        to->addr = copies[i].address;
        to->len = copies[i].length;
        to->id = copies[i].id;
        to->flags = copies[i].flags;
        last = entry;
        entry = to->next;
    }
    region->desc[head].num = count;
    region->desc[head].last = last;
    region->desc[head].counter = vq->inflight_counter++;
    __atomic_store_n(&region->desc[head].inflight, 1, __ATOMIC_RELEASE);
    sc_inflight_order();
    region->free_head = region->old_free_head = entry;
    chain->inflight = head;
    return 0;
}

static int replay(struct sc_virtqueue *vq, struct sc_chain *chain)
{
    const struct sc_inflight_packed *region = vq->inflight_packed;
    uint16_t head = vq->resubmit[vq->resubmit_next++], entry = head;
    chain->inflight = head;
    chain->slots = __atomic_load_n(&region->desc[head].num, __ATOMIC_RELAXED);
    if (chain->slots == 0 || chain->slots > vq->size)
        return -EINVAL;
    for (uint16_t i = 0; i < chain->slots; i++) {
        if (entry >= vq->size)
            return -EINVAL;
        const struct sc_inflight_packed_entry *from = &region->desc[entry];
        struct packed_descriptor descriptor = {
            .address = from->addr, .length = from->len, .id = from->id, .flags = from->flags};
        chain->id = descriptor.id;
        int result = add_one(vq, chain, &descriptor, i);
        if (result < 0)
            return result;
        entry = from->next;
    }
    if (chain->id >= vq->size)
        return -EINVAL;
    return 1;
}

static int take(struct sc_virtqueue *vq, struct sc_chain *chain)
{
    static __thread struct packed_descriptor copies[SC_MAX_QUEUE_SIZE];
    uint16_t index = vq->next_avail, count = 0;
    bool wrap = vq->avail_wrap, more = true;
    while (more) {
        if (count == vq->size)
            return -ELOOP;
        struct packed_descriptor *copy = &copies[count];
        copy->flags = __atomic_load_n(&slot(vq, index)->flags, __ATOMIC_ACQUIRE);
        if (!is_available(copy->flags, wrap))
            return count ? -EINVAL : 0;
        copy->address = slot(vq, index)->address;
        copy->length = slot(vq, index)->length;
        copy->id = slot(vq, index)->id;
        int result = add_one(vq, chain, copy, count);
        if (result < 0)
            return result;
        more = copy->flags & DESC_NEXT;
        chain->id = copy->id;
        count++;
        advance(&index, &wrap, 1, vq->size);
    }
    if (chain->id >= vq->size)
        return -EINVAL;
    chain->slots = count;
    int result = vq->inflight_packed ? remember(vq, chain, copies, count) : 0;
    if (result < 0)
        return result;
    vq->next_avail = index;
    vq->avail_wrap = wrap;
    return 1;
}

int sc_packed_pop(struct sc_virtqueue *vq, struct sc_chain *chain)
{
    int result = vq->resubmit_next < vq->resubmit_count ? replay(vq, chain) : take(vq, chain);
    return result < 0 ? sc_vq_break(vq, result) : result;
}

/* Each group of stores is seen by a successor only after those before it: see `settle`. */
static void note_begin(struct sc_virtqueue *vq, const struct sc_chain *chain, uint16_t next, bool wrap)
{
    struct sc_inflight_packed *region = vq->inflight_packed;
    uint16_t last = region->desc[chain->inflight].last;
    region->desc[last < vq->size ? last : chain->inflight].next = region->free_head;
    sc_inflight_order();
    region->free_head = chain->inflight;
    sc_inflight_order();
    region->used_idx = next;
    region->used_wrap_counter = wrap;
    sc_inflight_order();
}

static void note_end(struct sc_virtqueue *vq, const struct sc_chain *chain)
{
    struct sc_inflight_packed *region = vq->inflight_packed;
    sc_inflight_order();
    region->desc[chain->inflight].inflight = 0;
    sc_inflight_order();
    region->old_free_head = region->free_head;
    sc_inflight_order();
    region->old_used_idx = region->used_idx;
    region->old_used_wrap_counter = region->used_wrap_counter;
    sc_inflight_order();
}

void sc_packed_push(struct sc_virtqueue *vq, const struct sc_chain *chain, uint32_t written)
{
    struct packed_descriptor *descriptor = slot(vq, vq->next_used);
    uint16_t flags = vq->used_wrap ? DESC_AVAIL | DESC_USED : 0;
    uint64_t gpa = vq->descriptors_gpa + vq->next_used * sizeof(*descriptor);
    uint16_t next = vq->next_used;
    bool wrap = vq->used_wrap;
    advance(&next, &wrap, chain->slots, vq->size);
    if (vq->inflight_packed)
        note_begin(vq, chain, next, wrap);
    descriptor->id = chain->id;
    descriptor->length = written;
    sc_memory_mark(vq->memory, gpa, sizeof(*descriptor));
    __atomic_store_n(&descriptor->flags, (uint16_t)(flags | (written ? DESC_WRITE : 0)), __ATOMIC_RELEASE);
    vq->next_used = next;
    vq->used_wrap = wrap;
    if (vq->inflight_packed)
        note_end(vq, chain);
}

bool sc_packed_publish(struct sc_virtqueue *vq)
{
    const struct event_suppression *wish = (const struct event_suppression *)vq->driver;
    /* The used flags are out; only now look at what the driver wants. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    uint16_t before = vq->signalled_used, now = vq->next_used;
    bool valid = vq->signalled_valid;
    vq->signalled_used = now;
    vq->signalled_valid = true;
    uint16_t flags = __atomic_load_n(&wish->flags, __ATOMIC_ACQUIRE);
    if (flags == EVENT_DISABLE)
        return false;
    if (flags != EVENT_DESC || !vq->event_idx || !valid)
        return true;
    uint16_t offset_wrap = __atomic_load_n(&wish->offset_wrap, __ATOMIC_ACQUIRE);
    uint16_t event = offset_wrap & (WRAP_BIT - 1);
    if (!!(offset_wrap & WRAP_BIT) != vq->used_wrap)
        event = (uint16_t)(event - vq->size);
    if (now <= before)
        before = (uint16_t)(before - vq->size);
    return sc_need_event(event, now, before);
}

void sc_packed_notifications(struct sc_virtqueue *vq, bool on)
{
    struct event_suppression *wish = (struct event_suppression *)vq->device;
    uint16_t flags = on ? EVENT_ENABLE : EVENT_DISABLE;
    if (on && vq->event_idx) {
        uint16_t offset_wrap = (uint16_t)(vq->next_avail | (vq->avail_wrap ? WRAP_BIT : 0));
        __atomic_store_n(&wish->offset_wrap, offset_wrap, __ATOMIC_RELAXED);
        flags = EVENT_DESC;
    }
    __atomic_store_n(&wish->flags, flags, __ATOMIC_RELEASE);
    sc_memory_mark(vq->memory, vq->device_gpa, sizeof(*wish));
}
