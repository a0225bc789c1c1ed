/* How far apart the first two processors are, twice a second, or once in a shorter time: the least time in ns for a cache line to
 * go to the other one and back. On a virtual machine that changes with where the host lets its processors run.
 *
 *     cc -O2 -pthread benches/peers/bare/cores.c -o target/cores && target/cores 60
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { TURNS = 50 };

static _Alignas(128) atomic_uint ping;
static _Alignas(128) atomic_uint pong;
static atomic_bool is_over;

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

static void run_on(int processor) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0) perror("sched_setaffinity");
}

static void *answer(void *unused) {
    run_on(1);
    for (unsigned seen = 0; !is_over;) {
        unsigned now = ping;
        if (now != seen) pong = seen = now;
    }
    return unused;
}

/* Mean of some turns; the least of many such means is free of interruptions. */
static double turn(unsigned *number) {
    double start = seconds();
    for (int i = 0; i < TURNS; i++) {
        ping = ++*number;
        while (pong != *number) {}
    }
    return (seconds() - start) / TURNS;
}

int main(int argc, char **argv) {
    double span = argc > 1 ? atof(argv[1]) : 10, end = seconds() + span;
    pthread_t other;
    unsigned number = 0;
    run_on(0);
    if (pthread_create(&other, NULL, answer, NULL) != 0) return 1;
    while (seconds() < end) {
        double least = 1;
        for (double until = seconds() + (span < 0.5 ? span : 0.5); seconds() < until;) {
            double now = turn(&number);
            if (now < least) least = now;
        }
        printf("%.0f ", least * 1e9);
        fflush(stdout);
    }
    puts("");
    is_over = 1;
    pthread_join(other, NULL);
    return 0;
}
