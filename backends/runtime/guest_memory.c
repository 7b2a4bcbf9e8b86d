/* SPDX-License-Identifier: MIT */
#include "guest_memory.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Map from a multiple of the file's own page size (hugetlbfs) at or below `offset`. */
static int map_file(int fd, uint64_t offset, uint64_t size, int protection, void **map, size_t *map_length,
                    uint8_t **start)
{
    struct stat status;
    if (fstat(fd, &status) < 0)
        return -errno;
    if (size == 0 || offset + size < offset || (uint64_t)status.st_size < offset + size)
        return -EINVAL;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    if ((uint64_t)status.st_blksize > page && (status.st_blksize & (status.st_blksize - 1)) == 0)
        page = (uint64_t)status.st_blksize;
    uint64_t base = offset & ~(page - 1);
    size_t length = (size_t)((offset - base + size + page - 1) & ~(page - 1));
    void *address = mmap(NULL, length, protection, MAP_SHARED | MAP_NORESERVE, fd, (off_t)base);
    if (address == MAP_FAILED)
        return -errno;
    madvise(address, length, MADV_DONTDUMP);
    *map = address;
    *map_length = length;
    *start = (uint8_t *)address + (offset - base);
    return 0;
}

int sc_memory_add(struct sc_memory *memory, uint64_t gpa, uint64_t size, uint64_t user_address, int fd, uint64_t offset)
{
    if (memory->count == SC_MAX_REGIONS)
        return -ENOSPC;
    if (gpa + size < gpa || user_address + size < user_address)
        return -EINVAL;
    for (uint32_t i = 0; i < memory->count; i++) {
        const struct sc_region *other = &memory->regions[i];
        if (gpa < other->gpa + other->size && other->gpa < gpa + size)
            return -EEXIST;
    }
    struct sc_region *region = &memory->regions[memory->count];
    int result = map_file(fd, offset, size, PROT_READ | PROT_WRITE, &region->map, &region->map_length, &region->host);
    if (result < 0)
        return result;
    region->gpa = gpa;
    region->size = size;
    region->user_address = user_address;
    memory->count++;
    return 0;
}

int sc_memory_remove(struct sc_memory *memory, uint64_t gpa, uint64_t size, uint64_t user_address)
{
    for (uint32_t i = 0; i < memory->count; i++) {
        struct sc_region *region = &memory->regions[i];
        if (region->gpa != gpa || region->size != size || region->user_address != user_address)
            continue;
        munmap(region->map, region->map_length);
        *region = memory->regions[--memory->count];
        return 0;
    }
    return -ENOENT;
}

void sc_memory_clear(struct sc_memory *memory)
{
    for (uint32_t i = 0; i < memory->count; i++)
        munmap(memory->regions[i].map, memory->regions[i].map_length);
    memory->count = 0;
}

uint8_t *sc_memory_span(const struct sc_memory *memory, uint64_t gpa, uint64_t *length)
{
    for (uint32_t i = 0; i < memory->count; i++) {
        const struct sc_region *region = &memory->regions[i];
        uint64_t offset = gpa - region->gpa;
        if (gpa < region->gpa || offset >= region->size)
            continue;
        if (*length > region->size - offset)
            *length = region->size - offset;
        return region->host + offset;
    }
    return NULL;
}

uint8_t *sc_memory_user(const struct sc_memory *memory, uint64_t user_address, uint64_t length, uint64_t *gpa)
{
    for (uint32_t i = 0; i < memory->count; i++) {
        const struct sc_region *region = &memory->regions[i];
        uint64_t offset = user_address - region->user_address;
        if (user_address < region->user_address || offset >= region->size || length > region->size - offset)
            continue;
        *gpa = region->gpa + offset;
        return region->host + offset;
    }
    return NULL;
}

int sc_memory_read(const struct sc_memory *memory, uint64_t gpa, void *destination, uint64_t length)
{
    uint8_t *to = destination;
    while (length > 0) {
        uint64_t run = length;
        const uint8_t *from = sc_memory_span(memory, gpa, &run);
        if (!from)
            return -EFAULT;
        memcpy(to, from, run);
        to += run;
        gpa += run;
        length -= run;
    }
    return 0;
}

int sc_memory_set_log(struct sc_memory *memory, int fd, uint64_t offset, uint64_t size)
{
    void *map;
    size_t map_length;
    uint8_t *start;
    int result = map_file(fd, offset, size, PROT_READ | PROT_WRITE, &map, &map_length, &start);
    if (result < 0)
        return result;
    sc_memory_clear_log(memory);
    memory->log_map = map;
    memory->log_map_length = map_length;
    memory->log = start;
    memory->log_size = size;
    return 0;
}

void sc_memory_clear_log(struct sc_memory *memory)
{
    if (memory->log_map)
        munmap(memory->log_map, memory->log_map_length);
    memory->log_map = NULL;
    memory->log = NULL;
    memory->log_size = 0;
}

void sc_memory_mark(const struct sc_memory *memory, uint64_t gpa, uint64_t length)
{
    if (!memory->log_enabled || !memory->log || length == 0)
        return;
    uint64_t last = (gpa + length - 1) / SC_DIRTY_PAGE;
    /* What was stored must be visible before the look at the bit: whoever took the bit away reads the page after that.
     */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    for (uint64_t page = gpa / SC_DIRTY_PAGE; page <= last && page / 8 < memory->log_size; page++) {
        uint8_t bit = (uint8_t)(1u << (page % 8));
        /* Shared with other backends and with the reader, who takes bits away: an atomic OR, unless it is set already.
         */
        if (!(__atomic_load_n(&memory->log[page / 8], __ATOMIC_RELAXED) & bit))
            __atomic_fetch_or(&memory->log[page / 8], bit, __ATOMIC_SEQ_CST);
    }
}
