/* usage: elastic            (not under a launcher)
 *
 * A job that grows and shrinks: process 0 begins alone, then 1 and 2 join and get the state, 1 leaves, the ranks of
 * the two that stay are dense again, and 3 joins. At every step every process compares what it gets with what it
 * must get. Process 0 starts the others as: elastic NUMBER ID.
 */
#include "check.h"
#include <pthread.h>
#include <spawn.h>
#include <stddef.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PROCESSES = 4, LEAVER = 1, LONGEST = 70001 };
extern char **environ;

static ronde_config config = RONDE_CONFIG_INIT;
static ronde_id id;
static ronde_group *group;
static int number; /* of this process; its rank is another matter */
static pid_t children[PROCESSES];

/* The same on all. */
static struct {
    uint32_t step, stage; /* changes so far */
    uint64_t digest;      /* of all results */
} state;

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int is_absent(const ronde_outcome *outcome, int rank) {
    for (size_t i = 0; i < outcome->absent_count; i++)
        if (outcome->absent[i] == rank) return 1;
    return 0;
}

/* Between -1000 and 1000: sums of these are exact. */
static double term(int rank, size_t i) { return (double)(mix((unsigned)rank, state.step, (unsigned)i) % 2001) - 1000; }

static void sums(size_t count, ronde_reduction reduction, int in_place, const ronde_outcome *like) {
    static double x[LONGEST], y[LONGEST];
    ronde_outcome outcome = RONDE_OUTCOME_INIT;
    double *result = in_place ? x : y;
    for (size_t i = 0; i < count; i++) x[i] = term(ronde_rank(group), i), y[i] = -0.125;
    OK(ronde_all_reduce(group, x, result, count, RONDE_F64, reduction, NULL, &outcome));
    CHECK(outcome.absent_count == like->absent_count && outcome.contributors == like->contributors);
    for (size_t i = 0; i < count; i++) {
        double wanted = 0;
        for (int rank = 0; rank < ronde_size(group); rank++) wanted += is_absent(&outcome, rank) ? 0 : term(rank, i);
        CHECK(result[i] == (reduction == RONDE_AVG ? wanted / outcome.contributors : wanted));
        uint64_t bits;
        memcpy(&bits, &result[i], sizeof bits);
        state.digest = (state.digest ^ bits) * 1099511628211u;
    }
}

/* One step; everybody has the same state before and after. Returns who contributed. */
static ronde_outcome step(void) {
    static const size_t counts[] = {0, 1, 1001, LONGEST};
    uint64_t digests[PROCESSES];
    ronde_outcome outcome = RONDE_OUTCOME_INIT;
    int ranks = ronde_size(group);
    memset(digests, 0x55, sizeof digests);
    OK(ronde_all_gather(group, &state.digest, digests, 1, RONDE_U64, NULL, &outcome));
    CHECK(outcome.contributors + outcome.absent_count == (uint32_t)ranks);
    CHECK((outcome.absent == NULL) == (outcome.absent_count == 0));
    for (int rank = 0; rank < ranks; rank++) CHECK(is_absent(&outcome, rank) || digests[rank] == state.digest);
    for (size_t c = 0; c < 4; c++)
        sums(counts[c], c % 2 == 0 ? RONDE_AVG : RONDE_SUM, (state.step + c) % 2 == 0, &outcome);
    int32_t all = -1;
    OK(ronde_agree(group, 1, &all, &outcome));
    CHECK(all == 1);
    OK(ronde_agree(group, ronde_rank(group) != 0, &all, NULL));
    CHECK(all == 0);
    state.step++;
    return outcome;
}

/* Steps until a safe point changes something. */
static ronde_change await_change(void) {
    double start = seconds();
    for (;;) {
        ronde_change change = RONDE_CHANGE_INIT;
        OK(ronde_update(group, &change));
        CHECK(change.rank == ronde_rank(group) && change.ranks == ronde_size(group));
        CHECK(change.generation == ronde_generation(group) && (change.gone_ranks == NULL) == (change.gone == 0));
        if (change.changed) {
            CHECK(change.generation == ++state.stage && change.joined + change.gone > 0);
            return change;
        }
        CHECK(change.generation == state.stage && change.joined + change.gone == 0);
        CHECK(seconds() - start < 100);
        step();
    }
}

static int is_transport(const char *name) { return strcmp(name, "shm") == 0 || strcmp(name, "tcp") == 0; }

/* Another thread looks on all the time: what it is given stays whole. */
static int seen_enough;
static void *watch(void *unused) {
    struct timespec pause = {0, 300000};
    const char *hosts[PROCESSES], *transports[PROCESSES];
    while (!__atomic_load_n(&seen_enough, __ATOMIC_ACQUIRE)) {
        for (int rank = 0; rank < PROCESSES; rank++)
            hosts[rank] = ronde_host(group, rank), transports[rank] = ronde_transport(group, rank);
        nanosleep(&pause, NULL);
        for (int rank = 0; rank < PROCESSES; rank++) {
            CHECK(strlen(hosts[rank]) < 256);
            CHECK(transports[rank][0] == 0 || is_transport(transports[rank]));
        }
    }
    return unused;
}

/* Links are known to all ranks but one's own, and to nobody else. */
static void check_links(ronde_group *of) {
    for (int rank = -1; rank <= PROCESSES; rank++) {
        int wanted = rank >= 0 && rank < ronde_size(of) && rank != ronde_rank(of);
        CHECK((ronde_transport(of, rank)[0] != 0) == wanted && (ronde_host(of, rank)[0] != 0) == wanted);
    }
}

/* Everybody in it knows who the others are: rank `rank` of it is process processes[rank]. */
static void check_part(ronde_group *part, const int *processes, int ranks) {
    int32_t found[PROCESSES] = {-1, -1, -1, -1};
    CHECK(ronde_size(part) == ranks && processes[ronde_rank(part)] == number);
    OK(ronde_all_gather(part, &number, found, 1, RONDE_I32, NULL, NULL));
    for (int rank = 0; rank < ranks; rank++) CHECK(found[rank] == processes[rank]);
    check_links(part);
}

static pid_t start(int newcomer, const char *program) {
    char hex[2 * sizeof id.bytes + 1], digits[12];
    for (size_t i = 0; i < sizeof id.bytes; i++) snprintf(hex + 2 * i, 3, "%02x", id.bytes[i]);
    snprintf(digits, sizeof digits, "%d", newcomer);
    char *arguments[] = {(char *)program, digits, hex, NULL};
    pid_t child;
    CHECK(posix_spawn(&child, program, NULL, NULL, arguments, environ) == 0);
    return child;
}

static void read_id(const char *hex) {
    for (size_t i = 0; i < sizeof id.bytes; i++) {
        unsigned byte;
        CHECK(sscanf(hex + 2 * i, "%2x", &byte) == 1);
        id.bytes[i] = (unsigned char)byte;
    }
}

/* Joins a job that may be running. */
static void arrive(void) {
    config.timeout_ms = 100000, config.connect_timeout_ms = 100000;
    config.id = &id;
    if (number == 0) config.min_peers = 1;
    if (number == 1) config.newcomer = 1;
    if (number == 2) {
        /* As a program that was built when there was nothing more. */
        config.size = offsetof(ronde_config, min_peers);
        memset((unsigned char *)&config + config.size, 0xff, sizeof config - config.size);
    }
    OK(ronde_join(&config, &group));
    memset(&state, 0xee, sizeof state);
}

/* A process comes to those that are there, which give it the state. */
static void grow(int newcomer, int ranks, const char *program) {
    if (number == newcomer) {
        arrive();
        CHECK(ronde_rank(group) == ranks - 1 && ronde_generation(group) > 0);
    } else {
        int rank = ronde_rank(group);
        step();
        if (number == 0) children[newcomer] = start(newcomer, program);
        ronde_change change = await_change();
        CHECK(change.joined == 1 && change.gone == 0 && change.rank == rank);
    }
    CHECK(ronde_size(group) == ranks);
    OK(ronde_share(group, &state, sizeof state, number != newcomer, NULL));
    CHECK(state.stage == ronde_generation(group));
    check_links(group);
    CHECK(step().contributors == (uint32_t)ranks);
}

/* Of three, one leaves: it is missed at once, and its rank is a hole until the next safe point. */
static void shrink(ronde_group *all, ronde_group *pair) {
    static const int stayed[] = {2, 0}, alone[] = {0};
    ronde_outcome outcome = step();
    CHECK(outcome.absent_count == 1 && outcome.absent[0] == LEAVER && ronde_size(group) == 3);
    const char *host = ronde_host(group, LEAVER), *transport = ronde_transport(group, LEAVER);
    CHECK(host[0] != 0 && transport[0] != 0);
    ronde_change change = await_change();
    CHECK(change.joined == 0 && change.gone == 1 && change.gone_ranks[0] == LEAVER);
    CHECK(change.ranks == 2 && change.rank == number / 2);
    check_links(group);
    check_part(all, stayed, 2);
    if (pair != NULL) check_part(pair, alone, 1);

    int32_t note = number == 2 ? 4711 : -1;
    if (number == 2) OK(ronde_send(group, &note, 1, RONDE_I32, 0, NULL, NULL));
    else OK(ronde_recv(group, &note, 1, RONDE_I32, 1, NULL, NULL));
    CHECK(note == 4711);
    outcome.contributors = step().contributors;
    CHECK(outcome.contributors == 2);
    change.changed = 1;
    OK(ronde_update(group, &change));
    CHECK(!change.changed && change.ranks == 2 && change.gone == 0 && change.gone_ranks == NULL);
    /* What was given before is still there. */
    CHECK(outcome.absent[0] == LEAVER && host[0] != 0 && is_transport(transport));
}

/* What becomes of parts: they follow the job, without those who come. */
static void parts(const char *program) {
    static const int everybody[] = {2, 1, 0}, first_two[] = {1, 0}, stayed[] = {2, 0};
    ronde_group *all, *pair;
    OK(ronde_split(group, 0, -number, &all));
    OK(ronde_split(group, number == 2 ? -1 : 0, -number, &pair));
    check_part(all, everybody, 3);
    if (pair != NULL) check_part(pair, first_two, 2);
    FAILS(ronde_update(all, NULL), RONDE_INVALID_ARGUMENT, "whole job");
    CHECK(ronde_generation(all) == ronde_generation(group));
    if (number != LEAVER) {
        shrink(all, pair);
        grow(3, 3, program);
        check_part(all, stayed, 2);
    }
    ronde_group_free(pair), ronde_group_free(all);
}

/* Who says that nobody joins is heard. */
static void closed_doors(void) {
    static const char *const words[] = {"takes no more than 1", "only shrinks"};
    for (int kind = 0; kind < 2; kind++) {
        ronde_config host = RONDE_CONFIG_INIT, late = RONDE_CONFIG_INIT;
        ronde_group *alone, *nobody;
        ronde_id own;
        host.min_peers = 1, host.max_peers = kind == 0, host.shrink_only = kind == 1;
        OK(ronde_id_create(&host, &own));
        host.id = late.id = &own, late.newcomer = 1;
        OK(ronde_join(&host, &alone));
        FAILS(ronde_join(&late, &nobody), RONDE_JOIN_FAILED, words[kind]);
        CHECK(nobody == NULL && ronde_size(alone) == 1);
        OK(ronde_update(alone, NULL));
        leave(alone);
    }
}

int main(int argc, char **argv) {
    pthread_t watcher;
    CHECK(argc == 1 || argc == 3);
    number = argc == 3 ? atoi(argv[1]) : 0;
    config.preset = 2; /* under Valgrind a process may well be silent for a second */
    if (number == 0) {
        closed_doors();
        OK(ronde_id_create(&config, &id));
        arrive();
        memset(&state, 0, sizeof state);
        CHECK(ronde_rank(group) == 0 && ronde_size(group) == 1 && ronde_generation(group) == 0);
        CHECK(pthread_create(&watcher, NULL, watch, NULL) == 0);
    } else {
        read_id(argv[2]);
    }
    if (number <= 1) grow(1, 2, argv[0]);
    if (number <= 2) grow(2, 3, argv[0]), parts(argv[0]);
    else grow(3, 3, argv[0]);

    if (number == 0) {
        __atomic_store_n(&seen_enough, 1, __ATOMIC_RELEASE);
        CHECK(pthread_join(watcher, NULL) == 0);
    }
    leave(group);
    for (int child = 1; child < PROCESSES && number == 0; child++) {
        int status;
        CHECK(waitpid(children[child], &status, 0) == children[child] && status == 0);
    }
    return 0;
}
