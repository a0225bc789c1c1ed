/* The least that does something: every rank contributes a number, all get the sum.
 *
 *   cc hello.c $(pkg-config --cflags --libs ronde) -o hello
 *   ronde run -n 3 -- ./hello
 */
#include <ronde.h>
#include <stdio.h>

int main(void) {
    ronde_group *group;
    if (ronde_join(NULL, &group) != RONDE_OK) {
        fprintf(stderr, "%s\n", ronde_last_error());
        return 1;
    }
    int failed = 0;
    float x = 1.0f + (float)ronde_rank(group);
    if (ronde_all_reduce(group, &x, &x, 1, RONDE_F32, RONDE_SUM, NULL, NULL) == RONDE_OK) {
        printf("rank %d of %d: the sum is %g\n", ronde_rank(group), ronde_size(group), x);
    } else {
        fprintf(stderr, "%s\n", ronde_last_error());
        failed = 1;
    }
    ronde_close(group);
    ronde_group_free(group);
    return failed;
}
