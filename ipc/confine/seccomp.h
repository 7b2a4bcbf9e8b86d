/* SPDX-License-Identifier: MIT */
/* System call filters: rules in, a program for the kernel out (libseccomp does the compiling). 0 or -errno. */
#ifndef SC_SECCOMP_H
#define SC_SECCOMP_H

#include <stdint.h>

/* Actions of rules and of what no rule names; SC_ACT_ERRNO takes the errno in its low 16 bits. */
#define SC_ACT_ALLOW 0x7fff0000
#define SC_ACT_ERRNO 0x00050000
#define SC_ACT_TRAP 0x00030000

#define SC_SYSCALL_UNKNOWN -1
#define SC_SYSCALL_ELSEWHERE -2

struct sc_compare {
    uint32_t argument; /* 0 to 5 */
    uint32_t op;       /* enum scmp_compare of libseccomp: 1 !=, 2 <, 3 <=, 4 ==, 5 >=, 6 >, 7 masked == */
    uint64_t value;    /* for 7: the mask */
    uint64_t masked;   /* for 7: what is left under the mask */
};

struct sc_filter;

/* The number of a system call here; UNKNOWN to libseccomp, or known but not on this architecture (ELSEWHERE). */
int sc_syscall_number(const char *name);

struct sc_filter *sc_filter_new(uint32_t default_action);
/* All of `compares` must hold. Several rules for one call are alternatives. */
int sc_filter_rule(struct sc_filter *filter, uint32_t action, int number, const struct sc_compare *compares,
                   uint32_t count);
/* No more rules after this. Returns the number of instructions. */
int sc_filter_compile(struct sc_filter *filter);
/* The instructions, `length` times struct sock_filter; and a filter made from such. NULL: no memory, bad size. */
const uint8_t *sc_filter_code(const struct sc_filter *filter);
struct sc_filter *sc_filter_adopt(const uint8_t *code, uint32_t bytes);
/* In force from now on, for every thread of the process, and for ever. Sets no_new_privs. */
int sc_filter_load(const struct sc_filter *filter);
void sc_filter_free(struct sc_filter *filter);

/* Make a forbidden call say its number on standard error before the process dies of SIGSYS. */
int sc_filter_announce_violations(void);

/* Descendants whose parents end become children of this process, instead of init's. */
int sc_adopt_orphans(void);

#endif
