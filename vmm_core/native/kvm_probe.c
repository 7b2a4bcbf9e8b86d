/* SPDX-License-Identifier: MIT
 *
 * Does this KVM run guest code, or does it interpret it? A throw-away VM with one vCPU times a loop of two
 * instructions. CPU time, not wall-clock time: a busy host must not make a good KVM look bad.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "kvm_internal.h"

#define GUEST_SIZE 0x8000u
#define PML4 0x1000u
#define PDPT 0x2000u
#define PAGE_DIRECTORY 0x3000u
#define CODE 0x4000u
#define PRESENT_WRITABLE 3u
#define LARGE_PAGE 0x80u
#define POKE_NS 5000000 /* how often the timer looks whether the limit has passed */

/* start: mov $N, %ecx; 1: dec %ecx; jnz 1b; out %al, $0x10; jmp start */
static const uint8_t code[] = {0xb9, 0, 0, 0, 0, 0xff, 0xc9, 0x75, 0xfc, 0xe6, 0x10, 0xeb, 0xf3};

struct probe {
    int device_fd, vm_fd, vcpu_fd;
    int run_size;
    uint8_t *memory;
    struct kvm_run *run;
};

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void write_guest(struct probe *probe)
{
    uint64_t pml4 = PDPT | PRESENT_WRITABLE, pdpt = PAGE_DIRECTORY | PRESENT_WRITABLE,
             page = LARGE_PAGE | PRESENT_WRITABLE;
    memcpy(probe->memory + PML4, &pml4, sizeof pml4);
    memcpy(probe->memory + PDPT, &pdpt, sizeof pdpt);
    memcpy(probe->memory + PAGE_DIRECTORY, &page, sizeof page);
    memcpy(probe->memory + CODE, code, sizeof code);
}

static int map_memory(struct probe *probe, struct sc_kvm_error *error)
{
    void *memory = mmap(NULL, GUEST_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return kvm_fail(error, errno, "mmap");
    probe->memory = memory;
    write_guest(probe);
    struct kvm_userspace_memory_region region = {.memory_size = GUEST_SIZE, .userspace_addr = (uint64_t)memory};
    return kvm_step(probe->vm_fd, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION", error);
}

static int create_vcpu(struct probe *probe, struct sc_kvm_error *error)
{
    struct kvm_cpuid_table cpuid;
    struct sc_kvm_boot_registers registers = {.rip = CODE, .rsp = GUEST_SIZE, .cr3 = PML4};
    int result = probe->vcpu_fd = kvm_step(probe->vm_fd, KVM_CREATE_VCPU, NULL, "KVM_CREATE_VCPU", error);
    if (result >= 0)
        result = kvm_supported_cpuid(probe->device_fd, &cpuid, error);
    if (result >= 0)
        result = kvm_step(probe->vcpu_fd, KVM_SET_CPUID2, &cpuid, "KVM_SET_CPUID2", error);
    if (result >= 0)
        result = kvm_set_long_mode(probe->vcpu_fd, &registers, error);
    if (result >= 0)
        result = probe->run_size =
            kvm_step(probe->device_fd, KVM_GET_VCPU_MMAP_SIZE, NULL, "KVM_GET_VCPU_MMAP_SIZE", error);
    if (result < 0)
        return result;
    void *run = mmap(NULL, (size_t)probe->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, probe->vcpu_fd, 0);
    if (run == MAP_FAILED)
        return kvm_fail(error, errno, "mmap of kvm_run");
    probe->run = run;
    return 0;
}

static int set_up(struct probe *probe, const char *path, struct sc_kvm_error *error)
{
    int result = probe->device_fd = kvm_open(path, error);
    if (result >= 0)
        result = probe->vm_fd = kvm_create_vm(probe->device_fd, error);
    if (result >= 0)
        result = map_memory(probe, error);
    return result < 0 ? result : create_vcpu(probe, error);
}

static void tear_down(struct probe *probe)
{
    if (probe->run)
        munmap(probe->run, (size_t)probe->run_size);
    if (probe->vcpu_fd >= 0)
        close(probe->vcpu_fd);
    if (probe->vm_fd >= 0)
        close(probe->vm_fd);
    if (probe->device_fd >= 0)
        close(probe->device_fd);
    if (probe->memory)
        munmap(probe->memory, GUEST_SIZE);
}

/* One round of the loop; 1: finished, 0: the deadline passed, -errno. */
static int run_round(struct probe *probe, uint32_t iterations, uint64_t deadline, struct sc_kvm_error *error)
{
    memcpy(probe->memory + CODE + 1, &iterations, sizeof iterations);
    for (;;) {
        if (ioctl(probe->vcpu_fd, KVM_RUN, 0) >= 0)
            return probe->run->exit_reason == KVM_EXIT_IO
                       ? 1
                       : kvm_fail(error, 0, "running a two-instruction loop in a guest");
        if (errno != EINTR && errno != EAGAIN)
            return kvm_fail(error, errno, "KVM_RUN");
        if (clock_ns(CLOCK_MONOTONIC) >= deadline)
            return 0;
    }
}

static int time_round(struct probe *probe, uint32_t iterations, uint64_t deadline, uint64_t *nanoseconds,
                      struct sc_kvm_error *error)
{
    uint64_t start = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    int result = run_round(probe, iterations, deadline, error);
    *nanoseconds = clock_ns(CLOCK_THREAD_CPUTIME_ID) - start;
    return result;
}

/* The first round pays for page faults and caches, the second shows what an exit costs (under nested KVM more than the
 * loop), the third is the measurement. At most 7/8 are subtracted for the exit, so that noise cannot look like speed.
 */
static int measure(struct probe *probe, uint32_t iterations, uint64_t deadline, struct sc_kvm_speed *speed,
                   struct sc_kvm_error *error)
{
    uint64_t exit_cost = 0, total = 0;
    int result = run_round(probe, 1, deadline, error);
    if (result > 0)
        result = time_round(probe, 1, deadline, &exit_cost, error);
    if (result > 0)
        result = time_round(probe, iterations, deadline, &total, error);
    if (result > 0)
        speed->nanoseconds = exit_cost < total - total / 8 ? total - exit_cost : total / 8;
    return result < 0 ? result : 0;
}

/* A timer that signals this thread again and again: one signal could come just before KVM_RUN and be lost. */
static int start_timer(timer_t *timer, struct sc_kvm_error *error)
{
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KVM_KICK_SIGNAL};
    struct itimerspec interval = {.it_interval.tv_nsec = POKE_NS, .it_value.tv_nsec = POKE_NS};
    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    kvm_install_kick_signal();
    if (timer_create(CLOCK_MONOTONIC, &event, timer))
        return kvm_fail(error, errno, "timer_create");
    timer_settime(*timer, 0, &interval, NULL);
    return 0;
}

int kvm_probe(const char *path, uint32_t iterations, uint64_t limit_ns, struct sc_kvm_speed *speed,
              struct sc_kvm_error *error)
{
    struct probe probe = {.device_fd = -1, .vm_fd = -1, .vcpu_fd = -1};
    timer_t timer;
    *speed = (struct sc_kvm_speed){.iterations = iterations};
    int result = set_up(&probe, path, error);
    if (result >= 0)
        result = start_timer(&timer, error);
    if (result >= 0) {
        result = measure(&probe, iterations, clock_ns(CLOCK_MONOTONIC) + limit_ns, speed, error);
        timer_delete(timer);
    }
    tear_down(&probe);
    return result;
}

int sc_kvm_probe(const char *path, uint32_t iterations, uint64_t limit_ns, struct sc_kvm_speed *speed,
                 struct sc_kvm_error *error)
{
    int result;
    if (kvm_take_early_probe(path, iterations, speed, error, &result))
        return result;
    return kvm_probe(path, iterations, limit_ns, speed, error);
}
