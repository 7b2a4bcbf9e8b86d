/* SPDX-License-Identifier: MIT
 *
 * A guest made of the fuzzer's bytes: its memory, and a second thread that changes it while the device reads it.
 */
#ifndef STRATOCELL_FUZZ_GUEST_H
#define STRATOCELL_FUZZ_GUEST_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "virtqueue.h"

#define GUEST_SIZE 0x8000u /* two regions with a hole between them */
#define HOLE 0x4000u
#define DESCRIPTORS 0x0u
#define DRIVER 0x1000u
#define DEVICE 0x2000u
#define USER 0x7f0000000000ull

ssize_t __real_write(int fd, const void *data, size_t size);
ssize_t __wrap_write(int fd, const void *data, size_t size);

/* The linker's --wrap. A ring that breaks says so on standard error: nobody wants that of a million inputs. */
ssize_t __wrap_write(int fd, const void *data, size_t size)
{
    return fd == STDERR_FILENO ? (ssize_t)size : __real_write(fd, data, size);
}

struct guest {
    struct sc_memory memory;
    uint8_t *low, *high;
    const uint8_t *flips; /* what the other vCPU writes: pairs of place and value */
    size_t flip_count;
    pthread_t thread;
    bool stop;
};

static inline void *guest_other_vcpu(void *opaque)
{
    struct guest *guest = opaque;
    for (size_t i = 0; !__atomic_load_n(&guest->stop, __ATOMIC_RELAXED); i = (i + 3) % guest->flip_count) {
        const uint8_t *flip = guest->flips + i;
        uint16_t place = (uint16_t)(flip[0] | flip[1] << 8) % (GUEST_SIZE / 2);
        __atomic_store_n(guest->low + place, flip[2], __ATOMIC_RELAXED);
    }
    return NULL;
}

/* Memory starts with `data`, spread over the three parts of the ring and the buffers. */
static inline void guest_open(struct guest *guest, const uint8_t *data, size_t size)
{
    static int fd = -1;
    if (fd < 0) {
        fd = memfd_create("guest", MFD_CLOEXEC);
        if (ftruncate(fd, GUEST_SIZE))
            abort();
    }
    memset(guest, 0, sizeof(*guest));
    if (sc_memory_add(&guest->memory, 0, GUEST_SIZE / 2, USER, fd, 0) ||
        sc_memory_add(&guest->memory, GUEST_SIZE / 2 + HOLE, GUEST_SIZE / 2, USER + GUEST_SIZE, fd, GUEST_SIZE / 2))
        abort();
    guest->low = guest->memory.regions[0].host;
    guest->high = guest->memory.regions[1].host;
    memset(guest->low, 0, GUEST_SIZE / 2);
    memset(guest->high, 0, GUEST_SIZE / 2);
    static const unsigned parts[] = {DESCRIPTORS, DRIVER, DEVICE, 0x3000};
    for (unsigned i = 0; i < 4; i++)
        memcpy(guest->low + parts[i], data + size * i / 4, (size * (i + 1) / 4 - size * i / 4) % 0x1000);
    guest->flips = data;
    guest->flip_count = size - size % 3;
    if (guest->flip_count && pthread_create(&guest->thread, NULL, guest_other_vcpu, guest))
        abort();
}

static inline void guest_close(struct guest *guest)
{
    __atomic_store_n(&guest->stop, true, __ATOMIC_RELAXED);
    if (guest->flip_count)
        pthread_join(guest->thread, NULL);
    sc_memory_clear(&guest->memory);
}

/* Whether all of a chain's buffers lie in guest memory; what a device does with them is then its own affair. */
static inline bool guest_owns(const struct guest *guest, const struct sc_chain *chain)
{
    for (uint32_t i = 0; i < chain->readable + chain->writable; i++) {
        const uint8_t *start = chain->iov[i].iov_base, *end = start + chain->iov[i].iov_len;
        bool low = start >= guest->low && end <= guest->low + GUEST_SIZE / 2;
        bool high = start >= guest->high && end <= guest->high + GUEST_SIZE / 2;
        if (!low && !high)
            return false;
    }
    return true;
}

/* A stopped queue at the ring's three places. */
static inline void guest_ring(struct guest *guest, struct sc_virtqueue *vq, uint8_t flags, uint8_t size)
{
    static struct sc_vq_stats stats;
    if (!vq->stats)
        vq->stats = &stats;
    vq->memory = &guest->memory;
    vq->packed = flags & 1;
    vq->event_idx = flags & 2;
    vq->indirect = flags & 4;
    vq->size = (uint16_t)(vq->packed ? 1 + size % 64 : 1 << size % 7);
    vq->kick_fd = vq->call_fd = vq->error_fd = -1;
    vq->descriptors = guest->low + DESCRIPTORS;
    vq->driver = guest->low + DRIVER;
    vq->device = guest->low + DEVICE;
    vq->descriptors_gpa = DESCRIPTORS;
    vq->device_gpa = DEVICE;
    vq->ready = vq->enabled = true;
}

#endif
