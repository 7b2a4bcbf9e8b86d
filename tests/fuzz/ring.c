/* SPDX-License-Identifier: MIT
 *
 * Split and packed rings, with and without an inflight region of the fuzzer's: no driver and no predecessor makes a
 * device take a buffer that is not guest memory.
 *
 * Input: flags, queue size, base (2 bytes), steps (16), guest memory.
 */
#include "guest.h"

#include "inflight.h"

#define HEAD 20
#define STEPS 16
#define WITH_INFLIGHT 8

static struct sc_chain chain;

static void step(struct guest *guest, struct sc_virtqueue *vq, uint8_t what)
{
    switch (what % 8) {
    case 0:
        sc_vq_disable_notifications(vq);
        break;
    case 1:
        sc_vq_enable_notifications(vq);
        break;
    case 2:
        sc_vq_publish(vq);
        break;
    default:
        if (sc_vq_pop(vq, &chain) <= 0)
            break;
        if (!guest_owns(guest, &chain))
            abort();
        sc_vq_push(vq, &chain, what);
        if (what & 128)
            sc_vq_publish(vq);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct guest guest;
    struct sc_virtqueue vq = {0};
    uint8_t *region = NULL;

    if (size < HEAD)
        return 0;
    guest_open(&guest, data + HEAD, size - HEAD);
    guest_ring(&guest, &vq, data[0], data[1]);
    if (data[0] & WITH_INFLIGHT) {
        uint64_t length = sc_inflight_size(vq.size, vq.packed);
        region = calloc(1, length); /* the heap's: what lies past its end is seen */
        memcpy(region, data + HEAD, size - HEAD < length ? size - HEAD : length);
        sc_vq_set_inflight(&vq, region);
    }
    if (sc_vq_start(&vq, (uint32_t)(data[2] | data[3] << 8) * (vq.packed ? 0x10001u : 1)) == 0)
        for (unsigned i = 0; i < STEPS; i++)
            step(&guest, &vq, data[4 + i]);
    guest_close(&guest);
    free(region);
    return 0;
}
