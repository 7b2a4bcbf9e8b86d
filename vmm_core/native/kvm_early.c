/* SPDX-License-Identifier: MIT
 *
 * A VM made ahead of time, on a thread of its own. The first VM on a host makes the kernel switch virtualization on on
 * every CPU, and each one waits for grace periods: time that passes while Python is still importing.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "kvm_internal.h"

/* Touched by one thread, the one that starts the process's VM; `made` and `failure` are the maker's until it is joined.
 */
static struct {
    pthread_t maker;
    char *path; /* NULL: nothing was begun */
    struct sc_kvm_vm *made;
    struct sc_kvm_error failure;
} early;

static void *make(void *unused)
{
    (void)unused;
    if (kvm_vm_make(early.path, &early.made, &early.failure) < 0)
        early.made = NULL;
    return NULL;
}

void sc_kvm_vm_begin(const char *path)
{
    if (early.path)
        return;
    early.path = strdup(path);
    if (early.path && pthread_create(&early.maker, NULL, make, NULL)) {
        free(early.path);
        early.path = NULL;
    }
}

static struct sc_kvm_vm *take(void)
{
    pthread_join(early.maker, NULL);
    free(early.path);
    early.path = NULL;
    return early.made;
}

struct sc_kvm_vm *kvm_vm_take_early(const char *path)
{
    return early.path && !strcmp(early.path, path) ? take() : NULL;
}

void sc_kvm_vm_forget(void)
{
    if (early.path)
        sc_kvm_vm_free(take());
}
