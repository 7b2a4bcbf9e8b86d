// SPDX-License-Identifier: MIT
// Verified random I/O inside a guest: every sector carries what its last write gave it, every read is checked.
// usage: blkverify PATH MEGABYTES SECONDS [THREADS [direct|cached [SEED]]]
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SECTOR = 512, WORDS = SECTOR / 8, MOST_SECTORS = 256, ALIGNMENT = 4096 };

static const char *path;
static int open_flags;
static uint64_t seed, end_ns;

struct worker {
    pthread_t thread;
    int fd;
    uint64_t first, count; // sectors of the disk that only this worker touches
    uint32_t *generation;  // of each of them
    uint64_t random, operations, bytes, slowest_ns;
    uint8_t *buffer;
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint64_t next_random(struct worker *w)
{
    return w->random = mix(w->random);
}

static void die(const char *what, uint64_t sector)
{
    printf("VERIFY failed: %s at sector %llu: %s\n", what, (unsigned long long)sector, strerror(errno));
    exit(1);
}

static void fill(uint8_t *data, uint64_t sector, uint32_t generation)
{
    uint64_t words[WORDS], value = mix(seed ^ (sector << 20) ^ generation);
    words[0] = sector;
    words[1] = generation;
    for (int i = 2; i < WORDS; i++)
        words[i] = value += 0x9e3779b97f4a7c15u;
    memcpy(data, words, SECTOR);
}

static void check(const uint8_t *data, uint64_t sector, uint32_t generation)
{
    uint8_t wanted[SECTOR];
    uint64_t found[2];
    fill(wanted, sector, generation);
    if (!memcmp(wanted, data, SECTOR))
        return;
    memcpy(found, data, sizeof found);
    printf("VERIFY failed: sector %llu should be generation %u, holds sector %llu generation %llu\n",
           (unsigned long long)sector, generation, (unsigned long long)found[0], (unsigned long long)found[1]);
    exit(1);
}

static void account(struct worker *w, uint64_t began, uint64_t sectors)
{
    uint64_t took = now_ns() - began;
    w->operations++;
    w->bytes += sectors * SECTOR;
    if (took > w->slowest_ns)
        w->slowest_ns = took;
}

static void write_some(struct worker *w, uint64_t at, uint64_t sectors)
{
    for (uint64_t i = 0; i < sectors; i++)
        fill(w->buffer + i * SECTOR, w->first + at + i, ++w->generation[at + i]);
    uint64_t began = now_ns();
    ssize_t wanted = (ssize_t)(sectors * SECTOR);
    if (pwrite(w->fd, w->buffer, (size_t)wanted, (off_t)((w->first + at) * SECTOR)) != wanted)
        die("write", w->first + at);
    account(w, began, sectors);
}

static void read_some(struct worker *w, uint64_t at, uint64_t sectors)
{
    memset(w->buffer, 0xa5, sectors * SECTOR);
    uint64_t began = now_ns();
    ssize_t wanted = (ssize_t)(sectors * SECTOR);
    if (pread(w->fd, w->buffer, (size_t)wanted, (off_t)((w->first + at) * SECTOR)) != wanted)
        die("read", w->first + at);
    account(w, began, sectors);
    for (uint64_t i = 0; i < sectors; i++)
        check(w->buffer + i * SECTOR, w->first + at + i, w->generation[at + i]);
}

static void sweep(struct worker *w, void (*visit)(struct worker *, uint64_t, uint64_t))
{
    for (uint64_t at = 0; at < w->count; at += MOST_SECTORS)
        visit(w, at, w->count - at < MOST_SECTORS ? w->count - at : MOST_SECTORS);
}

static void *work(void *opaque)
{
    struct worker *w = opaque;
    sweep(w, write_some);
    while (now_ns() < end_ns) {
        uint64_t r = next_random(w), sectors = 1 + (r >> 8) % MOST_SECTORS, at = (r >> 20) % w->count;
        if (sectors > w->count - at)
            sectors = w->count - at;
        if ((r & 63) == 0 && fdatasync(w->fd))
            die("flush", 0);
        if (r & 128)
            write_some(w, at, sectors);
        else
            read_some(w, at, sectors);
    }
    if (fsync(w->fd))
        die("flush", 0);
    posix_fadvise(w->fd, 0, 0, POSIX_FADV_DONTNEED);
    sweep(w, read_some);
    return NULL;
}

static void prepare(struct worker *w, uint64_t index, uint64_t sectors)
{
    w->first = index * sectors;
    w->count = sectors;
    w->random = mix(seed + index);
    w->generation = calloc(sectors, sizeof *w->generation);
    w->fd = open(path, O_RDWR | open_flags, 0600);
    if (w->fd < 0 || !w->generation || posix_memalign((void **)&w->buffer, ALIGNMENT, MOST_SECTORS * SECTOR))
        die("open", 0);
}

static void report(const struct worker *workers, int threads, double seconds)
{
    uint64_t operations = 0, bytes = 0, slowest = 0;
    for (int i = 0; i < threads; i++) {
        operations += workers[i].operations;
        bytes += workers[i].bytes;
        slowest = workers[i].slowest_ns > slowest ? workers[i].slowest_ns : slowest;
    }
    printf("VERIFY ok: %llu operations, %llu MB in %.1f s, slowest %.1f ms\n", (unsigned long long)operations,
           (unsigned long long)(bytes >> 20), seconds, (double)slowest / 1e6);
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: blkverify PATH MEGABYTES SECONDS [THREADS [direct|cached [SEED]]]\n");
        return 2;
    }
    path = argv[1];
    uint64_t megabytes = strtoull(argv[2], NULL, 10), began = now_ns();
    int threads = argc > 4 ? atoi(argv[4]) : 1;
    if (megabytes < 1 || threads < 1 || threads > 64)
        return 2;
    open_flags = O_CREAT | (argc > 5 && !strcmp(argv[5], "direct") ? O_DIRECT : 0);
    seed = argc > 6 ? strtoull(argv[6], NULL, 10) : 1;
    end_ns = began + strtoull(argv[3], NULL, 10) * 1000000000u;
    struct worker *workers = calloc((size_t)threads, sizeof *workers);
    if (!workers)
        return 2;
    for (int i = 0; i < threads; i++)
        prepare(&workers[i], (uint64_t)i, megabytes * 2048 / (uint64_t)threads);
    for (int i = 0; i < threads; i++)
        pthread_create(&workers[i].thread, NULL, work, &workers[i]);
    for (int i = 0; i < threads; i++)
        pthread_join(workers[i].thread, NULL);
    report(workers, threads, (double)(now_ns() - began) / 1e9);
    return 0;
}
