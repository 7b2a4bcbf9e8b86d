/* SPDX-License-Identifier: MIT
 *
 * A backend that dies between any two instructions. A child serves a ring, one instruction at a time (ptrace). After
 * each that changed shared memory this process goes on from a copy, as a new backend would, and the driver must see
 * every request done once. With "again", the new backend dies at each of its instructions, too, until the ring has
 * started.
 *
 *   inflight_death split|packed [again] [refill]
 *
 * refill: the driver takes what is done and submits more before the new backend comes. Prints the number of deaths.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../backends/runtime/inflight.h"
#include "../../backends/runtime/virtqueue.h"

#define SIZE 16
#define IDS 6
#define DESCRIPTORS 0x0000
#define DRIVER 0x1000
#define DEVICE 0x2000
#define BUFFERS 0x3000
#define REGION 0x4000
#define LENGTH 0x6000
#define NEXT 1
#define WRITE 2
#define AVAIL (1 << 7)
#define USED (1 << 15)

struct driver {
    uint16_t next_avail, next_used;
    bool avail_wrap, used_wrap;
    bool busy[IDS];
    unsigned submitted, done;
};

struct descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t third, fourth; /* split: flags, next; packed: id, flags */
};

static bool packed, again, refill;
static unsigned deaths;
static uint8_t *memory; /* of the attempt that is being looked at */

static void require(bool truth, const char *what)
{
    if (truth)
        return;
    fprintf(stderr, "after %u deaths: %s\n", deaths, what);
    exit(1);
}

static unsigned slots_of(unsigned id)
{
    return 2 + id % 2;
}

static uint16_t *half(unsigned offset)
{
    return (uint16_t *)(memory + offset);
}

/* The driver. */

static void submit(struct driver *driver, unsigned id)
{
    struct descriptor *table = (struct descriptor *)(memory + DESCRIPTORS);
    unsigned count = packed ? slots_of(id) : 2, index = packed ? driver->next_avail : 2 * id, first = index;
    bool wrap = driver->avail_wrap;
    uint16_t first_flags = 0;
    for (unsigned i = 0; i < count; i++) {
        uint16_t flags = (i + 1 < count ? NEXT : 0) | (i ? WRITE : 0);
        table[index].address = BUFFERS + id * 64;
        table[index].length = 16;
        table[index].third = packed ? id : flags;
        if (packed) {
            flags |= wrap ? AVAIL : USED;
            if (i)
                table[index].fourth = flags;
            else
                first_flags = flags;
        } else
            table[index].fourth = (uint16_t)(index + 1);
        if (++index == SIZE && packed) {
            index = 0;
            wrap = !wrap;
        }
    }
    if (packed) {
        table[first].fourth = first_flags;
        driver->next_avail = (uint16_t)index;
        driver->avail_wrap = wrap;
    } else {
        half(DRIVER + 4)[driver->next_avail++ % SIZE] = (uint16_t)(2 * id);
        *half(DRIVER + 2) = driver->next_avail;
    }
    driver->busy[id] = true;
    driver->submitted++;
}

static void submit_all(struct driver *driver)
{
    for (unsigned id = 0; id < IDS; id++)
        if (!driver->busy[id])
            submit(driver, id);
}

static int next_done(struct driver *driver)
{
    if (!packed) {
        if (driver->next_used == *half(DEVICE + 2))
            return -1;
        uint32_t head = *(uint32_t *)(memory + DEVICE + 4 + driver->next_used++ % SIZE * 8);
        require(head % 2 == 0 && head / 2 < IDS, "the used ring names a descriptor that is no head");
        return (int)head / 2;
    }
    const struct descriptor *slot = (struct descriptor *)(memory + DESCRIPTORS) + driver->next_used;
    if (!!(slot->fourth & USED) != driver->used_wrap || !!(slot->fourth & AVAIL) != driver->used_wrap)
        return -1;
    require(slot->third < IDS, "a used descriptor has an unknown id");
    driver->next_used = (uint16_t)(driver->next_used + slots_of(slot->third));
    if (driver->next_used >= SIZE) {
        driver->next_used -= SIZE;
        driver->used_wrap = !driver->used_wrap;
    }
    return slot->third;
}

static void reap(struct driver *driver)
{
    for (int id; (id = next_done(driver)) >= 0; driver->done++) {
        require(driver->busy[id], "a request was completed twice");
        driver->busy[id] = false;
    }
}

/* The device. */

static void make_queue(struct sc_virtqueue *vq, struct sc_memory *map, struct sc_vq_stats *stats)
{
    memset(vq, 0, sizeof(*vq));
    memset(map, 0, sizeof(*map));
    map->regions[0] = (struct sc_region){.gpa = 0, .size = REGION, .host = memory};
    map->count = 1;
    vq->memory = map;
    vq->size = SIZE;
    vq->packed = packed;
    vq->kick_fd = vq->call_fd = vq->error_fd = -1;
    vq->descriptors = memory + DESCRIPTORS;
    vq->driver = memory + DRIVER;
    vq->device = memory + DEVICE;
    vq->stats = stats;
    sc_vq_set_inflight(vq, memory + REGION);
}

static uint32_t first_base(void)
{
    return packed ? 0x80008000u : *half(DEVICE + 2);
}

/* Take everything, give it back in another order, in batches. */
static void serve(struct sc_virtqueue *vq, unsigned batch)
{
    static struct sc_chain chains[IDS];
    unsigned count = 0;
    while (sc_vq_has_available(vq)) {
        require(count < IDS, "more requests than were submitted");
        require(sc_vq_pop(vq, &chains[count++]) == 1, "a request that cannot be taken");
    }
    for (unsigned i = 0; i < count; i++) {
        sc_vq_push(vq, &chains[count - 1 - i], 16);
        if ((i + 1) % batch == 0)
            sc_vq_publish(vq);
    }
    sc_vq_publish(vq);
}

static struct sc_virtqueue queue;
static struct sc_memory map;
static struct sc_vq_stats stats;

static void first_life(void)
{
    serve(&queue, 2);
    _exit(0);
}

static void second_start(void)
{
    make_queue(&queue, &map, &stats);
    sc_vq_start(&queue, first_base());
    _exit(0);
}

/* After the last death: whatever was submitted is done once, and the ring is good for more. */
static void go_on(struct driver driver)
{
    make_queue(&queue, &map, &stats);
    require(sc_vq_start(&queue, first_base()) == 0, "the new backend refused the region");
    serve(&queue, 1);
    reap(&driver);
    require(driver.done == driver.submitted, "a request was lost");
    for (unsigned round = 0; round < 5; round++) {
        submit_all(&driver);
        serve(&queue, 1 + round % 3);
        reap(&driver);
        require(driver.done == driver.submitted, "the ring lost a request later");
    }
}

/* Run `life` in a child and look at `shared` after each instruction that changed it. */
static void step_through(uint8_t *shared, void (*life)(void), struct driver driver,
                         void (*then)(const uint8_t *, struct driver))
{
    uint8_t *before = malloc(LENGTH);
    memcpy(before, shared, LENGTH);
    memory = shared;
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        life();
    }
    int status;
    waitpid(child, &status, 0);
    while (WIFSTOPPED(status)) {
        if (memcmp(before, shared, LENGTH)) {
            memcpy(before, shared, LENGTH);
            then(shared, driver);
        }
        ptrace(PTRACE_SINGLESTEP, child, NULL, NULL);
        waitpid(child, &status, 0);
    }
    require(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child failed");
    then(shared, driver);
    free(before);
}

static void check(const uint8_t *shared, struct driver driver)
{
    uint8_t *copy = malloc(LENGTH);
    memcpy(copy, shared, LENGTH);
    memory = copy;
    deaths++;
    if (refill) {
        reap(&driver);
        submit_all(&driver);
    }
    go_on(driver);
    free(copy);
}

static void look(const uint8_t *shared, struct driver driver)
{
    if (!again) {
        check(shared, driver);
        return;
    }
    uint8_t *second = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    memcpy(second, shared, LENGTH);
    step_through(second, second_start, driver, check);
    munmap(second, LENGTH);
}

int main(int count, char **arguments)
{
    for (int i = 1; i < count; i++) {
        packed |= strcmp(arguments[i], "packed") == 0;
        again |= strcmp(arguments[i], "again") == 0;
        refill |= strcmp(arguments[i], "refill") == 0;
    }
    uint8_t *shared = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    memory = shared;
    struct driver driver = {.avail_wrap = true, .used_wrap = true};
    make_queue(&queue, &map, &stats);
    require(sc_vq_start(&queue, first_base()) == 0, "a fresh region was refused");
    for (unsigned round = 0; round < 3; round++) { /* a different place in the ring each time */
        submit_all(&driver);
        step_through(shared, first_life, driver, look);
        memory = shared;
        reap(&driver);
        require(driver.done == driver.submitted, "the first life lost a request");
        make_queue(&queue, &map, &stats);
        require(sc_vq_start(&queue, first_base()) == 0, "an idle region was refused");
    }
    printf("%u\n", deaths);
    return 0;
}
