/* What a socket, or a ring in shared memory, does without a library: a bound for what one can do over it.
 *
 * Two processes exchange bytes, and add what comes where a reduction is wanted: no membership, no checks, no
 * recovery, nothing but the system calls and copies that the transport cannot do without. Compiled together with
 * mpi_bench.c, so that it is measured like all others. BARE_TRANSPORT is tcp or shm.
 */
#define _GNU_SOURCE
#include "mpi.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SLOT = 64 << 10, SLOTS = 8, LINES = 16, READ = 512 << 10, SPINS = 200, LINE = 64 };

/* What fits into a cache line together with its number. */
typedef struct {
    _Alignas(LINE) _Atomic uint64_t number;
    char bytes[LINE - sizeof(uint64_t)];
} line_t;

/* One direction between the two. */
typedef struct {
    line_t lines[LINES];
    _Alignas(LINE) _Atomic uint64_t written;
    _Alignas(LINE) _Atomic uint64_t read;
    _Alignas(4096) char slots[SLOTS][SLOT];
} ring_t;

/* One half of an exchange: what goes out, what comes in, and what is added to that. */
typedef struct {
    const char *out;
    char *in;
    const char *addend; /* NULL: only copied */
    size_t len;
} exchange_t;

char bare_in_place;
static int rank, over_tcp, channel = -1;
static pid_t other;
static ring_t *rings; /* that of rank 0, that of rank 1 */
static char *scratch;

static void fail(const char *what) {
    fprintf(stderr, "bare: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void pause_or_yield(int *spins) {
    if (++*spins < SPINS)
        __builtin_ia32_pause();
    else
        sched_yield();
}

static void take_in(const exchange_t *x, size_t offset, const char *bytes, size_t len) {
    if (x->addend == NULL) {
        if (x->in + offset != bytes) memcpy(x->in + offset, bytes, len);
        return;
    }
    const float *a = (const float *)(x->addend + offset), *b = (const float *)bytes;
    float *sum = (float *)(x->in + offset);
    for (size_t i = 0; i < len / sizeof(float); i++) sum[i] = a[i] + b[i];
}

/* What is added is read a piece at a time. Nothing is overwritten before it has left. */
static void exchange_tcp(const exchange_t *x) {
    size_t sent = 0, got = 0, added = 0;
    int spins = 0;
    while (sent < x->len || added < x->len) {
        size_t before = sent + got;
        if (sent < x->len) {
            ssize_t n = send(channel, x->out + sent, x->len - sent, MSG_NOSIGNAL);
            if (n < 0 && errno != EAGAIN) fail("send");
            sent += n > 0 ? (size_t)n : 0;
        }
        if (got < x->len) {
            size_t room = READ - (got - added), left = (x->in == x->out ? sent : x->len) - got;
            char *into = x->addend ? scratch + (got - added) : x->in + got;
            if (room > left) room = left;
            ssize_t n = room == 0 ? 0 : recv(channel, into, room, 0);
            if (n < 0 && errno != EAGAIN) fail("recv");
            if (n == 0 && room > 0) exit(1);
            got += n > 0 ? (size_t)n : 0;
        }
        size_t ready = got < sent ? got : sent;
        if (x->addend == NULL) {
            added = got;
        } else if (ready > added && (ready - added >= SLOT || ready == x->len)) {
            size_t part = (ready - added) / LINE * LINE;
            if (ready == x->len) part = ready - added;
            take_in(x, added, scratch, part);
            memmove(scratch, scratch + part, got - added - part);
            added += part;
        }
        if (sent + got != before) spins = 0;
        else pause_or_yield(&spins);
    }
}

static void exchange_shm(const exchange_t *x) {
    ring_t *mine = &rings[rank], *theirs = &rings[1 - rank];
    size_t sent = 0, got = 0;
    uint64_t written = atomic_load_explicit(&mine->written, memory_order_relaxed);
    uint64_t read = atomic_load_explicit(&theirs->read, memory_order_relaxed);
    int spins = 0;
    while (sent < x->len || got < x->len) {
        size_t before = sent + got;
        if (sent < x->len && written - atomic_load_explicit(&mine->read, memory_order_acquire) < SLOTS) {
            size_t part = x->len - sent < SLOT ? x->len - sent : SLOT;
            memcpy(mine->slots[written % SLOTS], x->out + sent, part);
            atomic_store_explicit(&mine->written, ++written, memory_order_release);
            sent += part;
        }
        if (got < x->len && atomic_load_explicit(&theirs->written, memory_order_acquire) != read) {
            size_t part = x->len - got < SLOT ? x->len - got : SLOT;
            if (got + part <= sent) {
                take_in(x, got, theirs->slots[read % SLOTS], part);
                atomic_store_explicit(&theirs->read, ++read, memory_order_release);
                got += part;
            }
        }
        if (sent + got != before) spins = 0;
        else pause_or_yield(&spins);
    }
}

/* Nobody is more than one exchange ahead of the other, so that a line has been read when it is written again. */
static void exchange_line(const exchange_t *x) {
    static uint64_t number;
    line_t *mine = &rings[rank].lines[number % LINES], *theirs = &rings[1 - rank].lines[number % LINES];
    number++;
    memcpy(mine->bytes, x->out, x->len);
    atomic_store_explicit(&mine->number, number, memory_order_release);
    for (int spins = 0; atomic_load_explicit(&theirs->number, memory_order_acquire) != number;) pause_or_yield(&spins);
    take_in(x, 0, theirs->bytes, x->len);
}

static void exchange(const void *out, void *in, const void *addend, size_t len) {
    exchange_t x = {out, in, addend, len};
    if (over_tcp) exchange_tcp(&x);
    else if (len <= sizeof rings->lines->bytes) exchange_line(&x);
    else exchange_shm(&x);
}

int MPI_Init(int *argc, char ***argv) {
    (void)argc, (void)argv;
    const char *transport = getenv("BARE_TRANSPORT");
    over_tcp = transport != NULL && strcmp(transport, "tcp") == 0;
    rings = mmap(NULL, 2 * sizeof *rings, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (rings == MAP_FAILED) fail("mmap");
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    if (bind(listener, (struct sockaddr *)&address, len) != 0 || listen(listener, 1) != 0) fail("listen");
    if (getsockname(listener, (struct sockaddr *)&address, &len) != 0) fail("getsockname");
    other = fork();
    rank = other == 0;
    if (rank == 0) {
        channel = accept(listener, NULL, NULL);
    } else {
        channel = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(channel, (struct sockaddr *)&address, len) != 0) fail("connect");
    }
    close(listener);
    if (channel < 0 || fcntl(channel, F_SETFL, O_NONBLOCK) != 0) fail("channel");
    if (setsockopt(channel, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0) fail("TCP_NODELAY");
    /* As Ronde does on loopback; no error where it is not there. */
    (void)setsockopt(channel, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
    if (posix_memalign((void **)&scratch, 4096, READ) != 0) fail("out of memory");
    memset(scratch, 0, READ);
    return 0;
}

int MPI_Finalize(void) {
    int status = 0;
    if (rank == 0 && waitpid(other, &status, 0) == other && status != 0) fail("rank 1 has failed");
    return 0;
}

int MPI_Abort(MPI_Comm comm, int code) {
    (void)comm;
    exit(code);
}

int MPI_Comm_rank(MPI_Comm comm, int *to) {
    (void)comm;
    *to = rank;
    return 0;
}

int MPI_Comm_size(MPI_Comm comm, int *to) {
    (void)comm;
    *to = 2;
    return 0;
}

double MPI_Wtime(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int MPI_Barrier(MPI_Comm comm) {
    (void)comm;
    uint64_t here = 0, there;
    exchange(&here, &there, NULL, sizeof here);
    return 0;
}

int MPI_Allreduce(const void *send, void *recv, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm) {
    (void)comm;
    const char *from = send == MPI_IN_PLACE ? recv : send;
    if (type != MPI_FLOAT) {
        /* The figures of a benchmark, 8 bytes each. */
        for (int i = 0; i < count; i++) {
            double x, y;
            long long m, n;
            char got[8];
            exchange(from + 8 * i, got, NULL, 8);
            memcpy(&x, from + 8 * i, 8), memcpy(&y, got, 8), memcpy(&m, from + 8 * i, 8), memcpy(&n, got, 8);
            if (op == MPI_MAX && y > x) x = y;
            m += n;
            memcpy((char *)recv + 8 * i, op == MPI_MAX ? (void *)&x : (void *)&m, 8);
        }
        return 0;
    }
    size_t len = (size_t)count * sizeof(float), half = len / 2 / LINE * LINE;
    if (len <= (over_tcp ? 1 << 20 : 128 << 10)) {
        exchange(from, recv, from, len);
        return 0;
    }
    /* Each adds a half, a window at a time, while that is in the cache. The second half may be longer by a little. */
    size_t window = over_tcp ? 512 << 10 : 128 << 10;
    for (size_t at = 0; at < half; at += window) {
        size_t part = half - at < window ? half - at : window;
        size_t mine = (rank ? half : 0) + at, theirs = (rank ? 0 : half) + at;
        exchange(from + theirs, (char *)recv + mine, from + mine, part);
        exchange((char *)recv + mine, (char *)recv + theirs, NULL, part);
    }
    size_t rest = len - 2 * half;
    if (rest > 0) exchange(from + 2 * half, (char *)recv + 2 * half, from + 2 * half, rest);
    return 0;
}

int MPI_Allgather(const void *send, int count, MPI_Datatype type, void *recv, int recv_count, MPI_Datatype recv_type,
                  MPI_Comm comm) {
    (void)type, (void)recv_count, (void)recv_type, (void)comm;
    size_t block = (size_t)count * sizeof(float);
    char *mine = (char *)recv + (size_t)rank * block, *theirs = (char *)recv + (size_t)(1 - rank) * block;
    const char *from = send == MPI_IN_PLACE ? mine : send;
    exchange(from, theirs, NULL, block);
    if (from != mine) memcpy(mine, from, block);
    return 0;
}

int MPI_Reduce_scatter_block(const void *send, void *recv, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm) {
    (void)type, (void)op, (void)comm;
    size_t block = (size_t)count * sizeof(float);
    const char *from = send == MPI_IN_PLACE ? recv : send;
    const char *mine = from + (size_t)rank * block, *theirs = from + (size_t)(1 - rank) * block;
    if (send != MPI_IN_PLACE || rank == 0) {
        exchange(theirs, recv, mine, block);
    } else {
        /* The first block is both what leaves and where the result goes. */
        exchange(theirs, (char *)from + block, mine, block);
        memcpy(recv, from + block, block);
    }
    return 0;
}

int MPI_Alltoall(const void *send, int count, MPI_Datatype type, void *recv, int recv_count, MPI_Datatype recv_type,
                 MPI_Comm comm) {
    (void)type, (void)recv_count, (void)recv_type, (void)comm;
    size_t block = (size_t)count * sizeof(float), mine = (size_t)rank * block, theirs = (size_t)(1 - rank) * block;
    const char *from = send == MPI_IN_PLACE ? recv : send;
    exchange(from + theirs, (char *)recv + theirs, NULL, block);
    if (send != MPI_IN_PLACE) memcpy((char *)recv + mine, from + mine, block);
    return 0;
}
