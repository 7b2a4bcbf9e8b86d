/* SPDX-License-Identifier: MIT
 *
 * A VM made ahead of time, on a thread of its own. The first VM on a host makes the kernel switch virtualization on on
 * every CPU, and each one waits for grace periods: time that passes while Python is still importing. The probe, which
 * makes a VM too, can be had in the same time.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kvm_internal.h"

/* Touched by one thread, the one that starts the process's VM; the results are the maker's until it is joined. */
static struct {
    char *path; /* NULL: nothing was begun */
    pthread_t maker;
    bool running;
    uint32_t iterations; /* of the probe; 0: none, or its result was taken */
    uint64_t limit_ns;
    int probed;
    struct sc_kvm_speed speed;
    struct sc_kvm_error probe_error, make_error;
    struct sc_kvm_vm *made;
} early;

static void *make(void *unused)
{
    (void)unused;
    if (early.iterations)
        early.probed = kvm_probe(early.path, early.iterations, early.limit_ns, &early.speed, &early.probe_error);
    if (kvm_vm_make(early.path, &early.made, &early.make_error) < 0)
        early.made = NULL;
    return NULL;
}

void sc_kvm_vm_begin(const char *path, uint32_t iterations, uint64_t limit_ns)
{
    if (early.path)
        return;
    early.path = strdup(path);
    early.iterations = iterations;
    early.limit_ns = limit_ns;
    early.running = early.path && !pthread_create(&early.maker, NULL, make, NULL);
    if (!early.running) {
        free(early.path);
        early.path = NULL;
    }
}

static bool begun(const char *path)
{
    if (!early.path || strcmp(early.path, path))
        return false;
    if (early.running)
        pthread_join(early.maker, NULL);
    early.running = false;
    return true;
}

bool kvm_take_early_probe(const char *path, uint32_t iterations, struct sc_kvm_speed *speed, struct sc_kvm_error *error,
                          int *result)
{
    if (!iterations || !begun(path) || early.iterations != iterations)
        return false;
    early.iterations = 0;
    *speed = early.speed;
    *error = early.probe_error;
    *result = early.probed;
    return true;
}

struct sc_kvm_vm *kvm_vm_take_early(const char *path)
{
    if (!begun(path))
        return NULL;
    free(early.path);
    early.path = NULL;
    return early.made;
}

void sc_kvm_vm_forget(void)
{
    if (early.path)
        sc_kvm_vm_free(kvm_vm_take_early(early.path));
}
