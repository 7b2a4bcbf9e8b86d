"""Build `backends.blk._blk`: virtqueues, guest memory and the block device's threads."""

from __future__ import annotations

from cffi import FFI

SOURCES = [
    "backends/runtime/guest_memory.c",
    "backends/runtime/virtqueue.c",
    "backends/runtime/virtqueue_split.c",
    "backends/runtime/virtqueue_packed.c",
    "backends/runtime/inflight.c",
    "backends/blk/blk.c",
    "backends/blk/worker.c",
    "backends/blk/request.c",
    "backends/blk/execute.c",
    "backends/blk/throttle.c",
    "backends/blk/engine_uring.c",
    "backends/blk/engine_aio.c",
    "backends/blk/engine_sync.c",
]
HEADERS = [
    "backends/runtime/guest_memory.h",
    "backends/runtime/virtqueue.h",
    "backends/runtime/inflight.h",
    "backends/blk/blk.h",
]

# What Python may touch: control only, and a queue only while its worker is paused.
CDEF = """
struct sc_memory { bool log_enabled; ...; };
struct sc_vq_stats {
    uint64_t kicks, calls, calls_suppressed, requests, read_bytes, written_bytes, errors, in_flight;
    uint64_t latency_ns, latency[31];
};
struct sc_virtqueue {
    uint16_t size;
    bool packed, event_idx, indirect, enabled, ready, broken;
    int kick_fd, call_fd, error_fd;
    uint8_t *descriptors, *driver, *device;
    uint64_t descriptors_gpa, device_gpa;
    bool log_used;
    uint64_t log_used_gpa;
    struct sc_vq_stats *stats;
    ...;
};
struct sc_blk_options {
    const char *engine;
    int fd;
    uint64_t size;
    uint32_t alignment, queues, queue_size, workers;
    uint64_t iops;
    bool read_only, discard, detect_zeroes, detect_zeroes_unmap;
    char serial[20];
    uint32_t poll_ns;
    char thread_name[16];
};
struct sc_blk;

int sc_memory_add(struct sc_memory *memory, uint64_t gpa, uint64_t size, uint64_t user_address, int fd,
                  uint64_t offset);
int sc_memory_remove(struct sc_memory *memory, uint64_t gpa, uint64_t size, uint64_t user_address);
void sc_memory_clear(struct sc_memory *memory);
uint8_t *sc_memory_user(const struct sc_memory *memory, uint64_t user_address, uint64_t length, uint64_t *gpa);
int sc_memory_set_log(struct sc_memory *memory, int fd, uint64_t offset, uint64_t size);
void sc_memory_clear_log(struct sc_memory *memory);

int sc_vq_start(struct sc_virtqueue *vq, uint32_t base);
uint32_t sc_vq_base(const struct sc_virtqueue *vq);
void sc_vq_call(struct sc_virtqueue *vq);
uint64_t sc_inflight_size(uint16_t queue_size, bool packed);
void sc_vq_set_inflight(struct sc_virtqueue *vq, void *region);
void sc_inflight_retire(struct sc_virtqueue *vq);

struct sc_blk *sc_blk_new(const struct sc_blk_options *options);
int sc_blk_start(struct sc_blk *blk);
void sc_blk_free(struct sc_blk *blk);
void sc_blk_pause(struct sc_blk *blk);
void sc_blk_resume(struct sc_blk *blk);
void sc_blk_await_predecessor(struct sc_blk *blk);
void sc_blk_set_features(struct sc_blk *blk, uint64_t features);
void sc_blk_set_writethrough(struct sc_blk *blk, bool on);
void sc_blk_set_size(struct sc_blk *blk, uint64_t size);
void sc_blk_set_iops(struct sc_blk *blk, uint64_t iops);
struct sc_virtqueue *sc_blk_queue(struct sc_blk *blk, uint32_t index);
struct sc_memory *sc_blk_memory(struct sc_blk *blk);
void sc_blk_set_stats(struct sc_blk *blk, struct sc_vq_stats *stats);
uint32_t sc_direct_alignment(int fd);
"""

ffi = FFI()
ffi.cdef(CDEF)
ffi.set_source(
    "backends.blk._blk",
    '#include "inflight.h"\n#include "blk.h"\n',
    sources=SOURCES,
    depends=[*SOURCES, *HEADERS],
    include_dirs=["backends/runtime", "backends/blk"],
    define_macros=[("_GNU_SOURCE", None)],
    libraries=["uring"],
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
)

if __name__ == "__main__":
    ffi.compile(verbose=True)
