/* SPDX-License-Identifier: MIT
 *
 * throttling.iops-total: requests are due one interval apart, on average. A short debt of idle time may be used at
 * once, so that batches stay batches; a long one is forgotten.
 */
#include "blk.h"

#define MAX_CREDIT 10000000u /* nanoseconds; as long as a thread may have to wait for its turn on a busy CPU */

/* Take one request's turn: 0, or the nanoseconds until there is one. */
int64_t sc_throttle_wait(struct sc_throttle *throttle, uint64_t now)
{
    uint64_t interval = __atomic_load_n(&throttle->interval, __ATOMIC_RELAXED);
    if (interval == 0)
        return 0;
    int64_t left = 0;
    pthread_mutex_lock(&throttle->mutex);
    if (throttle->next + MAX_CREDIT < now)
        throttle->next = now - MAX_CREDIT;
    if (throttle->next > now)
        left = (int64_t)(throttle->next - now);
    else
        throttle->next += interval;
    pthread_mutex_unlock(&throttle->mutex);
    return left;
}
