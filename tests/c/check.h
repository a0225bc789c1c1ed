/* What the C tests share: checks that say where they failed, random numbers, and elements of every dtype. */
#ifndef RONDE_TESTS_CHECK_H
#define RONDE_TESTS_CHECK_H

#include <ronde.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                        \
    do {                                                                                        \
        if (!(condition)) {                                                                     \
            fprintf(stderr, "%s:%d: not so: %s (last error: %s)\n", __FILE__, __LINE__, #condition, \
                    ronde_last_error());                                                        \
            exit(1);                                                                            \
        }                                                                                       \
    } while (0)

#define OK(call) CHECK((call) == RONDE_OK)

/* The call fails with this status, and its text says this. */
#define FAILS(call, status, words) fails(__LINE__, #call, (call), status, words)

static inline void fails(int line, const char *call, ronde_status got, ronde_status wanted, const char *words) {
    if (got == wanted && strstr(ronde_last_error(), words) != NULL) return;
    fprintf(stderr, "line %d: %s: got %d (%s), \"%s\"; wanted %d with \"%s\"\n", line, call, (int)got,
            ronde_status_name(got), ronde_last_error(), (int)wanted, words);
    exit(1);
}

/* A number that every rank can compute for every other one. */
static inline uint32_t mix(uint32_t a, uint32_t b, uint32_t c) {
    uint64_t x = (uint64_t)a * 0x9E3779B97F4A7C15u + (uint64_t)b * 0xC2B2AE3D27D4EB4Fu + (uint64_t)c * 0x165667B19E3779F9u;
    x ^= x >> 29;
    x *= 0xBF58476D1CE4E5B9u;
    return (uint32_t)(x >> 32);
}

static inline ronde_group *join(void) {
    ronde_group *group = NULL;
    OK(ronde_join(NULL, &group));
    CHECK(group != NULL);
    return group;
}

static inline void leave(ronde_group *group) {
    OK(ronde_close(group));
    ronde_group_free(group);
}

#define DTYPES 17

static inline size_t dtype_size(ronde_dtype dtype) {
    static const size_t sizes[DTYPES] = {1, 1, 2, 2, 4, 4, 8, 8, 2, 2, 4, 8, 1, 8, 16, 1, 1};
    return sizes[dtype];
}

static inline int dtype_is_signed(ronde_dtype dtype) {
    return dtype != RONDE_BOOL && !(dtype <= RONDE_U64 && dtype % 2 == 1);
}

static inline int dtype_is_complex(ronde_dtype dtype) { return dtype == RONDE_C64 || dtype == RONDE_C128; }

/* A small integer as a float of so many exponent and mantissa bits; exact, or the test is wrong. */
static inline uint32_t small_float(int value, int exponent_bits, int mantissa_bits) {
    uint32_t sign = value < 0, magnitude = (uint32_t)(value < 0 ? -value : value);
    int top = 0;
    if (magnitude == 0) return 0;
    while (magnitude >> (top + 1)) top++;
    CHECK(top <= mantissa_bits || (magnitude & ((1u << (top - mantissa_bits)) - 1)) == 0);
    uint32_t rest = magnitude - (1u << top);
    uint32_t mantissa = top <= mantissa_bits ? rest << (mantissa_bits - top) : rest >> (top - mantissa_bits);
    uint32_t exponent = (uint32_t)(top + (1 << (exponent_bits - 1)) - 1);
    return (sign << (exponent_bits + mantissa_bits)) | (exponent << mantissa_bits) | mantissa;
}

/* Writes a small integer as element i; the imaginary part of a complex one is given too. */
static inline void put(ronde_dtype dtype, void *base, size_t i, int value, int imaginary) {
    unsigned char *place = (unsigned char *)base + i * dtype_size(dtype);
    int64_t integer = value;
    uint32_t bits;
    float single[2] = {(float)value, (float)imaginary};
    double twice[2] = {value, imaginary};
    switch (dtype) {
    case RONDE_F16: bits = small_float(value, 5, 10), memcpy(place, &bits, 2); break;
    case RONDE_BF16: bits = small_float(value, 8, 7), memcpy(place, &bits, 2); break;
    case RONDE_F8E4M3: bits = small_float(value, 4, 3), memcpy(place, &bits, 1); break;
    case RONDE_F8E5M2: bits = small_float(value, 5, 2), memcpy(place, &bits, 1); break;
    case RONDE_F32:
    case RONDE_C64: memcpy(place, single, dtype_size(dtype)); break;
    case RONDE_F64:
    case RONDE_C128: memcpy(place, twice, dtype_size(dtype)); break;
    case RONDE_BOOL: *place = value != 0; break;
    default: memcpy(place, &integer, dtype_size(dtype)); /* little endian */
    }
}

#endif
