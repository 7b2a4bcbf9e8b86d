// SPDX-License-Identifier: MIT
// A vhost-user front-end that loads a virtio-blk backend: split ring, EVENT_IDX, one queue, sleeping on its interrupt
// as a guest does. Prints "operations seconds p50_us p99_us". The same program loads every backend that is compared.
// usage: vhost_load SOCKET BLOCK_BYTES DEPTH SECONDS random|sequential read|write
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    GET_FEATURES = 1,
    SET_FEATURES = 2,
    SET_OWNER = 3,
    SET_MEM_TABLE = 5,
    SET_VRING_NUM = 8,
    SET_VRING_ADDR = 9,
    SET_VRING_BASE = 10,
    SET_VRING_KICK = 12,
    SET_VRING_CALL = 13,
    GET_PROTOCOL_FEATURES = 15,
    SET_PROTOCOL_FEATURES = 16,
    SET_VRING_ENABLE = 18,
    GET_CONFIG = 24,
};
enum { QUEUE = 256, MOST_DEPTH = 64, SECTOR = 512, STALL_SECONDS = 10 };
enum { DESC_NEXT = 1, DESC_WRITE = 2, SAMPLES = 1 << 20 };
#define FEATURES (1ull << 32 | 1ull << 30 | 1ull << 29) // VERSION_1, PROTOCOL_FEATURES, EVENT_IDX
#define FLUSH (1ull << 9)                               // else every write would have to be on the medium at once
#define PROTOCOL_FEATURES (1ull << 9)                   // CONFIG

struct message {
    uint32_t request, flags, size;
    uint8_t payload[320];
} __attribute__((packed));

struct descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
};

struct avail {
    uint16_t flags, index, ring[QUEUE], used_event;
};

struct used {
    uint16_t flags, index;
    struct {
        uint32_t id, length;
    } ring[QUEUE];
    uint16_t avail_event;
};

struct header {
    uint32_t type, reserved;
    uint64_t sector;
};

// Everything the backend sees; `data` of each slot follows, page aligned.
struct shared {
    struct descriptor descriptors[QUEUE];
    struct avail avail;
    struct used used __attribute__((aligned(4096)));
    struct header headers[MOST_DEPTH] __attribute__((aligned(4096)));
    uint8_t status[MOST_DEPTH];
};

static int sock, kick, call;
static struct shared *ring;
static size_t data_offset, region_size;
static uint32_t block;
static uint64_t blocks, next_block, random_state = 88172645463325252ull;
static int depth, is_random, is_write;
static uint16_t last_used, next_avail;
static uint64_t started_at[MOST_DEPTH];
static uint32_t samples[SAMPLES];
static uint64_t sample_count, slowest;

static void die(const char *what)
{
    fprintf(stderr, "vhost_load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void tell(uint32_t request, const void *payload, uint32_t size, int fd)
{
    struct message m = {.request = request, .flags = 1, .size = size};
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec part = {&m, 12 + size};
    struct msghdr h = {.msg_iov = &part, .msg_iovlen = 1};
    if (size)
        memcpy(m.payload, payload, size);
    if (fd >= 0) {
        h.msg_control = control;
        h.msg_controllen = sizeof control;
        struct cmsghdr *c = CMSG_FIRSTHDR(&h);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof fd);
    }
    if (sendmsg(sock, &h, 0) != (ssize_t)(12 + size))
        die("sendmsg");
}

static void hear(void *payload, uint32_t size)
{
    struct message m;
    if (recv(sock, &m, 12, MSG_WAITALL) != 12 || m.size > sizeof m.payload || m.size < size ||
        recv(sock, m.payload, m.size, MSG_WAITALL) != (ssize_t)m.size)
        die("reply");
    memcpy(payload, m.payload, size);
}

static uint64_t ask_u64(uint32_t request)
{
    uint64_t value;
    tell(request, NULL, 0, -1);
    hear(&value, sizeof value);
    return value;
}

static void connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        die("socket path too long");
    strcpy(address.sun_path, path);
    sock = socket(AF_UNIX, SOCK_STREAM, 0);
    if (sock < 0 || connect(sock, (struct sockaddr *)&address, sizeof address))
        die("connect");
}

static void negotiate(void)
{
    struct {
        uint32_t offset, size, flags;
        uint64_t capacity;
    } __attribute__((packed)) config = {.size = 8};
    tell(SET_OWNER, NULL, 0, -1);
    uint64_t features = ask_u64(GET_FEATURES) & (FEATURES | FLUSH);
    uint64_t protocol = ask_u64(GET_PROTOCOL_FEATURES) & PROTOCOL_FEATURES;
    tell(SET_PROTOCOL_FEATURES, &protocol, 8, -1);
    tell(SET_FEATURES, &features, 8, -1);
    tell(GET_CONFIG, &config, sizeof config, -1);
    hear(&config, sizeof config);
    blocks = config.capacity * SECTOR / block;
    if ((features & FEATURES) != FEATURES || !blocks)
        die("backend lacks features or capacity");
}

static void share_memory(void)
{
    data_offset = (sizeof *ring + 4095) & ~4095ul;
    region_size = data_offset + (size_t)depth * block;
    int fd = memfd_create("vhost-load", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)region_size))
        die("memfd");
    ring = mmap(NULL, region_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (ring == MAP_FAILED)
        die("mmap");
    struct {
        uint32_t count, padding;
        uint64_t guest_address, size, user_address, offset;
    } table = {1, 0, 0, region_size, (uint64_t)ring, 0};
    tell(SET_MEM_TABLE, &table, sizeof table, fd);
    close(fd);
}

static void start_queue(void)
{
    uint32_t num[2] = {0, QUEUE}, base[2] = {0, 0}, enable[2] = {0, 1};
    uint64_t index = 0;
    struct {
        uint32_t index, flags;
        uint64_t descriptors, used, avail, log;
    } addresses = {0, 0, (uint64_t)ring->descriptors, (uint64_t)&ring->used, (uint64_t)&ring->avail, 0};
    kick = eventfd(0, EFD_CLOEXEC);
    call = eventfd(0, EFD_CLOEXEC);
    tell(SET_VRING_NUM, num, sizeof num, -1);
    tell(SET_VRING_BASE, base, sizeof base, -1);
    tell(SET_VRING_ADDR, &addresses, sizeof addresses, -1);
    tell(SET_VRING_CALL, &index, sizeof index, call);
    tell(SET_VRING_KICK, &index, sizeof index, kick);
    tell(SET_VRING_ENABLE, enable, sizeof enable, -1);
    (void)ask_u64(GET_FEATURES); // everything above has been done when this is answered
}

// Guest-physical addresses are offsets into the region.
static void prepare_slot(int slot)
{
    struct descriptor *d = &ring->descriptors[slot * 3];
    uint64_t header = offsetof(struct shared, headers) + (uint64_t)slot * sizeof(struct header);
    uint64_t status = offsetof(struct shared, status) + (uint64_t)slot;
    uint16_t first = (uint16_t)(slot * 3);
    d[0] = (struct descriptor){header, sizeof(struct header), DESC_NEXT, (uint16_t)(first + 1)};
    d[1] = (struct descriptor){data_offset + (uint64_t)slot * block, block,
                               (uint16_t)(DESC_NEXT | (is_write ? 0 : DESC_WRITE)), (uint16_t)(first + 2)};
    d[2] = (struct descriptor){status, 1, DESC_WRITE, 0};
    ring->headers[slot].type = (uint32_t)is_write;
}

static uint64_t choose_block(void)
{
    if (!is_random)
        return next_block++ % blocks;
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % blocks;
}

static void submit(int slot, uint64_t now)
{
    ring->headers[slot].sector = choose_block() * (block / SECTOR);
    ring->status[slot] = 0xff;
    started_at[slot] = now;
    ring->avail.ring[next_avail % QUEUE] = (uint16_t)(slot * 3);
    next_avail++;
}

static void publish(void)
{
    uint16_t old = ring->avail.index;
    __atomic_store_n(&ring->avail.index, next_avail, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    uint16_t event = __atomic_load_n(&ring->used.avail_event, __ATOMIC_RELAXED);
    uint64_t one = 1;
    if ((uint16_t)(next_avail - event - 1) < (uint16_t)(next_avail - old) && write(kick, &one, 8) != 8)
        die("kick");
}

static void finish(int slot, uint64_t now)
{
    if (ring->status[slot])
        die("the backend reports an I/O error");
    uint64_t took = now - started_at[slot];
    if (took > slowest)
        slowest = took;
    if (sample_count < SAMPLES)
        samples[sample_count] = (uint32_t)(took / 10);
    sample_count++;
}

// Take what is done; with `again`, put a new request in each place. Returns how many were taken.
static int reap(int again)
{
    uint16_t index = __atomic_load_n(&ring->used.index, __ATOMIC_ACQUIRE);
    int taken = 0;
    uint64_t now = index == last_used ? 0 : now_ns();
    for (; last_used != index; taken++) {
        int slot = (int)ring->used.ring[last_used++ % QUEUE].id / 3;
        finish(slot, now);
        if (again)
            submit(slot, now);
    }
    if (taken && again)
        publish();
    return taken;
}

static void wait_for_interrupt(void)
{
    __atomic_store_n(&ring->avail.used_event, last_used, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (__atomic_load_n(&ring->used.index, __ATOMIC_ACQUIRE) != last_used)
        return;
    uint64_t count;
    struct pollfd event = {.fd = call, .events = POLLIN};
    if (poll(&event, 1, STALL_SECONDS * 1000) != 1 || read(call, &count, 8) != 8)
        die("the backend does not answer");
}

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
    if (argc != 7) {
        fprintf(stderr, "usage: vhost_load SOCKET BLOCK_BYTES DEPTH SECONDS random|sequential read|write\n");
        return 2;
    }
    block = (uint32_t)atoi(argv[2]);
    depth = atoi(argv[3]);
    is_random = !strcmp(argv[5], "random");
    is_write = !strcmp(argv[6], "write");
    if (block < SECTOR || depth < 1 || depth > MOST_DEPTH)
        return 2;
    connect_to(argv[1]);
    negotiate();
    share_memory();
    start_queue();
    uint64_t began = now_ns(), end = began + (uint64_t)(atof(argv[4]) * 1e9);
    for (int slot = 0; slot < depth; slot++) {
        prepare_slot(slot);
        submit(slot, began);
    }
    publish();
    while (now_ns() < end)
        if (!reap(1))
            wait_for_interrupt();
    double seconds = (double)(now_ns() - began) / 1e9;
    uint64_t operations = sample_count;
    for (int left = depth; left > 0; left -= reap(0))
        wait_for_interrupt();
    uint64_t kept = operations < SAMPLES ? operations : SAMPLES;
    qsort(samples, kept, sizeof *samples, by_size);
    printf("%llu %.4f %.2f %.2f %.2f\n", (unsigned long long)operations, seconds, samples[kept / 2] / 100.0,
           samples[kept * 99 / 100] / 100.0, (double)slowest / 1e3);
    return 0;
}
