/* Commit groups: calls of many kinds, in place and out of place, become final together, and each gives what it would give
 * alone. Then what is refused, and how a commit ends with its group.
 *
 * usage: together | together KIND      (3 ranks; lost: rank 2 kills itself; aborted, disagree: how the job ends)
 */
#include "check.h"
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

enum { MOST = 60000 };

static ronde_group *group;
static int rank, ranks;

/* Element i of vector v that a rank gives. Sums of all ranks are exact. */
static float term(int from, int v, size_t i) { return (float)(mix((unsigned)from, (unsigned)v, (unsigned)i) % 2001) - 1000; }

static int is_absent(const ronde_outcome *outcome, int of) {
    for (size_t i = 0; i < outcome->absent_count; i++)
        if (outcome->absent[i] == of) return 1;
    return 0;
}

static float total(const ronde_outcome *outcome, int v, size_t i) {
    float sum = 0;
    for (int from = 0; from < ranks; from++) sum += is_absent(outcome, from) ? 0 : term(from, v, i);
    return sum;
}

/* The calls of a step; counts are blocks of one rank. */
enum { VECTORS = 9 };
static const struct {
    ronde_collective collective;
    size_t count;
    int in_place;
} step[VECTORS] = {{RONDE_ALL_REDUCE, 1, 1},     {RONDE_ALL_REDUCE, MOST, 0},    {RONDE_ALL_GATHER, 501, 0},
                   {RONDE_ALL_REDUCE, MOST, 1},  {RONDE_REDUCE_SCATTER, 77, 0},  {RONDE_ALL_GATHER, 20000, 1},
                   {RONDE_REDUCE_SCATTER, 9000, 1}, {RONDE_ALL_TO_ALL, 300, 0},  {RONDE_ALL_REDUCE, 0, 0}};

static float *sent[VECTORS], *received[VECTORS];

static int gathers(int v) { return step[v].collective == RONDE_ALL_GATHER; }

/* Buffers and call of a vector. */
static ronde_call prepare(int v) {
    ronde_call call = RONDE_CALL_INIT;
    size_t n = (size_t)ranks, own = (size_t)rank, count = step[v].count;
    size_t in = step[v].collective == RONDE_ALL_REDUCE || gathers(v) ? count : count * n;
    size_t shift = gathers(v) && step[v].in_place ? own * count : 0;
    sent[v] = malloc((count * n + 1) * sizeof(float)), received[v] = malloc((count * n + 1) * sizeof(float));
    CHECK(sent[v] && received[v]);
    for (size_t i = 0; i < count * n; i++) sent[v][i] = received[v][i] = -0.125f;
    for (size_t i = 0; i < in; i++) sent[v][shift + i] = term(rank, v, i);
    call.collective = step[v].collective, call.dtype = RONDE_F32, call.count = count;
    call.send = sent[v] + shift, call.recv = received[v];
    if (step[v].in_place)
        call.recv = step[v].collective == RONDE_REDUCE_SCATTER ? sent[v] + own * count : sent[v];
    return call;
}

static void check_vector(int v, const ronde_outcome *outcome) {
    size_t count = step[v].count, own = (size_t)rank;
    const float *got = step[v].in_place ? sent[v] : received[v];
    if (step[v].collective == RONDE_REDUCE_SCATTER && step[v].in_place) got += own * count;
    if (step[v].collective == RONDE_ALL_REDUCE)
        for (size_t i = 0; i < count; i++) CHECK(got[i] == total(outcome, v, i));
    if (step[v].collective == RONDE_REDUCE_SCATTER)
        for (size_t i = 0; i < count; i++) CHECK(got[i] == total(outcome, v, own * count + i));
    for (int from = 0; from < ranks; from++) {
        const float *block = got + (size_t)from * count;
        if (is_absent(outcome, from)) continue;
        if (gathers(v))
            for (size_t i = 0; i < count; i++) CHECK(block[i] == term(from, v, i));
        if (step[v].collective == RONDE_ALL_TO_ALL)
            for (size_t i = 0; i < count; i++) CHECK(block[i] == term(from, v, own * count + i));
    }
    free(sent[v]), free(received[v]);
}

/* What rank 2 did not give, if it is absent, in the order of the calls that have blocks of it. */
static void check_holes(const ronde_outcome *outcome) {
    size_t at = 0;
    CHECK((outcome->holes == NULL) == (outcome->absent_count == 0) && outcome->hole_size == sizeof(ronde_hole));
    for (size_t v = 0; v < VECTORS && outcome->absent_count > 0; v++) {
        size_t bytes = step[v].count * sizeof(float);
        if (!gathers((int)v) && step[v].collective != RONDE_ALL_TO_ALL) continue;
        CHECK(at < outcome->hole_count);
        const ronde_hole hole = outcome->holes[at++];
        CHECK(hole.call == v && hole.first == 2 * bytes && hole.bytes == bytes);
    }
    CHECK(at == outcome->hole_count);
}

static ronde_outcome make_step(ronde_commit *commit, int by_op) {
    ronde_outcome outcome = RONDE_OUTCOME_INIT;
    for (int v = 0; v < VECTORS; v++) {
        ronde_call call = prepare(v);
        OK(ronde_commit_start(commit, &call));
    }
    if (by_op) {
        ronde_op *op = NULL;
        OK(ronde_commit_seal(commit, &op));
        OK(ronde_op_wait(op, &outcome));
        ronde_op_free(op);
    } else {
        OK(ronde_commit_wait(commit, &outcome));
    }
    return outcome;
}

static void steps(void) {
    for (uint32_t round = 0; round < 8; round++) {
        ronde_options options = RONDE_OPTIONS_INIT;
        ronde_commit *commit = NULL;
        options.tag = round / 4, options.timeout_ms = 20000;
        OK(ronde_commit_begin(group, round == 0 ? NULL : &options, 0, &commit));
        ronde_outcome outcome = make_step(commit, round % 2 == 0);
        CHECK(outcome.contributors == (uint32_t)ranks && outcome.absent_count == 0 && outcome.detected_ns == 0);
        check_holes(&outcome);
        CHECK((outcome.bytes_sent > MOST * sizeof(float)) == (ranks > 1));
        for (int v = 0; v < VECTORS; v++) check_vector(v, &outcome);
    }
    ronde_commit *empty;
    OK(ronde_commit_begin(group, NULL, 0, &empty));
    OK(ronde_commit_wait(empty, NULL));
}

/* Two commits of other tags are open at once, one for each thread, and a third call goes beside them. */
static void *one_thread(void *number) {
    for (int round = 0; round < 20; round++) {
        ronde_options options = RONDE_OPTIONS_INIT;
        ronde_commit *commit;
        int64_t x[2] = {rank + round, rank}, message = -1;
        options.tag = 100 + (uint32_t)(size_t)number;
        OK(ronde_commit_begin(group, &options, 0, &commit));
        for (int i = 0; i < 2; i++) {
            ronde_call call = RONDE_CALL_INIT;
            call.collective = RONDE_ALL_REDUCE, call.dtype = RONDE_I64, call.count = 1, call.send = call.recv = &x[i];
            OK(ronde_commit_start(commit, &call));
            /* Messages of the tag are no calls of the commit. */
            if (i == 0 && rank < 2 && ranks > 1)
                OK(rank == 0 ? ronde_send(group, &x[1], 0, RONDE_I64, 1, &options, NULL)
                             : ronde_recv(group, &message, 0, RONDE_I64, 0, &options, NULL));
        }
        OK(ronde_commit_wait(commit, NULL));
        CHECK(x[0] == (int64_t)ranks * (ranks - 1) / 2 + (int64_t)ranks * round);
        CHECK(x[1] == (int64_t)ranks * (ranks - 1) / 2 && message == -1);
    }
    return NULL;
}

static void threads(void) {
    pthread_t ids[3];
    for (size_t t = 0; t < 3; t++) CHECK(pthread_create(&ids[t], NULL, one_thread, (void *)t) == 0);
    for (int t = 0; t < 3; t++) CHECK(pthread_join(ids[t], NULL) == 0);
}

static void refused(void) {
    float x[64] = {0}, y[64];
    int none;
    ronde_commit *commit = (ronde_commit *)&none, *second;
    ronde_op *op = (ronde_op *)&none;
    ronde_options with = RONDE_OPTIONS_INIT;
    ronde_outcome outcome = RONDE_OUTCOME_INIT;
    FAILS(ronde_commit_begin(NULL, NULL, 0, &commit), RONDE_INVALID_ARGUMENT, "group");
    FAILS(ronde_commit_begin(group, NULL, 0, NULL), RONDE_INVALID_ARGUMENT, "null");
    FAILS(ronde_commit_start(NULL, NULL), RONDE_INVALID_ARGUMENT, "commit");
    FAILS(ronde_commit_seal(NULL, &op), RONDE_INVALID_ARGUMENT, "commit");
    FAILS(ronde_commit_wait(NULL, NULL), RONDE_INVALID_ARGUMENT, "commit");
    with.tolerance = RONDE_NONE;
    FAILS(ronde_commit_begin(group, &with, 0, &commit), RONDE_INVALID_ARGUMENT, "RONDE_RECOVER");
    CHECK(commit == NULL);
    with.tolerance = RONDE_RECOVER, with.algorithm = "ring";
    FAILS(ronde_commit_begin(group, &with, 0, &commit), RONDE_INVALID_ARGUMENT, "algorithms");
    with.algorithm = NULL, with.tag = UINT32_MAX;
    FAILS(ronde_commit_begin(group, &with, 0, &commit), RONDE_INVALID_ARGUMENT, "library's own");

    with.tag = 3;
    OK(ronde_commit_begin(group, &with, 100, &commit));
    ronde_call call = RONDE_CALL_INIT;
    FAILS(ronde_commit_start(commit, NULL), RONDE_INVALID_ARGUMENT, "ronde_call");
    FAILS(ronde_commit_start(commit, &call), RONDE_INVALID_ARGUMENT, "barrier");
    call.collective = RONDE_ALL_REDUCE, call.dtype = RONDE_F32, call.count = 25, call.send = call.recv = x;
    OK(ronde_commit_start(commit, &call));
    FAILS(ronde_commit_start(commit, &call), RONDE_INVALID_ARGUMENT, "keep 100 bytes");
    for (int i = 0; i < 25; i++) y[i] = 1;
    call.send = y, call.recv = y + 32, with.tag = 7; /* a tag that does not count */
    call.options = &with;
    OK(ronde_commit_start(commit, &call));
    with.tolerance = RONDE_PER_WINDOW;
    FAILS(ronde_commit_start(commit, &call), RONDE_INVALID_ARGUMENT, "tolerance");
    with.tolerance = RONDE_RECOVER, with.tag = 3;
    FAILS(ronde_commit_begin(group, &with, 0, &second), RONDE_INVALID_ARGUMENT, "commit group already");
    FAILS(ronde_barrier(group, &with, NULL), RONDE_INVALID_ARGUMENT, "not sealed");
    FAILS(ronde_all_reduce(group, x, y, 1, RONDE_F32, RONDE_SUM, &with, NULL), RONDE_INVALID_ARGUMENT, "not sealed");
    FAILS(ronde_update(group, NULL), RONDE_INVALID_ARGUMENT, "commit group is open");
    with.tag = 4;
    OK(ronde_barrier(group, &with, NULL));
    /* What was refused is not among what becomes final, and the end is waited for whatever the outcome is. */
    outcome.size = 3;
    FAILS(ronde_commit_wait(commit, &outcome), RONDE_INVALID_ARGUMENT, "sizeof(ronde_outcome)");
    for (int i = 0; i < 25; i++) CHECK(y[32 + i] == (float)ranks);
    OK(ronde_commit_begin(group, NULL, 0, &commit));
    FAILS(ronde_commit_seal(commit, NULL), RONDE_INVALID_ARGUMENT, "place for the op"); /* sealed all the same */
    OK(ronde_update(group, NULL));
}

/* A part is closed, and its handle freed, before its commit. */
static void outlives_its_handle(void) {
    ronde_group *part;
    ronde_commit *commit;
    int32_t x = rank;
    ronde_call call = RONDE_CALL_INIT;
    call.collective = RONDE_ALL_REDUCE, call.dtype = RONDE_I32, call.count = 1, call.send = call.recv = &x;
    OK(ronde_split(group, 0, 0, &part));
    OK(ronde_commit_begin(part, NULL, 0, &commit));
    OK(ronde_commit_start(commit, &call));
    OK(ronde_close(part));
    FAILS(ronde_commit_start(commit, &call), RONDE_CLOSED, "closed");
    FAILS(ronde_commit_begin(part, NULL, 0, &(ronde_commit *){NULL}), RONDE_CLOSED, "closed");
    ronde_group_free(part);
    OK(ronde_commit_wait(commit, NULL));
    CHECK(x == ranks * (ranks - 1) / 2);
}

/* The job ends here with a commit open. */
static void after_close(void) {
    ronde_commit *commit, *other;
    ronde_op *op = NULL;
    ronde_options with = RONDE_OPTIONS_INIT;
    float *x = calloc(1000, sizeof *x);
    ronde_call call = RONDE_CALL_INIT;
    call.collective = RONDE_ALL_REDUCE, call.dtype = RONDE_F32, call.count = 1000, call.send = call.recv = x;
    with.tag = 1;
    OK(ronde_commit_begin(group, NULL, 0, &commit));
    OK(ronde_commit_begin(group, &with, 0, &other));
    OK(ronde_commit_start(commit, &call));
    ronde_options second = RONDE_OPTIONS_INIT;
    second.tag = 2;
    OK(ronde_barrier(group, &second, NULL));
    OK(ronde_close(group));
    FAILS(ronde_commit_start(commit, &call), RONDE_CLOSED, "closed");
    FAILS(ronde_commit_seal(commit, &op), RONDE_CLOSED, "closed");
    CHECK(op == NULL);
    free(x);
    ronde_group_free(group);
    FAILS(ronde_commit_wait(other, NULL), RONDE_CLOSED, "closed");
}

/* Rank 2 dies in the middle of a step: whichever step it is that lacks it, the whole of it does. */
static void lost(void) {
    int more = 5;
    for (int round = 0; more > 0; round++) {
        ronde_commit *commit;
        CHECK(round < 1000);
        OK(ronde_commit_begin(group, NULL, 0, &commit));
        if (rank == 2 && round == 3) {
            for (int v = 0; v < VECTORS / 2; v++) {
                ronde_call call = prepare(v);
                OK(ronde_commit_start(commit, &call));
            }
            kill(getpid(), SIGKILL);
        }
        ronde_outcome outcome = make_step(commit, 0);
        CHECK(outcome.contributors + outcome.absent_count == 3 && !is_absent(&outcome, rank));
        CHECK((outcome.detected_ns == 0 || outcome.interruptions > 0) && outcome.part_size == sizeof(ronde_part));
        CHECK(outcome.absent_count == (round < 3 ? 0u : 1u));
        check_holes(&outcome);
        for (int v = 0; v < VECTORS; v++) check_vector(v, &outcome);
        more -= outcome.absent_count > 0;
    }
}

/* Starts calls in place on memory that is freed as soon as the end is said, and says it. */
static void start_and_end(int calls, ronde_status wanted, int awaits_failure) {
    enum { LARGE = 1 << 20 };
    float *x[3] = {calloc(LARGE, sizeof(float)), calloc(LARGE, sizeof(float)), calloc(LARGE, sizeof(float))};
    ronde_commit *commit;
    ronde_op *op = NULL;
    ronde_status status = RONDE_OK;
    OK(ronde_commit_begin(group, NULL, 0, &commit));
    for (int i = 0; i < calls && status == RONDE_OK; i++) {
        ronde_call call = RONDE_CALL_INIT;
        call.collective = RONDE_ALL_REDUCE, call.dtype = RONDE_F32, call.count = LARGE, call.send = call.recv = x[i];
        status = ronde_commit_start(commit, &call);
        CHECK(status == RONDE_OK || status == wanted);
        if (i == 0 && awaits_failure && rank == 1) OK(ronde_abort(group, "enough"));
    }
    while (awaits_failure && ronde_failure(group) == RONDE_OK) {}
    status = awaits_failure ? ronde_commit_seal(commit, &op) : ronde_commit_wait(commit, NULL);
    for (int i = 0; i < 3; i++) free(x[i]);
    CHECK(op == NULL && status == wanted);
}

int main(int argc, char **argv) {
    group = join();
    rank = ronde_rank(group), ranks = ronde_size(group);
    if (argc == 2) {
        if (strcmp(argv[1], "lost") == 0) lost();
        if (strcmp(argv[1], "aborted") == 0) start_and_end(3, RONDE_ABORTED, 1);
        if (strcmp(argv[1], "disagree") == 0) start_and_end(rank == 0 ? 2 : 3, RONDE_MISMATCH, 0);
        leave(group);
        return 0;
    }
    steps();
    threads();
    refused();
    outlives_its_handle();
    after_close();
    return 0;
}
