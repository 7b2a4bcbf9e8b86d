/* SPDX-License-Identifier: MIT
 *
 * A packed ring started again and again on a region whose head somebody changes meanwhile: whoever kept the file may.
 * The ring ends where nothing can be read or written, so believing a position that was not checked is the end.
 *
 *   inflight_race STARTS
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../../backends/runtime/inflight.h"
#include "../../backends/runtime/virtqueue.h"

#define SIZE 16
#define PAGE 4096
#define NOWHERE 0xFFF0
#define START 0x80008000u

static struct sc_inflight_packed *region;
static bool over;

static void *change(void *unused)
{
    (void)unused;
    while (!__atomic_load_n(&over, __ATOMIC_RELAXED)) {
        region->version = SC_INFLIGHT_VERSION;
        region->desc_num = SIZE;
        region->free_head = 1;
        region->old_free_head = 2;
        __atomic_store_n(&region->old_used_idx, 3, __ATOMIC_RELAXED);
        __atomic_store_n(&region->used_idx, 3, __ATOMIC_RELAXED);
        for (volatile int pause = 0; pause < 20; pause++)
            ;
        __atomic_store_n(&region->old_used_idx, NOWHERE, __ATOMIC_RELAXED);
        __atomic_store_n(&region->used_idx, NOWHERE, __ATOMIC_RELAXED);
    }
    return NULL;
}

static void start(uint8_t *ring, uint8_t *areas)
{
    static struct sc_chain chain;
    static struct sc_virtqueue vq;
    static struct sc_vq_stats stats;
    static struct sc_memory map;
    memset(&vq, 0, sizeof(vq));
    vq.memory = &map;
    vq.size = SIZE;
    vq.packed = true;
    vq.kick_fd = vq.call_fd = vq.error_fd = -1;
    vq.descriptors = ring;
    vq.driver = areas;
    vq.device = areas + 64;
    vq.stats = &stats;
    sc_vq_set_inflight(&vq, region);
    if (sc_vq_start(&vq, START) < 0)
        return;
    if (vq.next_used >= SIZE || vq.next_avail >= SIZE) {
        fprintf(stderr, "a position of %u, %u in a ring of %u\n", vq.next_used, vq.next_avail, SIZE);
        exit(1);
    }
    sc_vq_pop(&vq, &chain);
}

int main(int count, char **words)
{
    long starts = count > 1 ? atol(words[1]) : 0;
    uint8_t *pages = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    static uint8_t areas[128];
    pthread_t thread;
    region = calloc(1, PAGE);
    mprotect(pages + PAGE, PAGE, PROT_NONE);
    pthread_create(&thread, NULL, change, NULL);
    for (long i = 0; i < starts; i++)
        start(pages + PAGE - SIZE * 16, areas);
    __atomic_store_n(&over, true, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    return 0;
}
