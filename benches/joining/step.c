/* One rank of a job that steps: an all-reduce and a safe point, until so many newcomers have come and gone. A newcomer leaves
 * again soon. Prints a line for each step and each event: milliseconds of the clock that all processes of the machine share,
 * what, and how long it took in milliseconds. */
#include <ronde.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { STAY = 100 }; /* steps of a newcomer */

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static int fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, ronde_last_error());
    return 1;
}

int main(int argc, char **argv)
{
    size_t count = argc > 2 ? strtoul(argv[1], NULL, 10) / sizeof(float) : 0;
    double until = argc > 2 ? now() + strtod(argv[2], NULL) * 1e3 : 0;
    int is_newcomer = argc > 3 && strcmp(argv[3], "newcomer") == 0;
    ronde_group *group = NULL;
    float *data = calloc(count + 1, sizeof *data);
    float over = 0;
    double asked = now();

    if (count == 0 || data == NULL || ronde_join(NULL, &group) != RONDE_OK)
        return fail("usage: step BYTES SECONDS [newcomer]");
    if (is_newcomer)
        printf("%.3f joined %.3f\n", asked, now() - asked);
    for (int step = 0; is_newcomer ? step < STAY : over == 0; step++) {
        ronde_change change = RONDE_CHANGE_INIT;
        double start = now();
        /* Each knows by the last element when all stop. */
        data[count] = !is_newcomer && ronde_rank(group) == 0 && start > until;
        if (ronde_all_reduce(group, data, data, count + 1, RONDE_F32, RONDE_SUM, NULL, NULL) != RONDE_OK)
            return fail("all_reduce");
        over = data[count];
        memset(data, 0, count * sizeof *data);
        if (is_newcomer && step == 0)
            printf("%.3f first %.3f\n", asked, now() - asked);
        if (over == 0 && ronde_update(group, &change) != RONDE_OK)
            return fail("update");
        printf("%.3f step %.3f\n", start, now() - start);
        if (change.changed)
            printf("%.3f ranks %d\n", now(), (int)ronde_size(group));
    }
    free(data);
    return ronde_close(group) == RONDE_OK ? 0 : fail("close");
}
