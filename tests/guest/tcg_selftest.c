/* SPDX-License-Identifier: MIT
 *
 * Runs on a real CPU and in a guest of the software CPU; both must print the same lines.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096
#define THREADS 4
#define ROUNDS 100000

static sigjmp_buf back;
static volatile sig_atomic_t last_signal;
static void *volatile last_address;

static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)context;
    last_signal = number;
    last_address = info->si_addr;
    if (number != SIGTRAP)
        siglongjmp(back, 1);
}

static void expect(const char *name, int number, const void *address)
{
    int ok = last_signal == number && (!address || last_address == address);

    printf("%s %s\n", name, ok ? "ok" : "WRONG");
    last_signal = 0;
}

#define FAULT(action)                                                                                                  \
    do {                                                                                                               \
        if (!sigsetjmp(back, 1)) {                                                                                     \
            action;                                                                                                    \
        }                                                                                                              \
    } while (0)

static void exceptions(void)
{
    volatile int zero = 0, result;
    char *read_only = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    FAULT(*(volatile int *)0x1234 = 1);
    expect("write to nowhere", SIGSEGV, (void *)0x1234);
    FAULT(*(volatile char *)read_only = 1);
    expect("write to a read-only page", SIGSEGV, read_only);
    FAULT(((void (*)(void))read_only)());
    expect("run a page of data", SIGSEGV, read_only);
    FAULT(*(volatile int *)0x8000000000001234ull = 1);
    expect("non-canonical address", SIGSEGV, NULL);
    FAULT(__asm__ volatile("ud2"));
    expect("undefined instruction", SIGILL, NULL);
    FAULT(__asm__ volatile("hlt"));
    expect("privileged instruction", SIGSEGV, NULL);
    FAULT(result = 5 / zero);
    (void)result;
    expect("division by zero", SIGFPE, NULL);
    __asm__ volatile("int3");
    expect("breakpoint", SIGTRAP, NULL);
    __asm__ volatile("pushfq; orl $0x100, (%%rsp); popfq; nop; pushfq; andl $~0x100, (%%rsp); popfq" ::
                         : "memory", "cc");
    expect("single step", SIGTRAP, NULL);
}

static void arithmetic(void)
{
    long double factorial = 1;
    double sum = 0;
    unsigned long state = 1;

    for (int i = 1; i < 25; i++)
        factorial *= i;
    printf("x87 %.0Lf\n", factorial);
    for (int i = 0; i < 20000; i++) {
        volatile double x = i;

        sum += sqrt(x) * sin(x) + exp(-x / 1000);
    }
    printf("sse %.12g\n", sum);
    for (long i = 0; i < 1000000; i++) {
        state = state * 6364136223846793005ul + i;
        state ^= state >> 13 | state << 51;
    }
    printf("integer %lx\n", state);
}

static void put_function(unsigned char *code, int value)
{
    code[0] = 0xb8; /* mov eax, value; ret */
    memcpy(code + 1, &value, 4);
    code[5] = 0xc3;
}

static int call(const unsigned char *code)
{
    int (*function)(void);

    memcpy(&function, &code, sizeof(function));
    return function();
}

static void changing_code(void)
{
    int fd = memfd_create("code", 0), wrong[4] = {0};
    unsigned char image[PAGE], *both, *writable, *runnable;

    if (ftruncate(fd, PAGE))
        exit(1);
    both = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    writable = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    runnable = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    for (int i = 0; i < 1000; i++) {
        put_function(both, i);
        wrong[0] += call(both) != i;
        put_function(writable, i);
        wrong[1] += call(runnable) != i;
        memset(image, 0x90, PAGE);
        for (int k = 0; k < 8; k++)
            put_function(image + k * 512, i + k);
        memcpy(writable, image, PAGE);
        for (int k = 0; k < 8; k++)
            wrong[2] += call(runnable + k * 512) != i + k;
        put_function(image, i + 7);
        if (pwrite(fd, image, 6, 64) != 6)
            exit(1);
        wrong[3] += call(runnable + 64) != i + 7;
    }
    printf("code in place %d, through another mapping %d, by pages %d, by the kernel %d\n", wrong[0], wrong[1],
           wrong[2], wrong[3]);
}

static void *add(void *counter)
{
    for (int i = 0; i < ROUNDS; i++)
        __atomic_add_fetch((long *)counter, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

static void concurrency(void)
{
    pthread_t threads[THREADS];
    long counter = 0;
    int status, sum = 0;

    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, add, &counter);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    printf("threads %ld\n", counter);
    for (int i = 0; i < 50; i++) {
        pid_t child = fork();

        if (child == 0)
            _exit(i);
        waitpid(child, &status, 0);
        sum += WEXITSTATUS(status);
    }
    printf("processes %d\n", sum);
}

int main(void)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
    const int signals[] = {SIGSEGV, SIGILL, SIGFPE, SIGBUS, SIGTRAP};

    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        sigaction(signals[i], &action, NULL);
    exceptions();
    arithmetic();
    changing_code();
    concurrency();
    puts("end");
    return 0;
}
