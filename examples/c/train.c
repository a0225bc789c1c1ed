/* Data-parallel training of a softmax classifier on real handwritten digits: each process computes the gradient
 * of its share of every batch while the all-reduce of the gradient before is on its way, and every process ends
 * with the same model, to the bit.
 *
 *   cc -O2 train.c $(pkg-config --cflags --libs ronde) -lm -o train
 *   ronde run -n 4 -- ./train cli/data/digits.bin
 */
#include <math.h>
#include <ronde.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PIXELS = 64, CLASSES = 10, ROW = PIXELS + 1, PARAMETERS = CLASSES * ROW, BATCH = 96, HALVES = 2 };
static const int EPOCHS = 60;
static const float RATE = 0.3f, MOMENTUM = 0.9f;

typedef struct {
    unsigned char pixels[PIXELS], label; /* as in the file */
} digit;

static void stop(const char *what) {
    fprintf(stderr, "%s: %s\n", what, ronde_last_error());
    exit(1);
}

static digit *load(const char *path, size_t *count) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        exit(1);
    }
    size_t room = 4096;
    digit *digits = malloc(room * sizeof *digits);
    *count = digits ? fread(digits, sizeof *digits, room, file) : 0;
    fclose(file);
    for (uint32_t i = (uint32_t)*count, state = 1; i > 1; i--) {
        state = state * 1664525u + 1013904223u;
        uint32_t j = (uint32_t)(((uint64_t)state * i) >> 32);
        digit kept = digits[i - 1];
        digits[i - 1] = digits[j];
        digits[j] = kept;
    }
    return digits;
}

static void scores(const float *model, const digit *d, float *out) {
    for (int c = 0; c < CLASSES; c++) {
        const float *row = model + c * ROW;
        out[c] = row[PIXELS];
        for (int p = 0; p < PIXELS; p++) out[c] += row[p] * (float)d->pixels[p] / 16.0f;
    }
}

static void add_gradient(const float *model, const digit *d, float *gradient) {
    float s[CLASSES], largest, total = 0;
    scores(model, d, s);
    largest = s[0];
    for (int c = 1; c < CLASSES; c++) largest = fmaxf(largest, s[c]);
    for (int c = 0; c < CLASSES; c++) total += s[c] = expf(s[c] - largest);
    for (int c = 0; c < CLASSES; c++) {
        float error = s[c] / total - (c == d->label ? 1.0f : 0.0f);
        float *row = gradient + c * ROW;
        for (int p = 0; p < PIXELS; p++) row[p] += error * (float)d->pixels[p] / 16.0f;
        row[PIXELS] += error;
    }
}

/* The gradient of this rank's share of half a batch. */
static void share(const float *model, const digit *digits, size_t count, int rank, int ranks, float *gradient) {
    memset(gradient, 0, PARAMETERS * sizeof *gradient);
    for (size_t i = count * (size_t)rank / (size_t)ranks; i < count * ((size_t)rank + 1) / (size_t)ranks; i++)
        add_gradient(model, digits + i, gradient);
}

int main(int argc, char **argv) {
    size_t count;
    digit *digits = load(argc > 1 ? argv[1] : "cli/data/digits.bin", &count);
    size_t training = count - count / 5;

    ronde_group *group;
    if (ronde_join(NULL, &group) != RONDE_OK) stop("join");
    int rank = ronde_rank(group), ranks = ronde_size(group);

    static float model[PARAMETERS], velocity[PARAMETERS], own[HALVES][PARAMETERS], sum[HALVES][PARAMETERS];
    for (int epoch = 0; epoch < EPOCHS; epoch++) {
        for (size_t at = 0; at < training; at += BATCH) {
            size_t batch = training - at < BATCH ? training - at : BATCH;
            ronde_op *ops[HALVES];
            for (int h = 0; h < HALVES; h++) {
                size_t from = batch * (size_t)h / HALVES, to = batch * ((size_t)h + 1) / HALVES;
                share(model, digits + at + from, to - from, rank, ranks, own[h]);
                /* Runs while the next half is computed. */
                if (ronde_all_reduce_start(group, own[h], sum[h], PARAMETERS, RONDE_F32, RONDE_SUM, NULL, &ops[h]))
                    stop("all_reduce");
            }
            if (ronde_op_wait_all((ronde_op *const *)ops, HALVES)) stop("all_reduce");
            for (int h = 0; h < HALVES; h++) ronde_op_free(ops[h]);
            for (int i = 0; i < PARAMETERS; i++) {
                velocity[i] = MOMENTUM * velocity[i] - RATE / (float)batch * (sum[0][i] + sum[1][i]);
                model[i] += velocity[i];
            }
        }
    }

    size_t right = 0;
    for (size_t i = training; i < count; i++) {
        float s[CLASSES];
        int best = 0;
        scores(model, digits + i, s);
        for (int c = 1; c < CLASSES; c++)
            if (s[c] > s[best]) best = c;
        right += best == digits[i].label;
    }
    /* All models must be the same bits: their least and greatest digest agree. */
    uint64_t digest = 1469598103934665603u, least, greatest;
    for (size_t i = 0; i < sizeof model; i++) digest = (digest ^ ((unsigned char *)model)[i]) * 1099511628211u;
    if (ronde_all_reduce(group, &digest, &least, 1, RONDE_U64, RONDE_MIN, NULL, NULL) ||
        ronde_all_reduce(group, &digest, &greatest, 1, RONDE_U64, RONDE_MAX, NULL, NULL))
        stop("compare");
    double accuracy = (double)right / (double)(count - training);
    if (rank == 0)
        printf("%d ranks, accuracy %.3f, models %s (%016llx)\n", ranks, accuracy,
               least == greatest ? "identical" : "DIFFER", (unsigned long long)digest);
    ronde_close(group);
    ronde_group_free(group);
    free(digits);
    return least == greatest && accuracy > 0.9 ? 0 : 1;
}
