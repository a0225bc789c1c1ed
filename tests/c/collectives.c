/* Every collective on every dtype, with every reduction that it has, against values computed here from what
 * every rank is known to give. Buffers are not aligned, outputs are poisoned, and what lies behind them must stay.
 */
#include "check.h"

enum { POISON = 0xA5, GUARD = 64 };

static ronde_group *group;
static int rank, ranks;
static unsigned salt; /* differs in every call, so that nobody passes with old data */

/* Element i that a rank gives: small, so that sums and products of all ranks are exact in every dtype. Signed ones
 * are never 0, whose product with a negative float is another zero. */
static int value(ronde_dtype dtype, int from, size_t i, int part) {
    unsigned x = mix((unsigned)from * 2 + (unsigned)part, (unsigned)i, salt);
    static const int with_sign[4] = {-2, -1, 1, 2};
    return dtype_is_signed(dtype) ? with_sign[x % 4] : (int)(x % 3);
}

static void put_value(ronde_dtype dtype, void *base, size_t at, int from, size_t i) {
    put(dtype, base, at, value(dtype, from, i, 0), value(dtype, from, i, 1));
}

static int reduce_two(ronde_dtype dtype, ronde_reduction how, int a, int b) {
    if (dtype == RONDE_BOOL) {
        int both = a != 0 && b != 0, either = a != 0 || b != 0;
        return how == RONDE_BXOR ? (a != 0) != (b != 0)
               : how == RONDE_PROD || how == RONDE_MIN || how == RONDE_BAND ? both
                                                                            : either;
    }
    switch (how) {
    case RONDE_PROD: return a * b;
    case RONDE_MIN: return a < b ? a : b;
    case RONDE_MAX: return a > b ? a : b;
    case RONDE_BAND: return a & b;
    case RONDE_BOR: return a | b;
    case RONDE_BXOR: return a ^ b;
    default: return a + b;
    }
}

static void put_reduced(ronde_dtype dtype, ronde_reduction how, void *base, size_t at, size_t i) {
    int re = value(dtype, 0, i, 0), im = value(dtype, 0, i, 1);
    for (int from = 1; from < ranks; from++) {
        int x = value(dtype, from, i, 0), y = value(dtype, from, i, 1);
        if (dtype_is_complex(dtype) && how == RONDE_PROD) {
            int product = re * x - im * y;
            im = re * y + im * x, re = product;
        } else {
            re = reduce_two(dtype, how, re, x), im = reduce_two(dtype, how, im, y);
        }
    }
    put(dtype, base, at, re, im);
}

static int has(ronde_dtype dtype, ronde_reduction how) {
    int bits = dtype <= RONDE_U64 || dtype == RONDE_BOOL;
    return how <= RONDE_PROD || (how <= RONDE_MAX && !dtype_is_complex(dtype)) || (how >= RONDE_BAND && bits);
}

/* Buffers at odd addresses, whose ends the tools and the guard bytes watch. */
typedef struct {
    unsigned char *block, *data;
    size_t bytes;
} buffer;

static buffer make(size_t bytes) {
    buffer b = {malloc(bytes + 1 + GUARD), NULL, bytes};
    CHECK(b.block != NULL);
    memset(b.block, POISON, bytes + 1 + GUARD);
    b.data = b.block + 1;
    return b;
}

static void finish(const char *what, ronde_dtype dtype, size_t count, buffer got, buffer wanted) {
    for (size_t i = 0; i < got.bytes + GUARD; i++) {
        if (got.data[i] == wanted.data[i]) continue;
        fprintf(stderr, "rank %d of %d: %s, dtype %d, %zu elements: byte %zu is %02x, not %02x\n", rank, ranks, what,
                (int)dtype, count, i, got.data[i], wanted.data[i]);
        exit(1);
    }
    free(got.block);
    free(wanted.block);
}

static void all_reduce_and_reduce(ronde_dtype dtype, size_t count, ronde_reduction how) {
    size_t bytes = count * dtype_size(dtype);
    buffer send = make(bytes), recv = make(bytes), wanted = make(bytes), kept = make(bytes);
    int root = (int)(salt % (unsigned)ranks);
    for (size_t i = 0; i < count; i++) {
        put_value(dtype, send.data, i, rank, i);
        put_value(dtype, kept.data, i, rank, i);
        put_reduced(dtype, how, wanted.data, i, i);
    }
    ronde_outcome outcome = RONDE_OUTCOME_INIT;
    ronde_options in_order = RONDE_OPTIONS_INIT, to_root = RONDE_OPTIONS_INIT;
    /* The sign of a zero in a product of complex numbers depends on the order of the factors. */
    if (dtype_is_complex(dtype) && how == RONDE_PROD) in_order.algorithm = "two-shot", to_root.algorithm = "direct";
    OK(ronde_all_reduce(group, send.data, recv.data, count, dtype, how, &in_order, &outcome));
    CHECK(outcome.contributors == (uint32_t)ranks && outcome.algorithm != NULL && outcome.size == sizeof outcome);
    CHECK(memcmp(recv.data, wanted.data, bytes) == 0);
    CHECK(memcmp(send.data, kept.data, bytes) == 0);
    OK(ronde_reduce(group, send.data, rank == root ? kept.data : NULL, count, dtype, how, root, &to_root, NULL));
    CHECK(memcmp(kept.data, rank == root ? wanted.data : send.data, bytes) == 0);
    OK(ronde_all_reduce(group, send.data, send.data, count, dtype, how, &in_order, NULL));
    CHECK(memcmp(send.data, wanted.data, bytes + GUARD) == 0);
    free(send.block);
    free(kept.block);
    finish("all_reduce", dtype, count, recv, wanted);
}

static void reduce_scatter(ronde_dtype dtype, size_t count, ronde_reduction how) {
    size_t bytes = count * dtype_size(dtype);
    buffer send = make(bytes * (size_t)ranks), recv = make(bytes), wanted = make(bytes);
    for (size_t i = 0; i < count * (size_t)ranks; i++) put_value(dtype, send.data, i, rank, i);
    for (size_t i = 0; i < count; i++) put_reduced(dtype, how, wanted.data, i, (size_t)rank * count + i);
    OK(ronde_reduce_scatter(group, send.data, recv.data, count, dtype, how, NULL, NULL));
    free(send.block);
    finish("reduce_scatter", dtype, count, recv, wanted);
}

/* Rank `of` has `count` elements more than rank `of - 1`, and there is a gap before each block. */
static size_t uneven(size_t count, int of) { return count * (size_t)of + (size_t)of % 2; }

static size_t layout(size_t count, size_t *counts, size_t *offsets) {
    size_t at = 0;
    for (int r = 0; r < ranks; r++) {
        counts[r] = uneven(count, r), offsets[r] = at + 3;
        at = offsets[r] + counts[r];
    }
    return at;
}

static void uneven_blocks(ronde_dtype dtype, size_t count, ronde_reduction how) {
    size_t counts[64], offsets[64], width = dtype_size(dtype);
    size_t total = layout(count, counts, offsets), own = counts[rank];
    int root = (int)(salt % (unsigned)ranks);

    buffer send = make(own * width), recv = make(total * width), wanted = make(total * width);
    for (size_t i = 0; i < own; i++) put_value(dtype, send.data, i, rank, i);
    for (int r = 0; r < ranks; r++)
        for (size_t i = 0; i < counts[r]; i++) put_value(dtype, wanted.data, offsets[r] + i, r, i);
    OK(ronde_gather_v(group, send.data, own, rank == root ? recv.data : NULL, rank == root ? counts : NULL,
                      rank == root ? offsets : NULL, dtype, root, NULL, NULL));
    if (rank == root) CHECK(memcmp(recv.data, wanted.data, total * width + GUARD) == 0);
    memset(recv.data, POISON, total * width);
    OK(ronde_all_gather_v(group, send.data, recv.data, counts, offsets, dtype, NULL, NULL));
    free(send.block);
    finish("all_gather_v", dtype, count, recv, wanted);

    send = make(total * width), recv = make(own * width), wanted = make(own * width);
    for (int r = 0; r < ranks; r++)
        for (size_t i = 0; i < counts[r]; i++) put_value(dtype, send.data, offsets[r] + i, rank, offsets[r] + i);
    for (size_t i = 0; i < own; i++) put_value(dtype, wanted.data, i, root, offsets[rank] + i);
    OK(ronde_scatter_v(group, rank == root ? send.data : NULL, rank == root ? counts : NULL,
                       rank == root ? offsets : NULL, recv.data, own, dtype, root, NULL, NULL));
    CHECK(memcmp(recv.data, wanted.data, own * width + GUARD) == 0);
    for (size_t i = 0; i < own; i++) put_reduced(dtype, how, wanted.data, i, offsets[rank] + i);
    OK(ronde_reduce_scatter_v(group, send.data, counts, offsets, recv.data, dtype, how, NULL, NULL));
    free(send.block);
    finish("reduce_scatter_v", dtype, count, recv, wanted);
}

static void rooted_and_gathered(ronde_dtype dtype, size_t count) {
    size_t width = dtype_size(dtype), bytes = count * width, all = bytes * (size_t)ranks;
    int root = (int)(salt % (unsigned)ranks);
    buffer send = make(bytes), recv = make(all), wanted = make(all);
    for (size_t i = 0; i < count; i++) put_value(dtype, send.data, i, rank, i);
    for (int r = 0; r < ranks; r++)
        for (size_t i = 0; i < count; i++) put_value(dtype, wanted.data, (size_t)r * count + i, r, i);
    OK(ronde_gather(group, send.data, rank == root ? recv.data : NULL, count, dtype, root, NULL, NULL));
    if (rank == root) CHECK(memcmp(recv.data, wanted.data, all + GUARD) == 0);
    memset(recv.data, POISON, all);
    OK(ronde_all_gather(group, send.data, recv.data, count, dtype, NULL, NULL));
    CHECK(memcmp(recv.data, wanted.data, all + GUARD) == 0);

    OK(ronde_broadcast(group, send.data, count, dtype, root, NULL, NULL));
    CHECK(memcmp(send.data, wanted.data + (size_t)root * bytes, bytes) == 0);
    memset(send.data, POISON, bytes);
    OK(ronde_scatter(group, rank == root ? wanted.data : NULL, send.data, count, dtype, root, NULL, NULL));
    CHECK(memcmp(send.data, wanted.data + (size_t)rank * bytes, bytes) == 0);
    free(send.block);
    finish("gather", dtype, count, recv, wanted);
}

static void exchanged(ronde_dtype dtype, size_t count) {
    size_t n = (size_t)ranks, width = dtype_size(dtype), bytes = count * n * width;
    buffer send = make(bytes), recv = make(bytes), wanted = make(bytes);
    for (size_t i = 0; i < count * n; i++) put_value(dtype, send.data, i, rank, i);
    for (int r = 0; r < ranks; r++)
        for (size_t i = 0; i < count; i++)
            put_value(dtype, wanted.data, (size_t)r * count + i, r, (size_t)rank * count + i);
    OK(ronde_all_to_all(group, send.data, recv.data, count, dtype, NULL, NULL));
    free(send.block);
    finish("all_to_all", dtype, count, recv, wanted);

    /* Rank a sends count * b + a elements to rank b; offsets in reverse order, without gaps. */
    size_t out[64], in[64], to[64], from[64], sent = 0, received = 0;
    for (int r = ranks - 1; r >= 0; r--) {
        out[r] = count * (size_t)r + (size_t)rank, in[r] = count * (size_t)rank + (size_t)r;
        to[r] = sent, from[r] = received;
        sent += out[r], received += in[r];
    }
    send = make(sent * width), recv = make(received * width), wanted = make(received * width);
    for (int r = 0; r < ranks; r++) {
        for (size_t i = 0; i < out[r]; i++) put_value(dtype, send.data, to[r] + i, rank, (size_t)r * 100 + i);
        for (size_t i = 0; i < in[r]; i++) put_value(dtype, wanted.data, from[r] + i, r, (size_t)rank * 100 + i);
    }
    OK(ronde_all_to_all_v(group, send.data, out, to, recv.data, in, from, dtype, NULL, NULL));
    free(send.block);
    finish("all_to_all_v", dtype, count, recv, wanted);
}

/* Around the ring, in both directions at once. */
static void messages(ronde_dtype dtype, size_t count) {
    size_t bytes = count * dtype_size(dtype);
    int next = (rank + 1) % ranks, last = (rank + ranks - 1) % ranks;
    buffer send = make(bytes), recv = make(bytes), wanted = make(bytes), kept = make(bytes), back = make(bytes);
    if (ranks == 1) count = bytes = 0;
    for (size_t i = 0; i < count; i++) {
        put_value(dtype, send.data, i, rank, i);
        put_value(dtype, wanted.data, i, last, i);
        put_value(dtype, kept.data, i, next, i);
    }
    if (ranks > 1) {
        ronde_options there = RONDE_OPTIONS_INIT, home = RONDE_OPTIONS_INIT;
        ronde_op *ops[4];
        there.tag = 1, home.tag = 2;
        OK(ronde_recv_start(group, recv.data, count, dtype, last, &there, &ops[0]));
        OK(ronde_recv_start(group, back.data, count, dtype, next, &home, &ops[1]));
        OK(ronde_send_start(group, send.data, count, dtype, next, &there, &ops[2]));
        OK(ronde_send_start(group, send.data, count, dtype, last, &home, &ops[3]));
        OK(ronde_op_wait_all((ronde_op *const *)ops, 4));
        for (int i = 0; i < 4; i++) ronde_op_free(ops[i]);
    }
    free(send.block);
    finish("recv", dtype, count, recv, wanted);
    finish("recv", dtype, count, back, kept);
}

int main(void) {
    static const size_t counts[] = {0, 1, 2, 3, 7, 64, 1001};
    group = join();
    rank = ronde_rank(group), ranks = ronde_size(group);
    CHECK(ranks <= 4); /* more would make sums that an 8-bit float cannot hold */
    for (int dtype = 0; dtype < DTYPES; dtype++) {
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            for (ronde_reduction how = RONDE_SUM; how <= RONDE_BXOR; how++) {
                if (how == RONDE_AVG || !has((ronde_dtype)dtype, how)) continue;
                salt++, all_reduce_and_reduce((ronde_dtype)dtype, counts[c], how);
                salt++, reduce_scatter((ronde_dtype)dtype, counts[c], how);
                salt++, uneven_blocks((ronde_dtype)dtype, counts[c], how);
            }
            salt++, rooted_and_gathered((ronde_dtype)dtype, counts[c]);
            salt++, exchanged((ronde_dtype)dtype, counts[c]);
            salt++, messages((ronde_dtype)dtype, counts[c]);
        }
        OK(ronde_barrier(group, NULL, NULL));
    }
    leave(group);
    return 0;
}
