/* SPDX-License-Identifier: MIT
 *
 * Block requests of the fuzzer's on a small image: none reaches beyond the image or guest memory.
 *
 * Input: flags of the ring, queue size, flags of the disk, guest memory.
 */
#include "guest.h"

#include "blk.h"

#define HEAD 3
#define IMAGE_SIZE (64u << 10)
#define READ_ONLY 1
#define DISCARD 2
#define DETECT_ZEROES 4
#define WRITETHROUGH 8

static struct sc_blk *new_disk(int fd, uint8_t flags, uint16_t queue_size)
{
    struct sc_blk_options options = {
        .engine = "off",
        .fd = fd,
        .size = IMAGE_SIZE,
        .alignment = 1,
        .queues = 1,
        .queue_size = queue_size,
        .workers = 1,
        .read_only = flags & READ_ONLY,
        .discard = flags & DISCARD,
        .detect_zeroes = flags & DETECT_ZEROES,
    };
    struct sc_blk *blk = sc_blk_new(&options);
    if (!blk)
        abort();
    sc_blk_set_features(blk, ~0ull);
    sc_blk_set_writethrough(blk, flags & WRITETHROUGH);
    return blk;
}

/* What a worker does, without its thread: aio=off completes a request where it begins. */
static void serve(struct guest *guest, struct sc_blk *blk)
{
    struct sc_virtqueue *vq = &blk->queues[0];
    struct sc_worker *worker = &blk->workers[0];
    struct sc_blk_request *request = blk->free[0];

    worker->blk = blk;
    for (unsigned i = 0; i < 64; i++) {
        request = blk->free[0];
        request->vq = vq;
        if (sc_vq_pop(vq, &request->chain) <= 0)
            break;
        if (!guest_owns(guest, &request->chain))
            abort();
        blk->free[0] = request->next ? request->next : request + 1;
        sc_blk_begin(worker, request);
        sc_vq_publish(vq);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct guest guest;
    static int image = -1;

    if (size < HEAD)
        return 0;
    if (image < 0)
        image = memfd_create("image", MFD_CLOEXEC);
    if (ftruncate(image, IMAGE_SIZE))
        abort();
    guest_open(&guest, data + HEAD, size - HEAD);
    struct sc_virtqueue shape = {0};
    guest_ring(&guest, &shape, data[0], data[1]);
    struct sc_blk *blk = new_disk(image, data[2], shape.size);
    struct sc_vq_stats *stats = blk->queues[0].stats;
    shape.stats = stats;
    blk->queues[0] = shape;
    if (sc_vq_start(&blk->queues[0], 0) == 0)
        serve(&guest, blk);
    if (lseek(image, 0, SEEK_END) != IMAGE_SIZE)
        abort();
    guest_close(&guest);
    sc_blk_free(blk);
    return 0;
}
