/* Ronde: fault-tolerant collective communication. C99 and later, C++98 and later.
 *
 *   #include <ronde.h>
 *   #include <stdio.h>
 *
 *   int main(void) {
 *       ronde_group *group;
 *       if (ronde_join(NULL, &group) != RONDE_OK) {
 *           fprintf(stderr, "%s\n", ronde_last_error());
 *           return 1;
 *       }
 *       float x = 1.0f + ronde_rank(group);
 *       ronde_all_reduce(group, &x, &x, 1, RONDE_F32, RONDE_SUM, NULL, NULL);
 *       printf("rank %d of %d: %g\n", ronde_rank(group), ronde_size(group), x);
 *       ronde_close(group);
 *       ronde_group_free(group);
 *       return 0;
 *   }
 *
 *   cc prog.c $(pkg-config --cflags --libs ronde) && ronde run -n 3 -- ./a.out
 *
 * Errors. Every call that can fail returns a ronde_status, RONDE_OK (0) for success. ronde_last_error() has the
 * full text of the last failure on the calling thread: what, which peer, since when, what to do. Nothing here
 * aborts the process or unwinds into it. When calls do not match or somebody aborts, every rank's ops end with the same
 * error, and every later call on the group gives it again. A collective that misses its deadline ends with RONDE_TIMEOUT
 * on all ranks or on none, also where it has not begun; in-place buffers are as before (but with RONDE_NONE), and the group
 * works on. A receive to which nothing has come ends alone, and the message for it is dropped; any other message that
 * misses its deadline ends the job.
 *
 * Loss. When another peer is lost, or leaves, the others go on: their ops succeed, and the outcome, which is the
 * same on all of them, says who is absent. Ranks and sizes keep their meaning until the next safe point. A
 * contribution is in a result as a whole or not at all; averages divide by the contributors. Blocks of the absent
 * in what is gathered or exchanged hold anything: the outcome says which bytes (`holes`); a block of a gather that a
 * survivor holds whole is handed on, and its owner is not absent. RONDE_PEER_LOST is the end
 * only of ops that need the lost peer (its messages, an op with it as root) and of those with RONDE_NONE.
 *
 * Growth. With `min_peers` in ronde_config a job starts once so many processes are there. At safe points,
 * calls of ronde_update that all make at the same place, others join and ranks become dense again:
 *
 *   int is_new = ronde_generation(group) > 0, share = is_new; // the others are about to share, too
 *   for (;;) {
 *       if (share) ronde_share(group, &state, sizeof state, !is_new, NULL), is_new = 0;
 *       if (state.step == STEPS) break;
 *       train(&state, group);                    // all_reduce and so on, by ronde_rank and ronde_size
 *       ronde_change change = RONDE_CHANGE_INIT;
 *       ronde_update(group, &change);
 *       share = change.joined > 0;
 *   }
 *
 * Threads. Any function may be called from any thread at any time, except that a handle must not be freed
 * (ronde_group_free, ronde_op_free, ronde_op_on_complete, ronde_commit_seal, ronde_commit_wait) while another call
 * uses it. Calls of one tag must be made in the same order on every rank, so threads that call concurrently use
 * different tags (ronde_options). None of them starts an op while ronde_update runs. An op makes progress while its caller waits for it or tests
 * it, and on a thread of the library otherwise.
 * Signals: no handler is installed, none is blocked; waits go on after EINTR. After fork() only the parent may
 * use its groups; in the child ronde_close is an error and ronde_group_free only frees.
 *
 * Parts of a group (ronde_split) share its fate: an abort or a mismatch in one part ends the whole job. Errors name
 * ranks of the job.
 *
 * Memory. Buffers belong to the caller and need no alignment. A buffer of a started op must stay valid, what is
 * sent unchanged and what is received untouched, until the op has ended; a call that waits has ended when it
 * returns, with success or not. After an error the content of receive buffers is unspecified. Counts are in
 * elements. A buffer that a rank neither sends from nor receives into may be NULL.
 *
 * Structs that begin with `size` are filled in by their _INIT macro, then changed; a field left alone means its
 * default. Later versions add fields at the end: programs need not be compiled again.
 */
#ifndef RONDE_H
#define RONDE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RONDE_VERSION_MAJOR 0
#define RONDE_VERSION_MINOR 1
#define RONDE_VERSION_PATCH 0

/* Version of the library that runs: major * 10000 + minor * 100 + patch, and as text. */
uint32_t ronde_version(void);
const char *ronde_version_string(void);

/* ------------------------------------------------------------------------------------------------ Status */

typedef enum ronde_status {
    RONDE_OK = 0,
    RONDE_IN_PROGRESS = 1,      /* ronde_op_test, ronde_op_wait_for: not ended yet; ronde_probe: none; ronde_op_cancel: it goes on */
    RONDE_INVALID_ARGUMENT = 2, /* this call can never succeed: change it */
    RONDE_PEER_LOST = 3,        /* a peer died, was cut off or has left; the text names it */
    RONDE_TIMEOUT = 4,          /* the op's deadline passed, on some rank; the text names who did not come */
    RONDE_MISMATCH = 5,         /* ranks made different calls; the text has both */
    RONDE_ABORTED = 6,          /* somebody called ronde_abort */
    RONDE_EXPELLED = 7,         /* the others went on without this process: silent, or out of their reach, for too long */
    RONDE_RESOURCE = 8,         /* this machine: ports, descriptors, memory */
    RONDE_JOIN_FAILED = 9,      /* address, token, version, ranks, or time */
    RONDE_CLOSED = 10,          /* the group was closed here */
    RONDE_INTERNAL = 11,        /* a bug in Ronde: please report it */
    RONDE_DIVERGED = 12,        /* members hold different results of one call (RONDE_DIGESTS); the text says who */
    RONDE_CANCELLED = 13        /* ronde_op_cancel took this receive back */
} ronde_status;

/* Full text of the last failure on this thread, "" if there was none. Valid until the next call of any
 * function of this header on this thread. */
const char *ronde_last_error(void);

/* A few words for a status, for example "peer lost". */
const char *ronde_status_name(ronde_status status);

/* ------------------------------------------------------------------------------------------------- Types */

typedef enum ronde_dtype {
    RONDE_I8 = 0,
    RONDE_U8 = 1,
    RONDE_I16 = 2,
    RONDE_U16 = 3,
    RONDE_I32 = 4,
    RONDE_U32 = 5,
    RONDE_I64 = 6,
    RONDE_U64 = 7,
    RONDE_F16 = 8,   /* IEEE 754 binary16 */
    RONDE_BF16 = 9,
    RONDE_F32 = 10,
    RONDE_F64 = 11,
    RONDE_BOOL = 12, /* one byte; any value but 0 is true */
    RONDE_C64 = 13,  /* complex: two f32 */
    RONDE_C128 = 14, /* complex: two f64 */
    RONDE_F8E4M3 = 15, /* OCP E4M3, finite only ("fn") */
    RONDE_F8E5M2 = 16  /* OCP E5M2 */
} ronde_dtype;

/* How to reduce: one of the constants, or made by ronde_reduction_create, ronde_reduction_premulsum or
 * ronde_reduction_weighted_avg.
 * Results have the same bits on every rank and in every run. Integers wrap. MIN and MAX of floats give NaN if any
 * input is NaN. AVG divides the sum once; integers truncate toward zero. 8- and 16-bit floats are summed in f32
 * and rounded once by the algorithms that reduce all inputs together (one-shot, two-shot, direct), which are
 * chosen for them up to 32 ranks; once per step by the others. Sums of E4M3 above 448 give NaN.
 *
 * SUM and PROD take every dtype; MIN and MAX all but complex; AVG all but BOOL; BAND, BOR and BXOR integers and
 * BOOL. On BOOL, SUM and MAX are "or", PROD and MIN are "and". */
typedef uint64_t ronde_reduction;
#define RONDE_SUM ((ronde_reduction)0)
#define RONDE_PROD ((ronde_reduction)1)
#define RONDE_MIN ((ronde_reduction)2)
#define RONDE_MAX ((ronde_reduction)3)
#define RONDE_AVG ((ronde_reduction)4)
#define RONDE_BAND ((ronde_reduction)5)
#define RONDE_BOR ((ronde_reduction)6)
#define RONDE_BXOR ((ronde_reduction)7)

typedef enum ronde_collective {
    RONDE_ALL_REDUCE = 0,
    RONDE_REDUCE_SCATTER = 1,
    RONDE_ALL_GATHER = 2,
    RONDE_ALL_TO_ALL = 3,
    RONDE_BROADCAST = 4,
    RONDE_REDUCE = 5,
    RONDE_GATHER = 6,
    RONDE_SCATTER = 7,
    RONDE_BARRIER = 8,
    RONDE_SEND = 9,
    RONDE_RECV = 10,
    RONDE_ALL_GATHER_V = 11,
    RONDE_REDUCE_SCATTER_V = 12,
    RONDE_ALL_TO_ALL_V = 13,
    RONDE_GATHER_V = 14,
    RONDE_SCATTER_V = 15
} ronde_collective;

/* A group of peers; an op in flight; calls that become final together. */
typedef struct ronde_group ronde_group;
typedef struct ronde_op ronde_op;
typedef struct ronde_commit ronde_commit;

/* ------------------------------------------------------------------------------------------------ Joining */

/* Where one job's coordinator is, with the token to enter. Hand its bytes to the other processes in any way;
 * keep them secret. */
typedef struct ronde_id {
    unsigned char bytes[256];
} ronde_id;

/* A key-value store that all processes reach, usually a framework's own. Functions return 0 for success and may
 * be called from any thread while ronde_join runs. Keys begin with "ronde/", values have at most 1024 bytes. Every
 * job needs keys that were not used before: put a prefix of the job's own before them. Each process must know
 * its rank. */
typedef struct ronde_store {
    size_t size; /* sizeof(ronde_store) */
    void *context;
    int (*set)(void *context, const char *key, const void *value, size_t bytes);
    /* Waits until the key is set, at most timeout_ms. *bytes is the room in value and becomes its length. */
    int (*get)(void *context, const char *key, void *value, size_t *bytes, int64_t timeout_ms);
} ronde_store;

/* How to join. What is left alone comes from the environment (RONDE_* variables, else those of torchrun, Open
 * MPI or Slurm), else has the default in brackets. One of coordinator, id and store says where to meet; an id
 * counts before a store, a store before an address. */
typedef struct ronde_config {
    size_t size;             /* sizeof(ronde_config) */
    const char *coordinator; /* "host:port"; rank 0 hosts it there unless one runs already */
    const char *token;       /* secret that all processes share */
    const char *advertise;   /* "host" or "host:port" that the others shall use for this process */
    const char *transports;  /* of "shm,tcp" [both] */
    const char *interfaces;  /* "eth,ib" prefixes, "=eth0" exact, "^docker" all but */
    const ronde_id *id;
    const ronde_store *store;
    int64_t timeout_ms;         /* default deadline of calls [300000] */
    int64_t connect_timeout_ms; /* deadline of joining [60000] */
    int32_t rank;               /* -1: from the environment, else in order of arrival */
    int32_t ranks;              /* number of ranks of the job; 0: from the environment, else 1 */
    int32_t preset;             /* 1: LAN, a peer silent for 1 s is lost; 2: WAN, 5 s [LAN] */
    int32_t insecure;           /* 1: allow addresses beyond loopback without encryption [no] */
    int32_t streams;            /* TCP connections to each peer, 1 to 64 [1] */
    uint16_t first_port;        /* ports to listen on, the first free one [any] */
    uint16_t last_port;
    int32_t min_peers;          /* without `ranks`: start once so many are there; others join later [no] */
    int32_t max_peers;          /* nobody joins a job of so many; said where the coordinator is [any number] */
    int32_t shrink_only;        /* 1: nobody joins once the job runs; said where the coordinator is [no] */
    int32_t newcomer;           /* 1: join a job that runs; neither host the coordinator nor claim a rank [no] */
    const char *job;            /* name of the job, where several have one coordinator, up to 128 bytes [none] */
} ronde_config;

#define RONDE_CONFIG_INIT \
    { sizeof(ronde_config), NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, 0, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL }

/* Starts the coordinator of one job in this process, whatever its rank, and gives its id; every process of the
 * job, this one too, then joins with it. config may be NULL; max_peers and shrink_only are said here. */
ronde_status ronde_id_create(const ronde_config *config, ronde_id *id);

/* Ends the coordinator of an id that was made in this process and that this process has not joined with: it was made
 * for a job that does not come to be, or has another. Else it does nothing. */
ronde_status ronde_id_free(const ronde_id *id);

/* Joins and returns when all ranks have, or min_peers. A job that runs already lets newcomers in, with the next
 * ranks, at its next safe point (ronde_update). config may be NULL: everything from the environment, and without
 * any of it a group of one. On failure *group is NULL. */
ronde_status ronde_join(const ronde_config *config, ronde_group **group);

/* Leaves in order. Ops in flight here end with RONDE_CLOSED, and so does every later call; no callback comes
 * afterwards. Returns soon, but in the process that hosts the coordinator (rank 0 unless one runs elsewhere) only
 * when all others have left too: they need it. After the group's timeout it gives RONDE_RESOURCE and leaves all
 * the same. A process that ends without ronde_close is a lost peer to the others. A part made by ronde_split is
 * only closed here. NULL is allowed. */
ronde_status ronde_close(ronde_group *group);

/* Frees the handle and all memory of ronde_mem_alloc on it. NULL is allowed. */
void ronde_group_free(ronde_group *group);

/* Ends the job: ops on all ranks end with an error that carries the reason, but for those that have returned on some rank,
 * which do on all. From any thread; returns when it has ended, or after half a second. */
ronde_status ronde_abort(ronde_group *group, const char *reason);

/* This process's rank and the number of ranks; -1 for NULL. They change in ronde_update only. */
int32_t ronde_rank(const ronde_group *group);
int32_t ronde_size(const ronde_group *group);

/* What ended the group: RONDE_OK while it lives, else the status, with the text in ronde_last_error. */
ronde_status ronde_failure(const ronde_group *group);

/* Transport ("shm", "tcp") and host name of the link to a rank as it is now; "" for this one and unknown ones. The
 * strings live as long as the handle, also when ronde_update has given the rank to another. */
const char *ronde_transport(const ronde_group *group, int32_t rank);

/* What this process was doing: its last 256 calls that have ended and all that are open, one a line, for example
 * "all_reduce(count 1000, f32, sum) #119 (tag 0), 3.200 s ago: returned". Writes up to `size` bytes with the final 0, and gives
 * the length of the whole text without that, as snprintf does. When a job fails the last lines are logged (RONDE_LOG). */
size_t ronde_recent_calls(const ronde_group *group, char *text, size_t size);
const char *ronde_host(const ronde_group *group, int32_t rank);

/* Splits a group: members with the same colour form a new one, ranked by (key, old rank). A negative colour
 * takes no part: *part is NULL then. Every member calls it. Free the part before the group it came from. */
ronde_status ronde_split(ronde_group *group, int32_t color, int32_t key, ronde_group **part);

/* Zeroed memory that peers of this machine read without a copy: fastest over shared memory. Free it, or the
 * group, when no op uses it. */
ronde_status ronde_mem_alloc(ronde_group *group, size_t bytes, void **memory);
ronde_status ronde_mem_free(ronde_group *group, void *memory);

/* --------------------------------------------------------------------------------------------- Safe points */

/* What a safe point changed. gone_ranks lives as long as the handle of the group. */
typedef struct ronde_change {
    size_t size;               /* sizeof(ronde_change) */
    int32_t changed;           /* 1: ranks are new from now on */
    uint32_t generation;       /* as ronde_generation gives it */
    int32_t rank;              /* this process's, as ronde_rank gives it */
    int32_t ranks;             /* as ronde_size gives it */
    int32_t joined;            /* number of newcomers: they have the highest ranks */
    int32_t gone;              /* number of those who are not there any more */
    const int32_t *gone_ranks; /* theirs, as they were before, ascending; NULL for none */
} ronde_change;

#define RONDE_CHANGE_INIT \
    { sizeof(ronde_change), 0, 0, 0, 0, 0, 0, NULL }

/* A safe point: processes that want to join come in, those that were lost or have left stop being holes. Every
 * member of the job calls it on the group that ronde_join gave, each at the same place of its program (once a
 * training step, say). It waits for the ends of all ops of this process, and costs an all-reduce of 8 bytes if
 * nothing changes. change may be NULL.
 *
 * After a change ranks and sizes are new, also those of parts (ronde_split): they keep those of their members that
 * are there, in the same order. Newcomers are in none of them, need the state of the others, and make the same
 * calls as they from here on. */
ronde_status ronde_update(ronde_group *group, ronde_change *change);

/* The stretch of the job that this is, from 0: each ronde_update that changes something adds 1. A process that
 * joined a job which ran already starts with more than 0. 0 for NULL. */
uint32_t ronde_generation(const ronde_group *group);

/* ---------------------------------------------------------------------------------------------- Reductions */

/* acc[i] = acc[i] op src[i] for count elements of the call's dtype. Called in ascending rank order on every
 * element, from any thread, maybe from several at once on different ranges. It must be deterministic, need not
 * commute, and must not call back into Ronde. Ranks must use the same function. */
typedef void (*ronde_combine)(const void *src, void *acc, size_t count, ronde_dtype dtype, void *context);

ronde_status ronde_reduction_create(ronde_combine combine, void *context, ronde_reduction *reduction);

/* The sum of all inputs, each multiplied by its rank's scalar (one element of dtype; only for calls of it). */
ronde_status ronde_reduction_premulsum(ronde_dtype dtype, const void *scalar, ronde_reduction *reduction);

/* The average of all inputs, each weighed by its rank's weight (finite, not negative; 0 for a rank that has nothing to say): their
 * sum, each multiplied by its weight, divided by the sum of the weights of those who contributed. For floating types; of 8- and
 * 16-bit ones products are rounded, so keep weights near 1. All weights 0 give NaN. */
ronde_status ronde_reduction_weighted_avg(double weight, ronde_reduction *reduction);

/* Ops already started with it are not disturbed. Constants are ignored. */
ronde_status ronde_reduction_free(ronde_reduction reduction);

/* ----------------------------------------------------------------------------------------- Options, outcome */

typedef struct ronde_options {
    size_t size;           /* sizeof(ronde_options) */
    int64_t timeout_ms;    /* deadline of this call [the group's] */
    const char *algorithm; /* force one by name, the same on every rank [chosen]; see below */
    uint32_t tag;          /* calls of one tag come in the same order on every rank; UINT32_MAX is the library's own [0] */
    int32_t tolerance;     /* RONDE_RECOVER, RONDE_PER_WINDOW or RONDE_NONE [RONDE_RECOVER] */
    /* Not 0: a result that anybody returned holds for all, even if whoever returned it dies at once. A small all_reduce,
     * all_gather or barrier without it (of two ranks also reduce_scatter and all_to_all) that only lost ranks had returned from
     * may be made again, without these. [0] */
    int32_t strict_commit;
    int32_t reserved;
} ronde_options;

/* Algorithms. all_reduce: one-shot, two-shot, ring, bidirectional-ring, recursive-doubling, halving-doubling,
 * hierarchical. reduce_scatter and all_gather with their -v forms: direct, ring. broadcast and reduce: direct,
 * tree, chain. The others have one each. A reduction of one's own takes one-shot, two-shot or direct. */

/* The op commits before it returns, so that it can go on without a peer that is lost meanwhile. */
#define RONDE_RECOVER 0
/* No backup, log or commit: fastest; the loss of a member of the group is an error on all of it. */
#define RONDE_NONE 1
/* As RONDE_RECOVER, but an all_reduce of several windows commits window by window: a loss leaves what is final, and
 * the rest is reduced among the survivors, so the contributors may differ along the vector (`parts` of the outcome).
 * A late loss costs little, and in place only the windows in flight are copied: for vectors of many gigabytes. After
 * an error what was final stays reduced in place, up to where it is not said; the rest is as it was. */
#define RONDE_PER_WINDOW 2

#define RONDE_OPTIONS_INIT \
    { sizeof(ronde_options), 0, NULL, 0, RONDE_RECOVER, 0, 0 }

/* A part of a vector with contributors of its own. */
typedef struct ronde_part {
    size_t first;          /* elements first … first + count - 1 */
    size_t count;
    const int32_t *absent; /* ranks whose input is not in these, ascending; NULL for none */
    size_t absent_count;
    uint32_t contributors;
    uint32_t reserved;
} ronde_part;

/* Bytes of an output that hold anything, since whoever was to give them is lost. */
typedef struct ronde_hole {
    size_t first; /* bytes first … first + bytes - 1 of the receive buffer */
    size_t bytes;
    size_t call; /* in a commit which call's, from 0 in the order in which they were started; else 0 */
} ronde_hole;

/* What a call that succeeded says of itself. The lists are the library's, and live until the group is freed; from an
 * op that outlives its group's handle, until the op is. Those of holes live so long or until 1024 later outcomes of the
 * group have had some, since every call may have others: copy what is to stay. */
typedef struct ronde_outcome {
    size_t size;             /* sizeof(ronde_outcome) */
    uint64_t epoch;          /* view in which it committed */
    uint64_t seq;            /* its number within the tag */
    uint64_t bytes_sent;     /* payload */
    uint64_t bytes_received;
    const char *algorithm;   /* its name, for ever valid */
    uint32_t contributors;   /* number of peers whose input is in the result */
    uint32_t interruptions;  /* how often losses interrupted it */
    uint64_t interrupted_ns; /* how long it stood still for them, from when this peer heard of one */
    const int32_t *absent;   /* ranks whose input is not in the result, ascending; NULL for none */
    size_t absent_count;
    const ronde_part *parts; /* of a call with RONDE_PER_WINDOW that a loss interrupted: the parts of the vector, in
                                order; contributors and absent are those of the last. NULL where it is one. Part i is
                                i * part_size bytes after the first: later versions may have longer ones */
    size_t part_count;
    uint64_t stable_through; /* calls of the tag below this one have returned everywhere: after RONDE_EXPELLED the
                                results from here on are void */
    uint32_t generation;     /* of ronde_generation, when the call was made */
    uint32_t reserved;
    double weight;           /* of a weighted average: the sum of the weights in the result, where that is; else NaN */
    size_t part_size;        /* bytes from one of the parts to the next */
    uint64_t detected_ns;    /* from its start until this peer heard of the first loss that interrupted it; 0 for none, and for
                                one that it knew of before */
    const ronde_hole *holes; /* what the absent leave open in this rank's output: their blocks of all_gather(_v),
                                all_to_all(_v) and, at the root, gather(_v). In order, blocks that touch as one; all other
                                bytes are as they should be. NULL for none. Hole i is i * hole_size bytes after the first */
    size_t hole_count;
    size_t hole_size;        /* bytes from one of the holes to the next */
} ronde_outcome;

#define RONDE_OUTCOME_INIT \
    { sizeof(ronde_outcome), 0, 0, 0, 0, NULL, 0, 0, 0, NULL, 0, NULL, 0, 0, 0, 0, 0, 0, 0, NULL, 0, 0 }

/* --------------------------------------------------------------------------------------------- Collectives
 *
 * Each has two forms: one that waits for the end, and `_start`, which gives an op at once. options may be NULL
 * (defaults), outcome may be NULL (not wanted). A _start that fails sets *op to NULL. `n` below is the number of
 * ranks, `r` one's own. In place: send and recv are the same where both have the same length, else the shorter
 * one is one's own block of the longer; any other overlap is an error, and so are blocks of one array that
 * overlap where they are received or reduced.
 */

/* recv[i] = the reduction of every rank's send[i]; count elements each. */
ronde_status ronde_all_reduce(ronde_group *group, const void *send, void *recv, size_t count, ronde_dtype dtype,
                              ronde_reduction reduction, const ronde_options *options, ronde_outcome *outcome);
ronde_status ronde_all_reduce_start(ronde_group *group, const void *send, void *recv, size_t count,
                                    ronde_dtype dtype, ronde_reduction reduction, const ronde_options *options,
                                    ronde_op **op);

/* As all_reduce, but only the root receives. */
ronde_status ronde_reduce(ronde_group *group, const void *send, void *recv, size_t count, ronde_dtype dtype,
                          ronde_reduction reduction, int32_t root, const ronde_options *options,
                          ronde_outcome *outcome);
ronde_status ronde_reduce_start(ronde_group *group, const void *send, void *recv, size_t count, ronde_dtype dtype,
                                ronde_reduction reduction, int32_t root, const ronde_options *options,
                                ronde_op **op);

/* send has n blocks of recv_count elements; rank r receives the reduction of all blocks r. */
ronde_status ronde_reduce_scatter(ronde_group *group, const void *send, void *recv, size_t recv_count,
                                  ronde_dtype dtype, ronde_reduction reduction, const ronde_options *options,
                                  ronde_outcome *outcome);
ronde_status ronde_reduce_scatter_start(ronde_group *group, const void *send, void *recv, size_t recv_count,
                                        ronde_dtype dtype, ronde_reduction reduction,
                                        const ronde_options *options, ronde_op **op);

/* With blocks of any size, the same arrays of n entries on every rank; offsets NULL: one after another. */
ronde_status ronde_reduce_scatter_v(ronde_group *group, const void *send, const size_t *counts,
                                    const size_t *offsets, void *recv, ronde_dtype dtype,
                                    ronde_reduction reduction, const ronde_options *options,
                                    ronde_outcome *outcome);
ronde_status ronde_reduce_scatter_v_start(ronde_group *group, const void *send, const size_t *counts,
                                          const size_t *offsets, void *recv, ronde_dtype dtype,
                                          ronde_reduction reduction, const ronde_options *options, ronde_op **op);

/* recv gets n blocks of send_count elements, block i from rank i. */
ronde_status ronde_all_gather(ronde_group *group, const void *send, void *recv, size_t send_count,
                              ronde_dtype dtype, const ronde_options *options, ronde_outcome *outcome);
ronde_status ronde_all_gather_start(ronde_group *group, const void *send, void *recv, size_t send_count,
                                    ronde_dtype dtype, const ronde_options *options, ronde_op **op);

/* With blocks of any size, the same arrays of n entries on every rank; send has counts[r] elements. */
ronde_status ronde_all_gather_v(ronde_group *group, const void *send, void *recv, const size_t *counts,
                                const size_t *offsets, ronde_dtype dtype, const ronde_options *options,
                                ronde_outcome *outcome);
ronde_status ronde_all_gather_v_start(ronde_group *group, const void *send, void *recv, const size_t *counts,
                                      const size_t *offsets, ronde_dtype dtype, const ronde_options *options,
                                      ronde_op **op);

/* Block i of send, count elements, goes to rank i, where it becomes block r of recv. */
ronde_status ronde_all_to_all(ronde_group *group, const void *send, void *recv, size_t count, ronde_dtype dtype,
                              const ronde_options *options, ronde_outcome *outcome);
ronde_status ronde_all_to_all_start(ronde_group *group, const void *send, void *recv, size_t count,
                                    ronde_dtype dtype, const ronde_options *options, ronde_op **op);

/* With blocks of any size; what i sends to j must be as long as what j receives from i. */
ronde_status ronde_all_to_all_v(ronde_group *group, const void *send, const size_t *send_counts,
                                const size_t *send_offsets, void *recv, const size_t *recv_counts,
                                const size_t *recv_offsets, ronde_dtype dtype, const ronde_options *options,
                                ronde_outcome *outcome);
ronde_status ronde_all_to_all_v_start(ronde_group *group, const void *send, const size_t *send_counts,
                                      const size_t *send_offsets, void *recv, const size_t *recv_counts,
                                      const size_t *recv_offsets, ronde_dtype dtype,
                                      const ronde_options *options, ronde_op **op);

/* data of the root becomes data everywhere. */
ronde_status ronde_broadcast(ronde_group *group, void *data, size_t count, ronde_dtype dtype, int32_t root,
                             const ronde_options *options, ronde_outcome *outcome);
ronde_status ronde_broadcast_start(ronde_group *group, void *data, size_t count, ronde_dtype dtype, int32_t root,
                                   const ronde_options *options, ronde_op **op);

/* The root's recv gets n blocks of send_count elements. */
ronde_status ronde_gather(ronde_group *group, const void *send, void *recv, size_t send_count, ronde_dtype dtype,
                          int32_t root, const ronde_options *options, ronde_outcome *outcome);
ronde_status ronde_gather_start(ronde_group *group, const void *send, void *recv, size_t send_count,
                                ronde_dtype dtype, int32_t root, const ronde_options *options, ronde_op **op);

/* With blocks of any size: counts and offsets at the root only, where send_count equals counts[root]. */
ronde_status ronde_gather_v(ronde_group *group, const void *send, size_t send_count, void *recv,
                            const size_t *counts, const size_t *offsets, ronde_dtype dtype, int32_t root,
                            const ronde_options *options, ronde_outcome *outcome);
ronde_status ronde_gather_v_start(ronde_group *group, const void *send, size_t send_count, void *recv,
                                  const size_t *counts, const size_t *offsets, ronde_dtype dtype, int32_t root,
                                  const ronde_options *options, ronde_op **op);

/* The root's send has n blocks of recv_count elements; rank r receives block r. */
ronde_status ronde_scatter(ronde_group *group, const void *send, void *recv, size_t recv_count, ronde_dtype dtype,
                           int32_t root, const ronde_options *options, ronde_outcome *outcome);
ronde_status ronde_scatter_start(ronde_group *group, const void *send, void *recv, size_t recv_count,
                                 ronde_dtype dtype, int32_t root, const ronde_options *options, ronde_op **op);

/* With blocks of any size: counts and offsets at the root only, where recv_count equals counts[root]. */
ronde_status ronde_scatter_v(ronde_group *group, const void *send, const size_t *counts, const size_t *offsets,
                             void *recv, size_t recv_count, ronde_dtype dtype, int32_t root,
                             const ronde_options *options, ronde_outcome *outcome);
ronde_status ronde_scatter_v_start(ronde_group *group, const void *send, const size_t *counts,
                                   const size_t *offsets, void *recv, size_t recv_count, ronde_dtype dtype,
                                   int32_t root, const ronde_options *options, ronde_op **op);

/* Agrees on a flag: *all is 1 if every rank that is there gave something else than 0, and the outcome says who is
 * not there. Everybody gets the same answer, whoever dies meanwhile, and one that anybody got holds for all. */
ronde_status ronde_agree(ronde_group *group, int32_t flag, int32_t *all, ronde_outcome *outcome);

/* Gives everybody the state of those who have it (has_it is not 0): of the lowest rank among them that lives, and
 * of the next where that one dies meanwhile. All ranks call it with the same number of bytes, after a ronde_update
 * that let newcomers in; those are the ones that do not have it. */
ronde_status ronde_share(ronde_group *group, void *state, size_t bytes, int32_t has_it, ronde_outcome *outcome);

/* Returns when every rank has called it. */
ronde_status ronde_barrier(ronde_group *group, const ronde_options *options, ronde_outcome *outcome);
ronde_status ronde_barrier_start(ronde_group *group, const ronde_options *options, ronde_op **op);

/* A message to another rank (not to oneself), and from it; count and dtype are equal on both sides. Messages between two ranks
 * with one tag arrive in the order in which they were sent; any number may be in flight, in both directions. */
ronde_status ronde_send(ronde_group *group, const void *data, size_t count, ronde_dtype dtype, int32_t to,
                        const ronde_options *options, ronde_outcome *outcome);
ronde_status ronde_send_start(ronde_group *group, const void *data, size_t count, ronde_dtype dtype, int32_t to,
                              const ronde_options *options, ronde_op **op);
ronde_status ronde_recv(ronde_group *group, void *data, size_t count, ronde_dtype dtype, int32_t from,
                        const ronde_options *options, ronde_outcome *outcome);
ronde_status ronde_recv_start(ronde_group *group, void *data, size_t count, ronde_dtype dtype, int32_t from,
                              const ronde_options *options, ronde_op **op);

/* Waits, at most so long (less than 1: not at all), until something of a message with this tag (of the options) has come that no
 * receive here is for, and gives its rank: what a receive from anybody is made of. Of several it is the one that came first.
 * RONDE_IN_PROGRESS and -1 if there is none. Threads that receive with one tag must take turns, or one takes what another has found. */
ronde_status ronde_probe(ronde_group *group, uint32_t tag, int64_t timeout_ms, int32_t *from);

/* Any of the above as data: fields that a collective does not use are ignored, whatever is in them. */
typedef struct ronde_call {
    size_t size; /* sizeof(ronde_call) */
    ronde_collective collective;
    ronde_dtype dtype;
    ronde_reduction reduction;
    size_t count; /* as in the named function; unused for reduce_scatter_v, all_gather_v, all_to_all_v, barrier */
    const void *send;
    void *recv;
    const size_t *send_counts; /* reduce_scatter_v, all_to_all_v, scatter_v */
    const size_t *send_offsets;
    const size_t *recv_counts; /* all_gather_v, all_to_all_v, gather_v */
    const size_t *recv_offsets;
    const ronde_options *options;
    int32_t peer; /* root, or the other rank of a message */
    int32_t reserved;
} ronde_call;

#define RONDE_CALL_INIT \
    { sizeof(ronde_call), RONDE_BARRIER, RONDE_U8, RONDE_SUM, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, 0 }

/* Starts one call. */
ronde_status ronde_start(ronde_group *group, const ronde_call *call, ronde_op **op);

/* A batch: starts all calls, then waits for all; the first error wins. Sends and receives in one batch cannot
 * deadlock by their order. The calls are all checked before the first starts. outcomes is NULL or has an entry for
 * each call, with its size set; they are filled in if all calls succeed. The entries of an array have one size. */
ronde_status ronde_run(ronde_group *group, const ronde_call *calls, size_t count, ronde_outcome *outcomes);

/* -------------------------------------------------------------------------------------------- Commit groups
 *
 * Calls that start at once and become final together: whoever is lost meanwhile, all of them have the same
 * contributors, and one outcome. For what belongs together, such as the gradients of a step whose buckets become
 * ready one after the other: no model ever takes a step with one bucket of all ranks and another of fewer.
 *
 *   ronde_commit *step;
 *   ronde_commit_begin(group, NULL, 0, &step);
 *   for (size_t i = 0; i < BUCKETS; i++) {
 *       call.send = call.recv = bucket[i], call.count = length[i];   // a ronde_call of RONDE_ALL_REDUCE
 *       ronde_commit_start(step, &call);
 *   }
 *   ronde_commit_wait(step, &outcome);
 *
 * Every rank makes the same calls in the same order and seals after the last. All buffers belong to the calls until
 * the op of the seal has ended, or ronde_commit_wait has returned: before that nothing is final, and after a loss even
 * what looked ready is reduced again. Threads may start calls of one commit at once, if all ranks then come to the
 * same order.
 */

/* Opens a commit. Of options (NULL: defaults) it takes the tag, for all its calls, and the timeout, from the seal on; the
 * others must be left alone. Until it is sealed no collective of that tag can be called outside of it (messages can),
 * no second one opened on it, and ronde_update is an error. Of what calls in place overwrite a copy is kept until the
 * end, of most_kept bytes at most (0: 4 GiB); calls out of place need none. */
ronde_status ronde_commit_begin(ronde_group *group, const ronde_options *options, size_t most_kept,
                                ronde_commit **commit);

/* Starts a call: all_reduce, all_gather(_v), reduce_scatter(_v) or all_to_all, with RONDE_RECOVER. Its tag is the commit's,
 * whatever its options say. An error here refuses this call only, such as one that needs more than most_kept. */
ronde_status ronde_commit_start(ronde_commit *commit, const ronde_call *call);

/* The last call was made: the op ends when everything is final, on all ranks alike. Its outcome is that of all calls,
 * with the bytes and the holes of all. This frees the commit, whatever it returns, and nothing else does: the others wait for the
 * seal of everybody. After an error (the job has ended) no call uses its buffers any more, and *op is NULL. */
ronde_status ronde_commit_seal(ronde_commit *commit, ronde_op **op);

/* Seals and waits for the end. outcome may be NULL. */
ronde_status ronde_commit_wait(ronde_commit *commit, ronde_outcome *outcome);

/* ---------------------------------------------------------------------------------------------- Ops in flight
 *
 * Every op is freed once, by ronde_op_free or ronde_op_on_complete. Freeing does not wait: the op runs on, and
 * its buffers must stay valid until it has ended.
 */

/* RONDE_IN_PROGRESS, or how it ended; any number of times. Makes progress. outcome may be NULL. */
ronde_status ronde_op_test(ronde_op *op, ronde_outcome *outcome);

/* Waits for the end, at most until the call's deadline. outcome may be NULL. */
ronde_status ronde_op_wait(ronde_op *op, ronde_outcome *outcome);

/* Waits for the end, but at most so long (less than 1: not at all): RONDE_IN_PROGRESS if it has not ended by then. It goes on,
 * and may be waited for again. For callers that have to look at something else now and then, such as signals. */
ronde_status ronde_op_wait_for(ronde_op *op, int64_t timeout_ms, ronde_outcome *outcome);

/* Takes a receive back of which nothing has come yet: RONDE_OK, it ends with RONDE_CANCELLED, its buffer is the caller's again at
 * once, and the message, if it still comes, is dropped. RONDE_IN_PROGRESS, and nothing changes, for a receive that has begun or
 * ended, and for any other call: a collective is everybody's, and ends for all by its deadline or by ronde_abort. */
ronde_status ronde_op_cancel(ronde_op *op);

/* Waits for all; the first error in their order is returned. NULL entries are skipped. */
ronde_status ronde_op_wait_all(ronde_op *const *ops, size_t count);

/* A descriptor that poll, select and epoll find readable once the op has ended. It belongs to the op and is
 * closed with it; nothing needs to be read from it. */
ronde_status ronde_op_descriptor(ronde_op *op, int *descriptor);

/* Calls the callback once when the op ends, at once if it has, on any thread. outcome is NULL after an error,
 * whose text is error ("" otherwise); both are valid during the call only. The callback may start ops; it must
 * not wait for any. This frees the handle, unless it returns an error. */
typedef void (*ronde_callback)(void *context, ronde_status status, const ronde_outcome *outcome,
                               const char *error);
ronde_status ronde_op_on_complete(ronde_op *op, ronde_callback callback, void *context);

/* NULL is allowed. */
void ronde_op_free(ronde_op *op);

#ifdef __cplusplus
}
#endif

#endif /* RONDE_H */
