/* usage: start id|store FOLDER
 *
 * Meets the other ranks by an id that rank 0 makes, or through a store; both travel as files in FOLDER.
 */
#include "check.h"
#include <time.h>
#include <unistd.h>

static const char *folder;

static void path(char *out, size_t room, const char *key, const char *end) {
    int length = snprintf(out, room, "%s/", folder);
    for (; *key; key++) length += snprintf(out + length, room - (size_t)length, "%02x", (unsigned char)*key);
    snprintf(out + length, room - (size_t)length, "%s", end);
}

/* Another process sees the whole value or none. */
static int set(void *context, const char *key, const void *value, size_t bytes) {
    char made[4096], named[4096];
    char unique[64];
    CHECK(context == &folder);
    snprintf(unique, sizeof unique, ".%ld", (long)getpid());
    path(made, sizeof made, key, unique);
    path(named, sizeof named, key, "");
    FILE *file = fopen(made, "wb");
    if (file == NULL || fwrite(value, 1, bytes, file) != bytes || fclose(file) != 0) return 1;
    return rename(made, named);
}

static int get(void *context, const char *key, void *value, size_t *bytes, int64_t timeout_ms) {
    char named[4096];
    struct timespec start, now, pause = {0, 1000000};
    CHECK(context == &folder);
    path(named, sizeof named, key, "");
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (;;) {
        FILE *file = fopen(named, "rb");
        if (file != NULL) {
            *bytes = fread(value, 1, *bytes, file);
            fclose(file);
            return 0;
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
        if ((now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000 > timeout_ms) return 1;
        nanosleep(&pause, NULL);
    }
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    folder = argv[2];
    ronde_config config = RONDE_CONFIG_INIT;
    ronde_store store = {sizeof store, &folder, set, get};
    ronde_group *group;
    ronde_id id;
    config.rank = atoi(getenv("RONDE_RANK"));
    config.ranks = atoi(getenv("RONDE_SIZE"));
    config.connect_timeout_ms = 30000;
    if (strcmp(argv[1], "store") == 0) {
        config.store = &store;
    } else {
        size_t bytes = sizeof id.bytes;
        if (config.rank == 0) {
            OK(ronde_id_create(NULL, &id));
            CHECK(set(&folder, "id", id.bytes, bytes) == 0);
        } else {
            CHECK(get(&folder, "id", id.bytes, &bytes, 30000) == 0 && bytes == sizeof id.bytes);
        }
        config.id = &id;
    }
    OK(ronde_join(&config, &group));
    int32_t x = 1 << ronde_rank(group);
    CHECK(ronde_rank(group) == config.rank && ronde_size(group) == config.ranks);
    OK(ronde_all_reduce(group, &x, &x, 1, RONDE_I32, RONDE_SUM, NULL, NULL));
    CHECK(x == (1 << config.ranks) - 1);
    leave(group);
    return 0;
}
