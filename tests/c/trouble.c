/* usage: trouble mismatch|abort|late|left|killed|survived
 *
 * What goes wrong between ranks: every rank gets the same named error within its deadline, and nobody hangs. Where it ends
 * the job later calls give it again. Run with three ranks. Rank 2 is the one in trouble.
 */
#include "check.h"
#include <signal.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

static ronde_group *group;
static int rank;

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void mismatch(void) {
    float x[8] = {0}, y[8];
    FAILS(ronde_all_reduce(group, x, y, rank == 2 ? 7 : 8, RONDE_F32, RONDE_SUM, NULL, NULL), RONDE_MISMATCH,
          "all_reduce");
    CHECK(strstr(ronde_last_error(), "7") && strstr(ronde_last_error(), "8"));
    FAILS(ronde_barrier(group, NULL, NULL), RONDE_MISMATCH, "all_reduce");
    FAILS(ronde_failure(group), RONDE_MISMATCH, "all_reduce");
}

static void abort_it(void) {
    float x = 0;
    ronde_op *op;
    /* Nobody sends this. */
    OK(ronde_recv_start(group, &x, 1, RONDE_F32, (rank + 1) % 3, NULL, &op));
    /* The others may hear of it inside the barrier. */
    ronde_status status = ronde_barrier(group, NULL, NULL);
    CHECK(status == RONDE_OK || (rank != 2 && status == RONDE_ABORTED));
    if (rank == 2) OK(ronde_abort(group, "the data set is corrupt"));
    FAILS(ronde_op_wait(op, NULL), RONDE_ABORTED, "the data set is corrupt");
    FAILS(ronde_op_test(op, NULL), RONDE_ABORTED, "rank 2");
    ronde_op_free(op);
    FAILS(ronde_barrier(group, NULL, NULL), RONDE_ABORTED, "the data set is corrupt");
}

static void late(void) {
    ronde_options soon = RONDE_OPTIONS_INIT;
    float x = 1, y;
    double start = seconds();
    soon.timeout_ms = 300;
    /* Comes once the others have given the call up, which has ended for it too. */
    if (rank == 2) OK(ronde_recv(group, &y, 1, RONDE_F32, 0, NULL, NULL));
    FAILS(ronde_all_reduce(group, &x, &y, 1, RONDE_F32, RONDE_SUM, &soon, NULL), RONDE_TIMEOUT, "rank 2");
    CHECK(strstr(ronde_last_error(), "all_reduce") != NULL);
    CHECK(seconds() - start >= 0.29 && seconds() - start < 5);
    if (rank == 0) OK(ronde_send(group, &x, 1, RONDE_F32, 2, NULL, NULL));
    /* The job goes on. */
    OK(ronde_failure(group));
    OK(ronde_all_reduce(group, &x, &y, 1, RONDE_F32, RONDE_SUM, NULL, NULL));
    CHECK(y == 3);
}

/* One hole, of so many bytes; none of 0. */
static void has_hole(const ronde_outcome *outcome, size_t first, size_t bytes) {
    CHECK(outcome->hole_size == sizeof(ronde_hole) && outcome->absent_count == 1);
    CHECK(outcome->hole_count == (bytes > 0) && (outcome->holes == NULL) == (bytes == 0));
    if (bytes > 0) CHECK(outcome->holes[0].first == first && outcome->holes[0].bytes == bytes && outcome->holes[0].call == 0);
}

static int told_of_hole;
static void on_gathered(void *context, ronde_status status, const ronde_outcome *outcome, const char *error) {
    CHECK(status == RONDE_OK && error[0] == 0 && context == &told_of_hole);
    has_hole(outcome, rank == 0 ? 4 : 0, rank == 0 ? 8 : 0);
    __atomic_store_n(&told_of_hole, 1, __ATOMIC_RELEASE);
}

/* Ranks 0 and 1 are there, and the outcome says which bytes 2 did not give. */
static void holes_of_rank_2(void) {
    int32_t own[9] = {rank, rank, rank, rank, rank, rank, rank, rank, rank}, all[12];
    const size_t r = (size_t)rank, evens[3] = {r + 1, r + 2, r + 3}, places[3] = {r + 6, r + 3, 0};
    const size_t few[3] = {1, 0, 2}, nothing[3] = {3, 3, 0};
    double start = seconds();
    ronde_outcome outcome = RONDE_OUTCOME_INIT, before = RONDE_OUTCOME_INIT, batch[2] = {RONDE_OUTCOME_INIT, RONDE_OUTCOME_INIT};
    ronde_call calls[2] = {RONDE_CALL_INIT, RONDE_CALL_INIT};
    ronde_op *op;
    OK(ronde_all_gather(group, own, all, 2, RONDE_I32, NULL, &outcome));
    has_hole(&outcome, 16, 8);
    CHECK(all[0] == 0 && all[1] == 0 && all[2] == 1 && all[3] == 1);
    OK(ronde_all_gather_v(group, own, all, nothing, NULL, RONDE_I32, NULL, &outcome));
    has_hole(&outcome, 0, 0);
    OK(ronde_all_reduce(group, own, all, 9, RONDE_I32, RONDE_SUM, NULL, &outcome));
    has_hole(&outcome, 0, 0);
    /* Two give each other as much; the block of the third comes first. */
    OK(ronde_all_to_all_v_start(group, own, evens, NULL, all, evens, places, RONDE_I32, NULL, &op));
    OK(ronde_op_wait(op, &outcome));
    has_hole(&outcome, 0, 4 * (r + 3));
    CHECK(all[places[0]] == 0 && all[places[1]] == 1);
    ronde_op_free(op);
    OK(ronde_gather_v_start(group, own, few[rank], all, few, NULL, RONDE_I32, 0, NULL, &op));
    OK(ronde_op_on_complete(op, on_gathered, &told_of_hole));
    while (!__atomic_load_n(&told_of_hole, __ATOMIC_ACQUIRE)) CHECK(seconds() - start < 20);
    for (int i = 0; i < 2; i++) {
        calls[i].collective = i == 0 ? RONDE_ALL_TO_ALL : RONDE_ALL_GATHER, calls[i].dtype = RONDE_I32, calls[i].count = 3;
        calls[i].send = i == 0 ? own : all + 3 * r, calls[i].recv = i == 0 ? own : all;
    }
    OK(ronde_run(group, calls, 2, batch));
    has_hole(&batch[0], 24, 12), has_hole(&batch[1], 24, 12);
    /* Outcomes had no holes once. */
    before.size = offsetof(ronde_outcome, holes), before.hole_count = 42;
    OK(ronde_all_gather(group, own, all, 2, RONDE_I32, NULL, &before));
    CHECK(before.absent_count == 1 && before.holes == NULL && before.hole_count == 42);
}

/* Of three, two go on: 2 is absent until the next safe point, and whoever needs it is told. */
static void without_rank_2(void) {
    float x = (float)(rank + 1), y = -1;
    ronde_options none = RONDE_OPTIONS_INIT;
    ronde_outcome outcome = RONDE_OUTCOME_INIT, after = RONDE_OUTCOME_INIT;
    ronde_change change = RONDE_CHANGE_INIT;
    double start = seconds();
    none.tolerance = RONDE_NONE;
    OK(ronde_all_reduce(group, &x, &y, 1, RONDE_F32, RONDE_AVG, NULL, &outcome));
    CHECK(y == 1.5f && outcome.contributors == 2 && outcome.absent_count == 1 && outcome.absent[0] == 2);
    FAILS(ronde_barrier(group, &none, NULL), RONDE_PEER_LOST, "peer 2");
    FAILS(ronde_broadcast(group, &x, 1, RONDE_F32, 2, NULL, NULL), RONDE_PEER_LOST, "peer 2");
    holes_of_rank_2();
    while (!change.changed) {
        OK(ronde_update(group, &change));
        CHECK(seconds() - start < 20);
    }
    CHECK(change.generation == 1 && change.rank == rank && change.ranks == 2 && change.joined == 0);
    CHECK(change.gone == 1 && change.gone_ranks[0] == 2 && outcome.absent[0] == 2);
    OK(ronde_barrier(group, &none, &after));
    CHECK(after.hole_count == 0 && after.holes == NULL);
    CHECK(after.contributors == 2 && after.absent_count == 0 && after.absent == NULL);
    FAILS(ronde_broadcast(group, &x, 1, RONDE_F32, 2, NULL, NULL), RONDE_INVALID_ARGUMENT, "root");
}

static void left(void) {
    float x = 0;
    ronde_op *op;
    OK(ronde_recv_start(group, &x, 1, RONDE_F32, rank == 2 ? 0 : 2, NULL, &op)); /* nobody sends it */
    if (rank != 2) {
        OK(ronde_barrier(group, NULL, NULL));
        FAILS(ronde_op_wait(op, NULL), RONDE_PEER_LOST, "rank 2 left");
        without_rank_2();
    } else {
        OK(ronde_barrier(group, NULL, NULL));
        OK(ronde_close(group));
        FAILS(ronde_op_wait(op, NULL), RONDE_CLOSED, "closed");
    }
    ronde_op_free(op);
}

static int heard;
static void on_loss(void *context, ronde_status status, const ronde_outcome *outcome, const char *error) {
    CHECK(status == RONDE_PEER_LOST && outcome == NULL && strstr(error, "peer 2") != NULL);
    CHECK(context == &heard);
    __atomic_store_n(&heard, 1, __ATOMIC_RELEASE);
}

static void killed(void) {
    static float x[1 << 20], y[1 << 20], z;
    ronde_op *op, *lost = NULL;
    ronde_options none = RONDE_OPTIONS_INIT;
    none.tolerance = RONDE_NONE;
    if (rank != 2) OK(ronde_recv_start(group, &z, 1, RONDE_F32, 2, NULL, &lost));
    ronde_status status = ronde_barrier(group, NULL, NULL);
    CHECK(status == RONDE_OK);
    if (rank == 2) {
        OK(ronde_all_reduce_start(group, x, y, 1 << 20, RONDE_F32, RONDE_SUM, &none, &op));
        kill(getpid(), SIGKILL);
    }
    double start = seconds();
    OK(ronde_op_on_complete(lost, on_loss, &heard));
    while (status == RONDE_OK) status = ronde_all_reduce(group, x, y, 1 << 20, RONDE_F32, RONDE_SUM, &none, NULL);
    CHECK(status == RONDE_PEER_LOST && strstr(ronde_last_error(), "peer 2") != NULL);
    while (!__atomic_load_n(&heard, __ATOMIC_ACQUIRE)) CHECK(seconds() - start < 20);
    CHECK(seconds() - start < 20);
    FAILS(ronde_barrier(group, &none, NULL), RONDE_PEER_LOST, "peer 2");
}

/* With tolerance, rank 2 dies in the middle and the others go on; they agree on when it was there for the last time. */
static void survived(void) {
    enum { N = 1 << 20 };
    static float x[N], y[N];
    int more = 20, rounds = 0, in_place;
    ronde_outcome outcome = RONDE_OUTCOME_INIT;
    double start = seconds();
    while (more > 0) {
        in_place = rounds % 2;
        for (int i = 0; i < N; i++) x[i] = (float)(rank + 1), y[i] = -1;
        ronde_op *op;
        OK(ronde_all_reduce_start(group, x, in_place ? x : y, N, RONDE_F32, RONDE_SUM, NULL, &op));
        if (rank == 2 && rounds == 7) kill(getpid(), SIGKILL);
        OK(ronde_op_wait(op, &outcome));
        ronde_op_free(op);
        CHECK(outcome.contributors == 3 || outcome.contributors == 2);
        CHECK(outcome.absent_count == 3 - outcome.contributors && (outcome.absent_count == 0 || outcome.absent[0] == 2));
        for (int i = 0; i < N; i++) CHECK((in_place ? x : y)[i] == (outcome.contributors == 3 ? 6 : 3));
        for (int i = 0; i < N && !in_place; i++) CHECK(x[i] == (float)(rank + 1));
        more -= outcome.contributors == 2;
        rounds++;
        CHECK(seconds() - start < 60);
    }
    CHECK(rounds >= 27 && ronde_size(group) == 3);
    OK(ronde_barrier(group, NULL, &outcome));
    CHECK(outcome.contributors == 2 && outcome.epoch == 2);
    FAILS(ronde_broadcast(group, x, 1, RONDE_F32, 2, NULL, NULL), RONDE_PEER_LOST, "peer 2");
    FAILS(ronde_send(group, x, 1, RONDE_F32, 2, NULL, NULL), RONDE_PEER_LOST, "peer 2");
    OK(ronde_barrier(group, NULL, NULL));
    without_rank_2();
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    group = join();
    rank = ronde_rank(group);
    CHECK(ronde_size(group) == 3);
    if (strcmp(argv[1], "mismatch") == 0) mismatch();
    else if (strcmp(argv[1], "abort") == 0) abort_it();
    else if (strcmp(argv[1], "late") == 0) late();
    else if (strcmp(argv[1], "left") == 0) left();
    else if (strcmp(argv[1], "killed") == 0) killed();
    else if (strcmp(argv[1], "survived") == 0) survived();
    else CHECK(!"a known kind of trouble");
    ronde_close(group);
    ronde_group_free(group);
    return 0;
}
