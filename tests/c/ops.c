/* Ops in flight and what goes with them: test, wait, poll, callbacks, batches, tags in threads, reductions of
 * one's own, splits, memory, options, structs of other versions.
 */
#include "check.h"
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <time.h>

static ronde_group *group;
static int rank, ranks;

static float term(int from, size_t i) { return (float)((int)(mix((unsigned)from, (unsigned)i, 7) % 2001) - 1000); }

static float total(size_t i) {
    float sum = 0;
    for (int from = 0; from < ranks; from++) sum += term(from, i);
    return sum;
}

/* Many at once, of many sizes, ended in each of the ways that there are. */
static void in_flight(void) {
    enum { OPS = 24 };
    float *send[OPS], *recv[OPS];
    ronde_op *ops[OPS];
    size_t counts[OPS];
    for (int o = 0; o < OPS; o++) {
        counts[o] = mix(5, (unsigned)o, 0) % (o % 3 == 0 ? 100000 : 500);
        send[o] = malloc((counts[o] + 1) * sizeof(float)), recv[o] = malloc((counts[o] + 1) * sizeof(float));
        for (size_t i = 0; i < counts[o]; i++) send[o][i] = term(rank, i), recv[o][i] = NAN;
        OK(ronde_all_reduce_start(group, send[o], recv[o], counts[o], RONDE_F32, RONDE_SUM, NULL, &ops[o]));
    }
    for (int o = OPS - 1; o >= 0; o--) {
        ronde_outcome outcome = RONDE_OUTCOME_INIT;
        ronde_status status;
        if (o % 3 == 0) {
            OK(ronde_op_wait(ops[o], &outcome));
        } else if (o % 6 == 1) {
            while ((status = ronde_op_wait_for(ops[o], o % 4, &outcome)) == RONDE_IN_PROGRESS) {}
            CHECK(status == RONDE_OK);
        } else if (o % 3 == 1) {
            while ((status = ronde_op_test(ops[o], &outcome)) == RONDE_IN_PROGRESS) {}
            CHECK(status == RONDE_OK);
        } else {
            struct pollfd wait = {-1, POLLIN, 0};
            OK(ronde_op_descriptor(ops[o], &wait.fd));
            CHECK(poll(&wait, 1, 20000) == 1 && wait.revents == POLLIN);
            OK(ronde_op_test(ops[o], &outcome));
        }
        CHECK(outcome.contributors == (uint32_t)ranks);
        OK(ronde_op_wait(ops[o], NULL)); /* again and again */
        OK(ronde_op_test(ops[o], NULL));
        for (size_t i = 0; i < counts[o]; i++) CHECK(recv[o][i] == total(i));
        ronde_op_free(ops[o]);
        free(send[o]), free(recv[o]);
    }
}

static int64_t now_ms(void) {
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* A wait that is bounded comes back though nothing has ended, and the op goes on. */
static void bounded_waits(void) {
    if (ranks == 1) return;
    int to = (rank + 1) % ranks, from = (rank + ranks - 1) % ranks;
    uint32_t got = 0, given = 7000u + (uint32_t)rank;
    ronde_op *op;
    OK(ronde_recv_start(group, &got, 1, RONDE_U32, from, NULL, &op));
    int64_t before = now_ms();
    CHECK(ronde_op_wait_for(op, 120, NULL) == RONDE_IN_PROGRESS);
    int64_t waited = now_ms() - before;
    CHECK(waited >= 119 && waited < 5000);
    CHECK(ronde_op_wait_for(op, 0, NULL) == RONDE_IN_PROGRESS && ronde_op_wait_for(op, -5, NULL) == RONDE_IN_PROGRESS);
    OK(ronde_barrier(group, NULL, NULL)); /* all have waited: nobody has sent */
    OK(ronde_send(group, &given, 1, RONDE_U32, to, NULL, NULL));
    ronde_outcome outcome = RONDE_OUTCOME_INIT;
    OK(ronde_op_wait_for(op, INT64_MAX, &outcome));
    CHECK(got == 7000u + (uint32_t)from && outcome.bytes_received == 4);
    OK(ronde_op_wait_for(op, 0, NULL)); /* again and again */
    ronde_op_free(op);
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int calls, contributors;

static void on_end(void *context, ronde_status status, const ronde_outcome *outcome, const char *error) {
    CHECK(status == RONDE_OK && outcome != NULL && error[0] == 0);
    pthread_mutex_lock(&lock);
    calls++, contributors += (int)outcome->contributors, *(int *)context += 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

/* Nobody waits: the library's own thread makes the progress and calls. */
static void callbacks(void) {
    enum { OPS = 10 };
    static int32_t data[OPS][1000];
    int called[OPS] = {0};
    for (int o = 0; o < OPS; o++) {
        ronde_op *op;
        for (int i = 0; i < 1000; i++) data[o][i] = rank + o * i;
        OK(ronde_all_reduce_start(group, data[o], data[o], 1000, RONDE_I32, RONDE_SUM, NULL, &op));
        OK(ronde_op_on_complete(op, on_end, &called[o]));
    }
    pthread_mutex_lock(&lock);
    while (calls < OPS) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    CHECK(contributors == OPS * ranks);
    for (int o = 0; o < OPS; o++) {
        CHECK(called[o] == 1);
        for (int i = 0; i < 1000; i++) CHECK(data[o][i] == ranks * (ranks - 1) / 2 + ranks * o * i);
    }
}

static void *one_thread(void *number) {
    ronde_options options = RONDE_OPTIONS_INIT;
    options.tag = 10 + (uint32_t)(size_t)number;
    for (int round = 0; round < 50; round++) {
        int64_t x = rank + round;
        OK(ronde_all_reduce(group, &x, &x, 1, RONDE_I64, RONDE_SUM, &options, NULL));
        CHECK(x == (int64_t)ranks * (ranks - 1) / 2 + (int64_t)ranks * round);
        if (ranks > 1) {
            int64_t out = rank * 1000 + round, in = -1;
            ronde_call both[2] = {RONDE_CALL_INIT, RONDE_CALL_INIT};
            both[0].collective = RONDE_SEND, both[0].send = &out, both[0].peer = (rank + 1) % ranks;
            both[1].collective = RONDE_RECV, both[1].recv = &in, both[1].peer = (rank + ranks - 1) % ranks;
            for (int i = 0; i < 2; i++) both[i].dtype = RONDE_I64, both[i].count = 1, both[i].options = &options;
            ronde_outcome ended[2] = {RONDE_OUTCOME_INIT, RONDE_OUTCOME_INIT};
            OK(ronde_run(group, both, 2, ended));
            CHECK(ended[0].bytes_sent == 8 && ended[1].bytes_received == 8);
            CHECK(in == (rank + ranks - 1) % ranks * 1000 + round);
        }
    }
    return NULL;
}

static void threads(void) {
    pthread_t ids[4];
    for (size_t t = 0; t < 4; t++) CHECK(pthread_create(&ids[t], NULL, one_thread, (void *)t) == 0);
    for (int t = 0; t < 4; t++) CHECK(pthread_join(ids[t], NULL) == 0);
}

/* Depends on the order of the ranks: not commutative. */
static void horner(const void *src, void *acc, size_t count, ronde_dtype dtype, void *context) {
    const unsigned char *from = src;
    unsigned char *to = acc;
    CHECK(dtype == RONDE_U32);
    for (size_t i = 0; i < count; i++) {
        uint32_t a, b;
        memcpy(&a, to + 4 * i, 4), memcpy(&b, from + 4 * i, 4);
        a = a * *(uint32_t *)context + b;
        memcpy(to + 4 * i, &a, 4);
    }
}

static void reductions(void) {
    static const size_t sizes[] = {0, 1, 5, 70000};
    uint32_t base = 31;
    ronde_reduction own, scaled;
    OK(ronde_reduction_create(horner, &base, &own));
    for (int s = 0; s < 4; s++) {
        size_t count = sizes[s];
        uint32_t *x = malloc(4 * count + 4), *y = malloc(4 * count + 4);
        for (size_t i = 0; i < count; i++) x[i] = mix((unsigned)rank, (unsigned)i, 3), y[i] = 99;
        OK(ronde_all_reduce(group, x, y, count, RONDE_U32, own, NULL, NULL));
        for (size_t i = 0; i < count; i++) {
            uint32_t wanted = mix(0, (unsigned)i, 3);
            for (int from = 1; from < ranks; from++) wanted = wanted * 31 + mix((unsigned)from, (unsigned)i, 3);
            CHECK(y[i] == wanted);
        }
        free(x), free(y);
    }
    OK(ronde_reduction_free(own));
    FAILS(ronde_reduction_free(own), RONDE_INVALID_ARGUMENT, "reduction");

    double scalar = rank + 0.5, in[3] = {1, -2, 4}, out[3] = {0}, factor = 0;
    OK(ronde_reduction_premulsum(RONDE_F64, &scalar, &scaled));
    OK(ronde_all_reduce(group, in, out, 3, RONDE_F64, scaled, NULL, NULL));
    for (int from = 0; from < ranks; from++) factor += from + 0.5;
    for (int i = 0; i < 3; i++) CHECK(out[i] == in[i] * factor);
    float other = 1;
    FAILS(ronde_all_reduce(group, &other, &other, 1, RONDE_F32, scaled, NULL, NULL), RONDE_INVALID_ARGUMENT, "f64");
    OK(ronde_reduction_free(scaled));

    ronde_reduction weighed;
    ronde_outcome told = RONDE_OUTCOME_INIT;
    double weight_sum = 0, weighted[2] = {rank, 1}, average = 0;
    OK(ronde_reduction_weighted_avg(rank + 1.0, &weighed));
    OK(ronde_all_reduce(group, weighted, weighted, 2, RONDE_F64, weighed, NULL, &told));
    for (int from = 0; from < ranks; from++) weight_sum += from + 1.0, average += from * (from + 1.0);
    CHECK(told.weight == weight_sum && fabs(weighted[0] - average / weight_sum) < 1e-12 && weighted[1] == 1);
    OK(ronde_reduction_free(weighed));
    FAILS(ronde_reduction_weighted_avg(-1, &weighed), RONDE_INVALID_ARGUMENT, "weight");
    OK(ronde_all_reduce(group, weighted, weighted, 2, RONDE_F64, RONDE_SUM, NULL, &told));
    CHECK(isnan(told.weight));

    /* The average divides the sum once; integers truncate toward zero. */
    int32_t whole[2] = {rank == 0 ? -7 : 0, rank == 0 ? 7 : 0};
    float part = rank == 0 ? 1.0f : 0.0f;
    OK(ronde_all_reduce(group, whole, whole, 2, RONDE_I32, RONDE_AVG, NULL, NULL));
    OK(ronde_all_reduce(group, &part, &part, 1, RONDE_F32, RONDE_AVG, NULL, NULL));
    CHECK(whole[0] == -7 / ranks && whole[1] == 7 / ranks && part == 1.0f / (float)ranks);
    float bad[2] = {rank == ranks - 1 ? NAN : 1.0f, rank == 0 ? INFINITY : -1.0f};
    OK(ronde_all_reduce(group, bad, bad, 2, RONDE_F32, RONDE_MAX, NULL, NULL));
    CHECK(isnan(bad[0]) && bad[1] == INFINITY);
}

static void splits(void) {
    ronde_group *half, *reversed, *none;
    OK(ronde_split(group, rank % 2, 0, &half));
    OK(ronde_split(group, 0, -rank, &reversed));
    OK(ronde_split(group, rank == 0 ? -1 : 5, 0, &none));
    CHECK(ronde_size(half) == (ranks + (rank % 2 == 0)) / 2 && ronde_rank(half) == rank / 2);
    CHECK(ronde_size(reversed) == ranks && ronde_rank(reversed) == ranks - 1 - rank);
    CHECK((none == NULL) == (rank == 0));
    int32_t x = 1 << rank, wanted = 0;
    for (int from = rank % 2; from < ranks; from += 2) wanted |= 1 << from;
    OK(ronde_all_reduce(half, &x, &x, 1, RONDE_I32, RONDE_SUM, NULL, NULL));
    CHECK(x == wanted);
    x = rank;
    OK(ronde_broadcast(reversed, &x, 1, RONDE_I32, 0, NULL, NULL));
    CHECK(x == ranks - 1);
    OK(ronde_close(half));
    FAILS(ronde_barrier(half, NULL, NULL), RONDE_CLOSED, "closed");
    ronde_group_free(half), ronde_group_free(reversed), ronde_group_free(none);
}

static void memory(void) {
    size_t count = 300001;
    void *mine, *out;
    OK(ronde_mem_alloc(group, count * sizeof(float), &mine));
    OK(ronde_mem_alloc(group, count * sizeof(float), &out));
    float *x = mine, *y = out;
    for (size_t i = 0; i < count; i++) {
        CHECK(x[i] == 0);
        x[i] = term(rank, i);
    }
    for (int round = 0; round < 3; round++) {
        OK(ronde_all_reduce(group, x, y, count, RONDE_F32, RONDE_SUM, NULL, NULL));
        for (size_t i = 0; i < count; i++) CHECK(y[i] == total(i));
        memset(y, 0xff, count * sizeof(float));
    }
    OK(ronde_mem_free(group, mine));
    OK(ronde_mem_free(group, NULL));
    FAILS(ronde_mem_free(group, mine), RONDE_INVALID_ARGUMENT, "ronde_mem_alloc");
    /* The other one is freed with the group. */
}

static void options(void) {
    static const char *const names[] = {"one-shot", "two-shot", "ring", "recursive-doubling"};
    for (int a = 0; a < 4; a++) {
        for (int32_t tolerance = RONDE_RECOVER; tolerance <= RONDE_PER_WINDOW; tolerance++) {
            ronde_options with = RONDE_OPTIONS_INIT;
            ronde_outcome outcome = RONDE_OUTCOME_INIT;
            with.algorithm = names[a], with.tolerance = tolerance, with.timeout_ms = 20000;
            float x[100], y[100];
            for (size_t i = 0; i < 100; i++) x[i] = term(rank, i), y[i] = NAN;
            OK(ronde_all_reduce(group, x, y, 100, RONDE_F32, RONDE_SUM, &with, &outcome));
            for (size_t i = 0; i < 100; i++) CHECK(y[i] == total(i));
            CHECK(outcome.parts == NULL && outcome.part_count == 0);
            if (ranks > 1) {
                CHECK(strcmp(outcome.algorithm, names[a]) == 0);
                CHECK(outcome.bytes_sent > 0 && outcome.bytes_received > 0);
            }
        }
    }
    /* A program built with a header that had fewer fields, and one with more. */
    struct {
        size_t size;
        int64_t timeout_ms;
    } old = {sizeof old, 20000};
    struct {
        ronde_options known;
        uint64_t later[2];
    } newer = {RONDE_OPTIONS_INIT, {0, 0}};
    struct {
        ronde_outcome known;
        uint64_t later[2];
    } result = {RONDE_OUTCOME_INIT, {42, 42}};
    /* Outcomes had no list of the absent once. */
    ronde_outcome short_one = RONDE_OUTCOME_INIT;
    short_one.size = offsetof(ronde_outcome, absent), short_one.absent_count = 42;
    OK(ronde_barrier(group, NULL, &short_one));
    CHECK(short_one.contributors == (uint32_t)ranks && short_one.absent_count == 42);
    newer.known.size = sizeof newer, result.known.size = sizeof result;
    OK(ronde_barrier(group, (const ronde_options *)(const void *)&old, NULL));
    OK(ronde_barrier(group, &newer.known, &result.known));
    CHECK(result.known.absent == NULL && result.known.absent_count == 0);
    CHECK(result.known.stable_through > 0 && result.known.stable_through <= result.known.seq);
    CHECK(result.known.generation == ronde_generation(group));
    CHECK(result.known.contributors == (uint32_t)ranks && result.later[0] == 42 && result.later[1] == 42);
    newer.later[1] = 1;
    FAILS(ronde_barrier(group, &newer.known, NULL), RONDE_INVALID_ARGUMENT, "does not know");
}

/* What a call does not use is another thing on every rank, and may point anywhere. */
static ronde_call leftovers(ronde_collective collective) {
    ronde_call call;
    memset(&call, rank % 2 == 0 ? 0x11 + rank : 0xee - rank, sizeof call);
    call.size = sizeof call, call.collective = collective, call.options = NULL;
    return call;
}

enum { BLOCK = 3, MOST = 64 * BLOCK };

static void fill(int32_t *send, int32_t *recv) {
    for (int i = 0; i < MOST; i++) send[i] = rank * 1000 + i, recv[i] = -1;
}

/* recv has what the ranks from `first` on sent at offset `at`, `blocks` of them. */
static void check_blocks(const int32_t *recv, int first, int blocks, int at) {
    for (int i = 0; i < blocks * BLOCK; i++) CHECK(recv[i] == (first + i / BLOCK) * 1000 + at + i % BLOCK);
}

static void unused_fields(void) {
    int32_t send[MOST], recv[MOST];
    size_t counts[64];
    int root = ranks - 1, triangle = ranks * (ranks - 1) / 2 * 1000;
    for (int r = 0; r < ranks; r++) counts[r] = BLOCK;
    for (int c = RONDE_ALL_REDUCE; c <= RONDE_SCATTER_V; c++) {
        ronde_call call = leftovers((ronde_collective)c);
        int is_message = c == RONDE_SEND || c == RONDE_RECV;
        if (is_message && ranks == 1) continue;
        fill(send, recv);
        if (c != RONDE_BARRIER) call.dtype = RONDE_I32, call.send = send, call.recv = recv;
        if (c != RONDE_BARRIER && c != RONDE_ALL_GATHER_V && c != RONDE_REDUCE_SCATTER_V && c != RONDE_ALL_TO_ALL_V)
            call.count = BLOCK;
        if (c == RONDE_ALL_REDUCE || c == RONDE_REDUCE || c == RONDE_REDUCE_SCATTER || c == RONDE_REDUCE_SCATTER_V)
            call.reduction = RONDE_SUM;
        if (c == RONDE_REDUCE_SCATTER_V || c == RONDE_ALL_TO_ALL_V || (c == RONDE_SCATTER_V && rank == root))
            call.send_counts = counts, call.send_offsets = NULL;
        if (c == RONDE_ALL_GATHER_V || c == RONDE_ALL_TO_ALL_V || (c == RONDE_GATHER_V && rank == root))
            call.recv_counts = counts, call.recv_offsets = NULL;
        switch (c) {
        case RONDE_BROADCAST:
        case RONDE_REDUCE:
        case RONDE_GATHER:
        case RONDE_GATHER_V:
        case RONDE_SCATTER:
        case RONDE_SCATTER_V: call.peer = root; break;
        case RONDE_SEND: call.peer = (rank + 1) % ranks; break;
        case RONDE_RECV: call.peer = (rank + ranks - 1) % ranks; break;
        default: break;
        }
        /* Pointers of what a rank does not send or receive. */
        if ((c == RONDE_BROADCAST || c == RONDE_SCATTER || c == RONDE_SCATTER_V) && rank != root) call.send = &recv[7];
        if ((c == RONDE_REDUCE || c == RONDE_GATHER || c == RONDE_GATHER_V) && rank != root) call.recv = &send[1];
        if (c == RONDE_SEND) {
            /* With the receive that it goes to. */
            ronde_call both[2] = {call, leftovers(RONDE_RECV)};
            both[0].recv = (void *)(size_t)(rank + 1), both[1].send = (void *)(size_t)(rank + 1);
            both[1].recv = recv, both[1].peer = (rank + ranks - 1) % ranks;
            both[1].dtype = RONDE_I32, both[1].count = BLOCK;
            OK(ronde_run(group, both, 2, NULL));
        } else if (c != RONDE_RECV) {
            OK(ronde_run(group, &call, 1, NULL));
        }
        switch (c) {
        case RONDE_ALL_REDUCE:
        case RONDE_REDUCE:
            for (int i = 0; i < BLOCK; i++)
                CHECK(recv[i] == (c == RONDE_ALL_REDUCE || rank == root ? triangle + ranks * i : -1));
            break;
        case RONDE_REDUCE_SCATTER:
        case RONDE_REDUCE_SCATTER_V:
            for (int i = 0; i < BLOCK; i++) CHECK(recv[i] == triangle + ranks * (rank * BLOCK + i));
            break;
        case RONDE_ALL_GATHER:
        case RONDE_ALL_GATHER_V: check_blocks(recv, 0, ranks, 0); break;
        case RONDE_ALL_TO_ALL:
        case RONDE_ALL_TO_ALL_V: check_blocks(recv, 0, ranks, rank * BLOCK); break;
        case RONDE_GATHER:
        case RONDE_GATHER_V:
            if (rank == root) check_blocks(recv, 0, ranks, 0);
            break;
        case RONDE_BROADCAST: check_blocks(recv, root, 1, 0); break;
        case RONDE_SCATTER:
        case RONDE_SCATTER_V: check_blocks(recv, root, 1, rank * BLOCK); break;
        case RONDE_SEND: check_blocks(recv, (rank + ranks - 1) % ranks, 1, 0); break;
        default: break;
        }
    }
}

/* Freeing a handle neither waits nor ends the op: what others need of it still arrives. */
static void freed_early(void) {
    static float x[5000], y[5000];
    ronde_op *op;
    for (size_t i = 0; i < 5000; i++) x[i] = term(rank, i), y[i] = NAN;
    OK(ronde_all_reduce_start(group, x, y, 5000, RONDE_F32, RONDE_SUM, NULL, &op));
    if (rank == 0) {
        ronde_op_free(op);
    } else {
        OK(ronde_op_wait(op, NULL));
        ronde_op_free(op);
        for (size_t i = 0; i < 5000; i++) CHECK(y[i] == total(i));
    }
    ronde_op_free(NULL);
    OK(ronde_barrier(group, NULL, NULL));
}

int main(void) {
    group = join();
    rank = ronde_rank(group), ranks = ronde_size(group);
    for (int r = 0; r < ranks; r++) CHECK((ronde_transport(group, r)[0] != 0) == (r != rank));
    {
        char some[8], *all;
        OK(ronde_barrier(group, NULL, NULL));
        size_t length = ronde_recent_calls(group, NULL, 0);
        CHECK(length > 20 && ronde_recent_calls(NULL, some, sizeof some) == 0);
        CHECK(ronde_recent_calls(group, some, sizeof some) == length && strlen(some) == sizeof some - 1);
        all = malloc(length + 1);
        CHECK(all && ronde_recent_calls(group, all, length + 1) == length && strlen(all) == length);
        CHECK(strncmp(all, some, sizeof some - 1) == 0 && strstr(all, "(tag 0), ") && strstr(all, ": returned\n"));
        free(all);
    }
    CHECK(ronde_transport(group, -1)[0] == 0 && ronde_host(group, ranks)[0] == 0 && ronde_transport(NULL, 0)[0] == 0);
    in_flight();
    bounded_waits();
    callbacks();
    threads();
    reductions();
    splits();
    memory();
    options();
    unused_fields();
    freed_early();
    OK(ronde_failure(group));
    leave(group);
    return 0;
}
