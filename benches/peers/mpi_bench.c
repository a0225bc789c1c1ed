/* One collective over MPI, measured as `ronde bench` measures it.
 *
 * usage: mpi_bench COLLECTIVE SIZE:ITERATIONS...
 *
 * Vectors are rewritten before use, as many at once as fit into BATCH_BYTES; then the ranks meet and run
 * the operations of the batch one after another. An operation's time is the largest over the ranks, a
 * row's time the median over the operations. Rank 0 prints one JSON object per size.
 */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH_BYTES = 1 << 20, ALIGN = 64, PATTERN_BYTES = 64 << 10, WARMUP = 1, WARMUP_MOST = 20000, WARMUP_BYTES = 16 << 20 };

typedef enum { ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, ALL_TO_ALL } collective_t;

static const char *const NAMES[] = {"all-reduce", "all-gather", "reduce-scatter", "all-to-all"};

static int rank, ranks;

typedef struct {
    collective_t collective;
    int in_place;
    size_t count;       /* elements of the longer vector */
    size_t send_stride; /* bytes from one operation's input to the next */
    size_t recv_stride;
    int operations; /* of one batch */
} layout_t;

static void fail(const char *text) {
    fprintf(stderr, "mpi_bench: %s\n", text);
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static size_t padded(size_t elements) {
    return (elements * sizeof(float) + ALIGN - 1) / ALIGN * ALIGN;
}

static layout_t layout_of(collective_t collective, size_t bytes, int in_place, int iterations) {
    layout_t layout = {.collective = collective, .in_place = in_place};
    size_t whole = bytes / sizeof(float), block = whole / (size_t)ranks;
    if (collective != ALL_REDUCE) whole = block * (size_t)ranks;
    layout.count = whole;
    layout.send_stride = in_place ? 0 : padded(collective == ALL_GATHER ? block : whole);
    layout.recv_stride = padded(collective == REDUCE_SCATTER && !in_place ? block : whole);
    size_t fit = BATCH_BYTES / (layout.send_stride + layout.recv_stride);
    layout.operations = fit < 1 ? 1 : fit > (size_t)iterations ? iterations : (int)fit;
    return layout;
}

/* Small integers, different on each rank: their sums are exact. */
static float value_at(int of_rank, size_t index) {
    return (float)((index * 7 + (size_t)of_rank * 13) % 31) - 15.0f;
}

static void operate(const layout_t *layout, char *send, char *recv) {
    int whole = (int)layout->count, block = whole / ranks;
    void *from = layout->in_place ? MPI_IN_PLACE : send;
    switch (layout->collective) {
    case ALL_REDUCE:
        MPI_Allreduce(from, recv, whole, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        break;
    case ALL_GATHER:
        MPI_Allgather(from, block, MPI_FLOAT, recv, block, MPI_FLOAT, MPI_COMM_WORLD);
        break;
    case REDUCE_SCATTER:
        MPI_Reduce_scatter_block(from, recv, block, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        break;
    case ALL_TO_ALL:
        MPI_Alltoall(from, block, MPI_FLOAT, recv, block, MPI_FLOAT, MPI_COMM_WORLD);
        break;
    }
}

static void rewrite(const layout_t *layout, char *send, char *recv, const char *pattern, int operations) {
    char *to = layout->in_place ? recv : send;
    size_t left = (layout->in_place ? layout->recv_stride : layout->send_stride) * (size_t)operations;
    while (left > 0) {
        size_t part = left < PATTERN_BYTES ? left : PATTERN_BYTES;
        memcpy(to, pattern, part);
        to += part;
        left -= part;
    }
}

static void measure(const layout_t *layout, char *send, char *recv, const char *pattern, double *times, int iterations) {
    for (int done = 0; done < iterations;) {
        int operations = iterations - done < layout->operations ? iterations - done : layout->operations;
        rewrite(layout, send, recv, pattern, operations);
        MPI_Barrier(MPI_COMM_WORLD);
        double last = MPI_Wtime();
        for (int at = 0; at < operations; at++) {
            operate(layout, send + (size_t)at * layout->send_stride, recv + (size_t)at * layout->recv_stride);
            double now = MPI_Wtime();
            times[done++] = now - last;
            last = now;
        }
    }
}

static float expected(const layout_t *layout, size_t index) {
    size_t block = layout->count / (size_t)ranks;
    if (layout->collective == ALL_GATHER) {
        int of_rank = (int)(index / block);
        return value_at(of_rank, layout->in_place ? index : index % block);
    }
    if (layout->collective == ALL_TO_ALL) return value_at((int)(index / block), (size_t)rank * block + index % block);
    size_t first = layout->collective == REDUCE_SCATTER ? (size_t)rank * block : 0;
    float sum = 0;
    for (int of_rank = 0; of_rank < ranks; of_rank++) sum += value_at(of_rank, first + index);
    return sum;
}

static long long wrong_elements(const layout_t *layout, char *send, char *recv) {
    size_t block = layout->count / (size_t)ranks;
    float *input = (float *)(layout->in_place ? recv : send), *output = (float *)recv;
    size_t inputs = layout->collective == ALL_GATHER && !layout->in_place ? block : layout->count;
    memset(recv, 0xa5, layout->recv_stride);
    for (size_t i = 0; i < inputs; i++) input[i] = value_at(rank, i);
    operate(layout, send, recv);
    long long wrong = 0;
    size_t outputs = layout->collective == REDUCE_SCATTER ? block : layout->count;
    for (size_t i = 0; i < outputs; i++) wrong += output[i] != expected(layout, i);
    MPI_Allreduce(MPI_IN_PLACE, &wrong, 1, MPI_LONG_LONG, MPI_SUM, MPI_COMM_WORLD);
    return wrong;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_us(double *times, int count) {
    MPI_Allreduce(MPI_IN_PLACE, times, count, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    qsort(times, (size_t)count, sizeof *times, by_value);
    return 1e6 * (times[count / 2] + times[(count - 1) / 2]) / 2;
}

static void *allocate(size_t bytes) {
    void *memory = NULL;
    if (bytes == 0) bytes = ALIGN;
    if (posix_memalign(&memory, ALIGN, bytes) != 0) fail("out of memory");
    memset(memory, 0, bytes);
    return memory;
}

static double side(collective_t collective, size_t bytes, int in_place, int iterations, long long *wrong) {
    layout_t layout = layout_of(collective, bytes, in_place, iterations);
    char *send = allocate(layout.send_stride * (size_t)layout.operations);
    char *recv = allocate(layout.recv_stride * (size_t)layout.operations);
    float *pattern = allocate(PATTERN_BYTES);
    double *times = allocate((size_t)iterations * sizeof *times);
    for (size_t i = 0; i < PATTERN_BYTES / sizeof(float); i++) pattern[i] = value_at(rank, i);
    /* As warm_up of systems.py. */
    long long warm_up = WARMUP_BYTES / (long long)bytes;
    warm_up = warm_up > WARMUP_MOST ? WARMUP_MOST : warm_up < WARMUP ? WARMUP : warm_up;
    for (long long left = warm_up; left > 0; left -= iterations)
        measure(&layout, send, recv, (char *)pattern, times, left < iterations ? (int)left : iterations);
    measure(&layout, send, recv, (char *)pattern, times, iterations);
    double time = median_us(times, iterations);
    *wrong += wrong_elements(&layout, send, recv);
    free(send);
    free(recv);
    free(pattern);
    free(times);
    return time;
}

static int collective_named(const char *name) {
    for (int i = 0; i < 4; i++)
        if (strcmp(NAMES[i], name) == 0) return i;
    fail("unknown collective");
    return 0;
}

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    if (argc < 3) fail("usage: mpi_bench COLLECTIVE SIZE:ITERATIONS...");
    collective_t collective = (collective_t)collective_named(argv[1]);
    for (int i = 2; i < argc; i++) {
        unsigned long long bytes;
        int iterations;
        if (sscanf(argv[i], "%llu:%d", &bytes, &iterations) != 2 || iterations < 1) fail("bad SIZE:ITERATIONS");
        if (bytes < sizeof(float) * (size_t)ranks && collective != ALL_REDUCE) fail("less than one element a rank");
        long long wrong = 0;
        double out = side(collective, bytes, 0, iterations, &wrong);
        double in = side(collective, bytes, 1, iterations, &wrong);
        if (rank == 0)
            printf("{\"size\": %llu, \"out_of_place\": %.4f, \"in_place\": %.4f, \"wrong\": %lld}\n",
                   bytes, out, in, wrong);
        fflush(stdout);
    }
    MPI_Finalize();
    return 0;
}
