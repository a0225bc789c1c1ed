/* A group of one rank runs an all-reduce of two floats over and over: what an operation costs without a peer. */
#include <ronde.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    long ops = argc > 1 ? strtol(argv[1], NULL, 10) : 0;
    float in[2] = {1, 2}, out[2];
    ronde_config config = RONDE_CONFIG_INIT;
    ronde_group *group = NULL;

    config.rank = 0;
    config.ranks = 1;
    if (ops <= 0 || ronde_join(&config, &group) != RONDE_OK) {
        fprintf(stderr, "usage: loop OPS (%s)\n", ronde_last_error());
        return 2;
    }
    for (long i = 0; i < ops; i++) {
        if (ronde_all_reduce(group, in, out, 2, RONDE_F32, RONDE_SUM, NULL, NULL) != RONDE_OK) {
            fprintf(stderr, "%s\n", ronde_last_error());
            return 1;
        }
    }
    return ronde_close(group) == RONDE_OK ? 0 : 1;
}
