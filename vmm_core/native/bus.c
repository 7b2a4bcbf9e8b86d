/* SPDX-License-Identifier: MIT
 *
 * Address decode. Readers (vCPU threads) never lock: they look at an immutable table. A writer publishes a changed copy
 * and frees the old one when every reader has left it. The doorbell's eventfd is written inside the read section, so
 * when sc_bus_remove_doorbell returns, the descriptor is no longer in use and may be closed.
 */
#include "bus.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "uart.h"

#define VIRTIO_MMIO_LENGTH 0x200
#define VIRTIO_MMIO_INTERRUPT_STATUS 0x60
#define VIRTIO_MMIO_INTERRUPT_ACK 0x64
#define VIRTIO_INTERRUPT_VRING 1u
#define UART_LENGTH 8
#define READER_SLOTS 256 /* one per vCPU, so that vCPUs do not share cache lines */
#define SPINS 200        /* a read section takes about a microsecond, unless its thread is preempted */
#define NAP_NS 50000

enum range_kind { RANGE_COLD, RANGE_UART, RANGE_VIRTIO_MMIO };

struct range {
    uint64_t base;
    uint64_t last;
    enum range_kind kind;
    void *target;
};

struct doorbell {
    uint64_t address;
    uint64_t match;
    uint32_t size;
    int fd;
    bool match_any;
};

/* Sorted arrays: ranges by base; doorbells by address, match_any first, then match. */
struct space {
    size_t range_count;
    size_t doorbell_count;
    struct range *ranges;
    struct doorbell *doorbells;
};

struct table {
    struct space spaces[2]; /* MMIO, PIO */
};

/* Readers inside, counted by the phase they entered in. */
struct reader_slot {
    _Alignas(64) atomic_uint active[2];
};

struct sc_bus {
    struct reader_slot readers[READER_SLOTS];
    _Atomic(struct table *) table;
    atomic_uint phase;
    pthread_mutex_t writer;
};

static atomic_uint next_reader;
static _Thread_local unsigned reader_number;

static void table_free(struct table *table)
{
    for (int i = 0; i < 2; i++) {
        free(table->spaces[i].ranges);
        free(table->spaces[i].doorbells);
    }
    free(table);
}

/* Copy with room for one more range and one more doorbell in each space. */
static struct table *table_copy(const struct table *old)
{
    struct table *copy = calloc(1, sizeof *copy);
    if (!copy)
        return NULL;
    for (int i = 0; i < 2; i++) {
        const struct space *from = &old->spaces[i];
        struct space *to = &copy->spaces[i];
        *to = *from;
        to->ranges = malloc((from->range_count + 1) * sizeof *to->ranges);
        to->doorbells = malloc((from->doorbell_count + 1) * sizeof *to->doorbells);
        if (!to->ranges || !to->doorbells) {
            table_free(copy);
            return NULL;
        }
        if (from->range_count)
            memcpy(to->ranges, from->ranges, from->range_count * sizeof *to->ranges);
        if (from->doorbell_count)
            memcpy(to->doorbells, from->doorbells, from->doorbell_count * sizeof *to->doorbells);
    }
    return copy;
}

struct sc_bus *sc_bus_new(void)
{
    struct sc_bus *bus = aligned_alloc(64, sizeof *bus);
    struct table *table = calloc(1, sizeof *table);
    if (!bus || !table) {
        free(bus);
        free(table);
        return NULL;
    }
    memset(bus, 0, sizeof *bus);
    pthread_mutex_init(&bus->writer, NULL);
    atomic_init(&bus->table, table);
    return bus;
}

void sc_bus_free(struct sc_bus *bus)
{
    if (!bus)
        return;
    table_free(atomic_load(&bus->table));
    pthread_mutex_destroy(&bus->writer);
    free(bus);
}

/* --- changing the table ------------------------------------------------------------------------------------------ */

/* A preempted reader needs a CPU to leave, so do not keep one busy for long. */
static void wait_for_zero(const atomic_uint *active)
{
    const struct timespec nap = {.tv_nsec = NAP_NS};
    for (unsigned spins = 0; atomic_load(active); spins++)
        if (spins > SPINS)
            nanosleep(&nap, NULL);
}

/* A reader that entered before the new table was published counts in one of the phases until it leaves; one that enters
 * later sees the new table. So both counters of each slot have to be seen at zero. Changing the phase first makes that
 * happen soon: those who come in count elsewhere. */
static void wait_for_readers(struct sc_bus *bus)
{
    for (int round = 0; round < 2; round++) {
        unsigned old = atomic_fetch_xor(&bus->phase, 1);
        for (unsigned i = 0; i < READER_SLOTS; i++)
            wait_for_zero(&bus->readers[i].active[old]);
    }
}

static void publish(struct sc_bus *bus, struct table *table)
{
    struct table *old = atomic_exchange(&bus->table, table);
    wait_for_readers(bus);
    table_free(old);
}

/* First range whose end is not below `address`. */
static size_t find_range(const struct space *space, uint64_t address)
{
    size_t low = 0, high = space->range_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (space->ranges[middle].last < address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int insert_range(struct space *space, const struct range *range)
{
    size_t at = find_range(space, range->base);
    if (at < space->range_count && space->ranges[at].base <= range->last)
        return -EEXIST;
    memmove(space->ranges + at + 1, space->ranges + at, (space->range_count - at) * sizeof *range);
    space->ranges[at] = *range;
    space->range_count++;
    return 0;
}

static int remove_range(struct space *space, uint64_t base)
{
    size_t at = find_range(space, base);
    if (at == space->range_count || space->ranges[at].base != base)
        return -ENOENT;
    space->range_count--;
    memmove(space->ranges + at, space->ranges + at + 1, (space->range_count - at) * sizeof *space->ranges);
    return 0;
}

static int compare_doorbell(const struct doorbell *bell, uint64_t address, bool match_any, uint64_t match)
{
    if (bell->address != address)
        return bell->address < address ? -1 : 1;
    if (bell->match_any != match_any)
        return bell->match_any ? -1 : 1;
    if (match_any || bell->match == match)
        return 0;
    return bell->match < match ? -1 : 1;
}

static size_t find_doorbell(const struct space *space, uint64_t address, bool match_any, uint64_t match)
{
    size_t low = 0, high = space->doorbell_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare_doorbell(&space->doorbells[middle], address, match_any, match) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct doorbell *exact_doorbell(const struct space *space, uint64_t address, bool match_any, uint64_t match)
{
    size_t at = find_doorbell(space, address, match_any, match);
    if (at == space->doorbell_count || compare_doorbell(&space->doorbells[at], address, match_any, match))
        return NULL;
    return &space->doorbells[at];
}

static int insert_doorbell(struct space *space, const struct doorbell *bell)
{
    size_t at = find_doorbell(space, bell->address, bell->match_any, bell->match);
    if (exact_doorbell(space, bell->address, bell->match_any, bell->match))
        return -EEXIST;
    memmove(space->doorbells + at + 1, space->doorbells + at, (space->doorbell_count - at) * sizeof *bell);
    space->doorbells[at] = *bell;
    space->doorbell_count++;
    return 0;
}

static int remove_doorbell(struct space *space, const struct doorbell *key)
{
    struct doorbell *bell = exact_doorbell(space, key->address, key->match_any, key->match);
    if (!bell)
        return -ENOENT;
    space->doorbell_count--;
    memmove(bell, bell + 1, (size_t)(space->doorbells + space->doorbell_count - bell) * sizeof *bell);
    return 0;
}

/* One registration or removal: exactly one of the arguments from `range` on is set. */
static int change(struct sc_bus *bus, bool is_pio, const struct range *range, const uint64_t *removed_base,
                  const struct doorbell *bell, const struct doorbell *removed_bell)
{
    int result;
    pthread_mutex_lock(&bus->writer);
    struct table *table = table_copy(atomic_load(&bus->table));
    if (!table) {
        pthread_mutex_unlock(&bus->writer);
        return -ENOMEM;
    }
    struct space *space = &table->spaces[is_pio];
    if (range)
        result = insert_range(space, range);
    else if (removed_base)
        result = remove_range(space, *removed_base);
    else if (bell)
        result = insert_doorbell(space, bell);
    else
        result = remove_doorbell(space, removed_bell);
    if (result)
        table_free(table);
    else
        publish(bus, table);
    pthread_mutex_unlock(&bus->writer);
    return result;
}

static int add_range(struct sc_bus *bus, bool is_pio, uint64_t base, uint64_t length, enum range_kind kind,
                     void *target)
{
    uint64_t last = base + length - 1;
    if (!length || last < base || (is_pio && last > 0xffff))
        return -EINVAL;
    struct range range = {.base = base, .last = last, .kind = kind, .target = target};
    return change(bus, is_pio, &range, NULL, NULL, NULL);
}

int sc_bus_add_cold(struct sc_bus *bus, bool is_pio, uint64_t base, uint64_t length)
{
    return add_range(bus, is_pio, base, length, RANGE_COLD, NULL);
}

int sc_bus_add_uart(struct sc_bus *bus, bool is_pio, uint64_t base, struct sc_uart *uart)
{
    return uart ? add_range(bus, is_pio, base, UART_LENGTH, RANGE_UART, uart) : -EINVAL;
}

int sc_bus_add_virtio_mmio(struct sc_bus *bus, uint64_t base, uint32_t *interrupt_state)
{
    return interrupt_state ? add_range(bus, false, base, VIRTIO_MMIO_LENGTH, RANGE_VIRTIO_MMIO, interrupt_state)
                           : -EINVAL;
}

int sc_bus_remove(struct sc_bus *bus, bool is_pio, uint64_t base)
{
    return change(bus, is_pio, NULL, &base, NULL, NULL);
}

int sc_bus_add_doorbell(struct sc_bus *bus, bool is_pio, uint64_t address, uint32_t size, bool match_any,
                        uint64_t match, int fd)
{
    if (fd < 0 || size > 8 || (size & (size - 1)))
        return -EINVAL;
    struct doorbell bell = {.address = address, .match = match, .size = size, .fd = fd, .match_any = match_any};
    return change(bus, is_pio, NULL, NULL, &bell, NULL);
}

int sc_bus_remove_doorbell(struct sc_bus *bus, bool is_pio, uint64_t address, bool match_any, uint64_t match)
{
    struct doorbell key = {.address = address, .match = match, .match_any = match_any};
    return change(bus, is_pio, NULL, NULL, NULL, &key);
}

/* --- answering accesses ------------------------------------------------------------------------------------------ */

static uint64_t all_ones(uint32_t size)
{
    return size >= 8 ? ~0ull : (1ull << (8 * size)) - 1;
}

static atomic_uint *enter(struct sc_bus *bus)
{
    if (!reader_number)
        reader_number = atomic_fetch_add(&next_reader, 1) % READER_SLOTS + 1;
    atomic_uint *active = &bus->readers[reader_number - 1].active[atomic_load(&bus->phase)];
    atomic_fetch_add(active, 1);
    return active;
}

static bool ring(const struct doorbell *bell, uint32_t size)
{
    if (!bell || (bell->size && bell->size != size))
        return false;
    /* A full counter needs no more: its reader is awake already. That must be asked first, because the backend shares
     * the open file: it can clear O_NONBLOCK, and the write would wait for it. */
    struct pollfd room = {.fd = bell->fd, .events = POLLOUT};
    if (poll(&room, 1, 0) == 1 && room.revents & POLLOUT) {
        uint64_t one = 1;
        ssize_t written = write(bell->fd, &one, sizeof one);
        (void)written;
    }
    return true;
}

static bool try_doorbells(const struct space *space, const struct sc_access *access)
{
    return ring(exact_doorbell(space, access->address, true, 0), access->size) ||
           ring(exact_doorbell(space, access->address, false, access->data), access->size);
}

/* A byte-wide device: a wider access touches consecutive registers, as on an ISA bus. */
static void uart_access(struct sc_uart *uart, uint64_t offset, struct sc_access *access)
{
    uint64_t value = 0;
    for (uint32_t i = 0; i < access->size; i++) {
        uint8_t byte = 0xff;
        if (offset + i < UART_LENGTH) {
            if (access->is_write)
                sc_uart_write(uart, offset + i, access->data >> (8 * i));
            else
                byte = sc_uart_read(uart, offset + i);
        }
        value |= (uint64_t)byte << (8 * i);
    }
    if (!access->is_write)
        access->data = value;
}

/* `state` is also written by the core when the device's configuration changes. */
static int virtio_mmio_access(uint32_t *state, uint64_t offset, struct sc_access *access)
{
    if (access->size != 4)
        return 0;
    if (offset == VIRTIO_MMIO_INTERRUPT_STATUS && !access->is_write) {
        access->data = __atomic_load_n(state, __ATOMIC_SEQ_CST) | VIRTIO_INTERRUPT_VRING;
        return 1;
    }
    if (offset == VIRTIO_MMIO_INTERRUPT_ACK && access->is_write) {
        __atomic_and_fetch(state, ~(uint32_t)access->data, __ATOMIC_SEQ_CST);
        return 1;
    }
    return 0;
}

static int answer(const struct space *space, struct sc_access *access)
{
    if (access->is_write && space->doorbell_count && try_doorbells(space, access))
        return 1;
    size_t at = find_range(space, access->address);
    if (at == space->range_count || space->ranges[at].base > access->address) {
        if (!access->is_write)
            access->data = all_ones(access->size);
        return 1;
    }
    const struct range *range = &space->ranges[at];
    switch (range->kind) {
    case RANGE_UART:
        uart_access(range->target, access->address - range->base, access);
        return 1;
    case RANGE_VIRTIO_MMIO:
        return virtio_mmio_access(range->target, access->address - range->base, access);
    default:
        return 0;
    }
}

int sc_bus_access(struct sc_bus *bus, struct sc_access *access)
{
    atomic_uint *active = enter(bus);
    int answered = answer(&atomic_load(&bus->table)->spaces[access->is_pio != 0], access);
    atomic_fetch_sub(active, 1);
    return answered;
}
