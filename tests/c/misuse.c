/* Calls that can never succeed: each is refused on the spot with an error that says what is wrong, and the group
 * lives on. Run with one rank or several.
 */
#include "check.h"
#include <stddef.h>

static ronde_group *group;
static int rank, ranks;

static void nothing_given(void) {
    int x = 0;
    ronde_op *op = (ronde_op *)&x;
    ronde_id id;
    FAILS(ronde_join(NULL, NULL), RONDE_INVALID_ARGUMENT, "null");
    FAILS(ronde_id_create(NULL, NULL), RONDE_INVALID_ARGUMENT, "null");
    FAILS(ronde_id_free(NULL), RONDE_INVALID_ARGUMENT, "null");
    memset(&id, 0x55, sizeof id);
    FAILS(ronde_id_free(&id), RONDE_JOIN_FAILED, "no Ronde id");
    FAILS(ronde_failure(NULL), RONDE_INVALID_ARGUMENT, "group");
    FAILS(ronde_abort(NULL, "x"), RONDE_INVALID_ARGUMENT, "group");
    FAILS(ronde_split(NULL, 0, 0, NULL), RONDE_INVALID_ARGUMENT, "group");
    FAILS(ronde_split(group, 0, 0, NULL), RONDE_INVALID_ARGUMENT, "null");
    FAILS(ronde_update(NULL, NULL), RONDE_INVALID_ARGUMENT, "group");
    FAILS(ronde_agree(NULL, 1, &x, NULL), RONDE_INVALID_ARGUMENT, "group");
    FAILS(ronde_agree(group, 1, NULL, NULL), RONDE_INVALID_ARGUMENT, "null");
    FAILS(ronde_share(NULL, &x, 4, 1, NULL), RONDE_INVALID_ARGUMENT, "group");
    FAILS(ronde_share(group, NULL, 4, 1, NULL), RONDE_INVALID_ARGUMENT, "null");
    FAILS(ronde_mem_alloc(group, 8, NULL), RONDE_INVALID_ARGUMENT, "null");
    FAILS(ronde_mem_free(NULL, &x), RONDE_INVALID_ARGUMENT, "group");
    FAILS(ronde_mem_free(group, &x), RONDE_INVALID_ARGUMENT, "ronde_mem_alloc");
    FAILS(ronde_barrier(NULL, NULL, NULL), RONDE_INVALID_ARGUMENT, "group");
    FAILS(ronde_barrier_start(NULL, NULL, &op), RONDE_INVALID_ARGUMENT, "group");
    FAILS(ronde_barrier_start(group, NULL, NULL), RONDE_INVALID_ARGUMENT, "null");
    FAILS(ronde_start(group, NULL, &op), RONDE_INVALID_ARGUMENT, "ronde_call");
    FAILS(ronde_run(NULL, NULL, 0, NULL), RONDE_INVALID_ARGUMENT, "group");
    FAILS(ronde_run(group, NULL, 1, NULL), RONDE_INVALID_ARGUMENT, "ronde_call");
    FAILS(ronde_op_test(NULL, NULL), RONDE_INVALID_ARGUMENT, "op");
    FAILS(ronde_probe(NULL, 0, 0, NULL), RONDE_INVALID_ARGUMENT, "group");
    FAILS(ronde_op_wait_for(NULL, 1, NULL), RONDE_INVALID_ARGUMENT, "op");
    FAILS(ronde_op_wait(NULL, NULL), RONDE_INVALID_ARGUMENT, "op");
    FAILS(ronde_op_wait_all(NULL, 1), RONDE_INVALID_ARGUMENT, "ops");
    FAILS(ronde_op_descriptor(NULL, &x), RONDE_INVALID_ARGUMENT, "op");
    FAILS(ronde_op_on_complete(NULL, NULL, NULL), RONDE_INVALID_ARGUMENT, "op");
    FAILS(ronde_reduction_create(NULL, NULL, NULL), RONDE_INVALID_ARGUMENT, "null");
    FAILS(ronde_reduction_premulsum(RONDE_F32, NULL, NULL), RONDE_INVALID_ARGUMENT, "scalar");
    OK(ronde_run(group, NULL, 0, NULL));
    OK(ronde_op_wait_all(NULL, 0));
    ronde_op *none[2] = {NULL, NULL};
    OK(ronde_op_wait_all((ronde_op *const *)none, 2));
    OK(ronde_close(NULL));
    ronde_group_free(NULL), ronde_op_free(NULL);
    CHECK(ronde_rank(NULL) == -1 && ronde_size(NULL) == -1 && ronde_generation(NULL) == 0);
    CHECK(ronde_host(NULL, 0)[0] == 0 && ronde_transport(NULL, 0)[0] == 0);
    (void)id;
}

static void buffers(void) {
    static float x[64], y[64];
    size_t counts[64], huge = SIZE_MAX / 2;
    FAILS(ronde_all_reduce(group, NULL, y, 4, RONDE_F32, RONDE_SUM, NULL, NULL), RONDE_INVALID_ARGUMENT, "null");
    FAILS(ronde_all_reduce(group, x, NULL, 4, RONDE_F32, RONDE_SUM, NULL, NULL), RONDE_INVALID_ARGUMENT, "null");
    FAILS(ronde_all_reduce(group, x, y, huge, RONDE_F32, RONDE_SUM, NULL, NULL), RONDE_INVALID_ARGUMENT, "overflow");
    FAILS(ronde_all_gather(group, x, y, SIZE_MAX, RONDE_F64, NULL, NULL), RONDE_INVALID_ARGUMENT, "overflow");
    FAILS(ronde_all_reduce(group, x, x + 1, 4, RONDE_F32, RONDE_SUM, NULL, NULL), RONDE_INVALID_ARGUMENT, "overlap");
    FAILS(ronde_all_gather_v(group, x, y, NULL, NULL, RONDE_F32, NULL, NULL), RONDE_INVALID_ARGUMENT, "counts");
    for (int r = 0; r < ranks; r++) counts[r] = SIZE_MAX / 2;
    FAILS(ronde_all_to_all_v(group, x, counts, NULL, y, counts, NULL, RONDE_F32, NULL, NULL), RONDE_INVALID_ARGUMENT,
          "overflow");
    OK(ronde_all_reduce(group, NULL, NULL, 0, RONDE_F32, RONDE_SUM, NULL, NULL));
}

static void numbers(void) {
    float x = 1, y = 0;
    FAILS(ronde_all_reduce(group, &x, &y, 1, (ronde_dtype)17, RONDE_SUM, NULL, NULL), RONDE_INVALID_ARGUMENT, "dtype 17");
    FAILS(ronde_all_reduce(group, &x, &y, 1, (ronde_dtype)-1, RONDE_SUM, NULL, NULL), RONDE_INVALID_ARGUMENT, "dtype -1");
    FAILS(ronde_all_reduce(group, &x, &y, 1, RONDE_F32, 8, NULL, NULL), RONDE_INVALID_ARGUMENT, "reduction 8");
    FAILS(ronde_all_reduce(group, &x, &y, 1, RONDE_F32, 1u << 30, NULL, NULL), RONDE_INVALID_ARGUMENT, "reduction");
    FAILS(ronde_all_reduce(group, &x, &y, 1, RONDE_F32, RONDE_BAND, NULL, NULL), RONDE_INVALID_ARGUMENT, "band");
    FAILS(ronde_all_reduce(group, &x, &y, 1, RONDE_BOOL, RONDE_AVG, NULL, NULL), RONDE_INVALID_ARGUMENT, "avg");
    FAILS(ronde_broadcast(group, &x, 1, RONDE_F32, ranks, NULL, NULL), RONDE_INVALID_ARGUMENT, "root");
    FAILS(ronde_broadcast(group, &x, 1, RONDE_F32, -1, NULL, NULL), RONDE_INVALID_ARGUMENT, "root");
    FAILS(ronde_send(group, &x, 1, RONDE_F32, ranks, NULL, NULL), RONDE_INVALID_ARGUMENT, "rank");
    FAILS(ronde_send(group, &x, 1, RONDE_F32, rank, NULL, NULL), RONDE_INVALID_ARGUMENT, "another rank");
    ronde_call call = RONDE_CALL_INIT;
    call.collective = (ronde_collective)99;
    FAILS(ronde_run(group, &call, 1, NULL), RONDE_INVALID_ARGUMENT, "collective 99");
    call.collective = RONDE_BARRIER, call.size = 3;
    FAILS(ronde_run(group, &call, 1, NULL), RONDE_INVALID_ARGUMENT, "sizeof(ronde_call)");
    CHECK(strcmp(ronde_status_name(RONDE_PEER_LOST), "peer lost") == 0);
    CHECK(strcmp(ronde_status_name((ronde_status)77), "unknown status") == 0);
}

static void options(void) {
    float x = 1, y = 0;
    ronde_options with = RONDE_OPTIONS_INIT;
    with.size = 0;
    FAILS(ronde_barrier(group, &with, NULL), RONDE_INVALID_ARGUMENT, "sizeof(ronde_options)");
    with.size = sizeof with, with.algorithm = "fastest";
    FAILS(ronde_all_reduce(group, &x, &y, 1, RONDE_F32, RONDE_SUM, &with, NULL), RONDE_INVALID_ARGUMENT, "fastest");
    with.algorithm = "\xff\xfe";
    FAILS(ronde_all_reduce(group, &x, &y, 1, RONDE_F32, RONDE_SUM, &with, NULL), RONDE_INVALID_ARGUMENT, "UTF-8");
    with.algorithm = NULL, with.timeout_ms = -5;
    FAILS(ronde_barrier(group, &with, NULL), RONDE_INVALID_ARGUMENT, "timeout");
    with.timeout_ms = 0, with.tolerance = 9;
    FAILS(ronde_barrier(group, &with, NULL), RONDE_INVALID_ARGUMENT, "tolerance");
    with.tolerance = RONDE_RECOVER, with.tag = UINT32_MAX;
    FAILS(ronde_barrier(group, &with, NULL), RONDE_INVALID_ARGUMENT, "library's own");
    with.tag = UINT32_MAX - 1;
    OK(ronde_barrier(group, &with, NULL));
}

/* Of a batch with a call that is refused nothing starts. */
static void batches(void) {
    float x[4] = {1, 2, 3, 4}, y[4] = {-1, -1, -1, -1};
    ronde_options with = RONDE_OPTIONS_INIT;
    ronde_call calls[2] = {RONDE_CALL_INIT, RONDE_CALL_INIT};
    ronde_outcome outcomes[2] = {RONDE_OUTCOME_INIT, RONDE_OUTCOME_INIT};
    for (int i = 0; i < 2; i++) {
        calls[i].collective = RONDE_ALL_REDUCE, calls[i].dtype = RONDE_F32, calls[i].count = 2;
        calls[i].send = x + 2 * i, calls[i].recv = y + 2 * i;
    }
    calls[1].recv = x + 3;
    FAILS(ronde_run(group, calls, 2, outcomes), RONDE_INVALID_ARGUMENT, "overlap");
    calls[1].recv = y + 2, calls[1].options = &with, with.algorithm = "chain";
    FAILS(ronde_run(group, calls, 2, outcomes), RONDE_INVALID_ARGUMENT, "chain");
    with.algorithm = NULL, outcomes[1].size = 0;
    FAILS(ronde_run(group, calls, 2, outcomes), RONDE_INVALID_ARGUMENT, "sizeof(ronde_outcome)");
    outcomes[1].size = offsetof(ronde_outcome, absent);
    FAILS(ronde_run(group, calls, 2, outcomes), RONDE_INVALID_ARGUMENT, "entry 1");
    outcomes[1].size = sizeof outcomes[1];
    for (int i = 0; i < 4; i++) CHECK(y[i] == -1);
    CHECK(outcomes[0].contributors == 0 && outcomes[1].contributors == 0);
    OK(ronde_run(group, calls, 2, outcomes));
    for (int i = 0; i < 4; i++) CHECK(y[i] == x[i] * (float)ranks);
    for (int i = 0; i < 2; i++) {
        CHECK(outcomes[i].contributors == (uint32_t)ranks && outcomes[i].part_size == sizeof(ronde_part));
        CHECK(outcomes[i].parts == NULL && outcomes[i].interruptions == 0 && outcomes[i].detected_ns == 0);
    }
    CHECK(outcomes[0].seq + 1 == outcomes[1].seq);
    OK(ronde_run(group, calls, 2, NULL));
}

/* Refused before anybody else counts on it: the others have not moved on when this one is called again. */
static void updates(void) {
    ronde_change change = RONDE_CHANGE_INIT;
    ronde_outcome outcome = RONDE_OUTCOME_INIT;
    ronde_group *part;
    OK(ronde_split(group, 0, 0, &part));
    FAILS(ronde_update(part, &change), RONDE_INVALID_ARGUMENT, "whole job");
    OK(ronde_close(part));
    FAILS(ronde_update(part, NULL), RONDE_INVALID_ARGUMENT, "whole job");
    ronde_group_free(part);
    change.size = 3;
    FAILS(ronde_update(group, &change), RONDE_INVALID_ARGUMENT, "sizeof(ronde_change)");
    change.size = (size_t)1 << 40;
    FAILS(ronde_update(group, &change), RONDE_INVALID_ARGUMENT, "sizeof(ronde_change)");
    outcome.size = 0;
    FAILS(ronde_barrier(group, NULL, &outcome), RONDE_INVALID_ARGUMENT, "sizeof(ronde_outcome)");
    ronde_op *op;
    OK(ronde_barrier_start(group, NULL, &op));
    FAILS(ronde_op_test(op, &outcome), RONDE_INVALID_ARGUMENT, "sizeof(ronde_outcome)");
    FAILS(ronde_op_wait(op, &outcome), RONDE_INVALID_ARGUMENT, "sizeof(ronde_outcome)");
    OK(ronde_op_wait(op, NULL));
    ronde_op_free(op);
    change.size = sizeof change, change.changed = change.rank = change.ranks = change.gone = 77;
    OK(ronde_update(group, &change));
    CHECK(!change.changed && change.generation == 0 && change.rank == rank && change.ranks == ranks);
    CHECK(change.joined == 0 && change.gone == 0 && change.gone_ranks == NULL);
    OK(ronde_update(group, NULL));
}

static void configs(void) {
    ronde_group *other = (ronde_group *)&rank;
    ronde_config config = RONDE_CONFIG_INIT;
    ronde_id zero;
    ronde_store empty = {sizeof empty, NULL, NULL, NULL};
    memset(&zero, 0, sizeof zero);
    config.size = 1 << 20;
    FAILS(ronde_join(&config, &other), RONDE_INVALID_ARGUMENT, "sizeof(ronde_config)");
    CHECK(other == NULL);
#define REFUSED(field, value, status, words)                                          \
    do {                                                                              \
        ronde_config wrong = RONDE_CONFIG_INIT;                                       \
        wrong.field = (value), wrong.connect_timeout_ms = 5000;                       \
        FAILS(ronde_join(&wrong, &other), status, words);                             \
        CHECK(other == NULL);                                                         \
    } while (0)
    REFUSED(preset, 7, RONDE_INVALID_ARGUMENT, "preset 7");
    REFUSED(insecure, 2, RONDE_INVALID_ARGUMENT, "insecure 2");
    REFUSED(streams, 100000, RONDE_INVALID_ARGUMENT, "streams is 100000");
    REFUSED(streams, 65, RONDE_INVALID_ARGUMENT, "streams is 65");
    REFUSED(streams, -1, RONDE_INVALID_ARGUMENT, "streams is -1");
    REFUSED(rank, -2, RONDE_INVALID_ARGUMENT, "rank -2");
    REFUSED(ranks, -2, RONDE_INVALID_ARGUMENT, "ranks -2");
    REFUSED(min_peers, -1, RONDE_INVALID_ARGUMENT, "min_peers -1");
    REFUSED(max_peers, -3, RONDE_INVALID_ARGUMENT, "max_peers -3");
    REFUSED(shrink_only, 2, RONDE_INVALID_ARGUMENT, "shrink_only 2");
    REFUSED(newcomer, -1, RONDE_INVALID_ARGUMENT, "newcomer -1");
    REFUSED(timeout_ms, -1, RONDE_INVALID_ARGUMENT, "timeout_ms is -1");
    REFUSED(transports, "pigeon", RONDE_JOIN_FAILED, "pigeon");
    REFUSED(coordinator, "nonsense", RONDE_JOIN_FAILED, "nonsense");
    REFUSED(job, "two\nlines", RONDE_JOIN_FAILED, "RONDE_JOB");
    REFUSED(coordinator, "\xff", RONDE_INVALID_ARGUMENT, "UTF-8");
    REFUSED(id, &zero, RONDE_JOIN_FAILED, "id");
    REFUSED(store, &empty, RONDE_INVALID_ARGUMENT, "store");
}

static void after_close(void) {
    float x = 1, y = 0;
    ronde_op *op;
    OK(ronde_barrier_start(group, NULL, &op));
    OK(ronde_op_wait(op, NULL));
    OK(ronde_close(group));
    FAILS(ronde_all_reduce(group, &x, &y, 1, RONDE_F32, RONDE_SUM, NULL, NULL), RONDE_CLOSED, "closed");
    FAILS(ronde_failure(group), RONDE_CLOSED, "closed");
    FAILS(ronde_update(group, NULL), RONDE_CLOSED, "closed");
    CHECK(ronde_size(group) == ranks && (ronde_host(group, ranks - 1 - rank)[0] != 0) == (ranks - 1 - rank != rank));
    OK(ronde_close(group)); /* twice is once */
    ronde_group_free(group);
    OK(ronde_op_wait(op, NULL)); /* ended before, and outlives the group's handle */
    ronde_op_free(op);
}

int main(void) {
    CHECK(ronde_last_error()[0] == 0);
    CHECK(ronde_version() == RONDE_VERSION_MAJOR * 10000 + RONDE_VERSION_MINOR * 100 + RONDE_VERSION_PATCH);
    group = join();
    rank = ronde_rank(group), ranks = ronde_size(group);
    nothing_given();
    buffers();
    numbers();
    options();
    batches();
    updates();
    configs();
    /* None of it did any harm. */
    int32_t x = rank, y = -1;
    OK(ronde_all_reduce(group, &x, &y, 1, RONDE_I32, RONDE_SUM, NULL, NULL));
    CHECK(y == ranks * (ranks - 1) / 2);
    after_close();
    return 0;
}
