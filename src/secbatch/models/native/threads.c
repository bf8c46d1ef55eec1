/* torch keeps a pool of OpenMP threads for each thread that calls it. A second pool beside it would fight with it for
   the processors (threads that wait for work spin), so work is given to the same one, through the entry that compilers
   generate calls to (https://gcc.gnu.org/onlinedocs/libgomp/Implementing-PARALLEL-construct.html; LLVM's and Intel's
   libraries have it, too). torch brings its own copy of the library and loads it for all to see. */
#define _GNU_SOURCE
#include "threads.h"

#include <dlfcn.h>
#include <stddef.h>
#include <stdlib.h>

typedef void (*parallel_region)(void (*)(void *), void *, unsigned, unsigned);

static parallel_region region(void)
{
    parallel_region found;
    *(void **)&found = dlsym(RTLD_DEFAULT, "GOMP_parallel"); /* POSIX's way around ISO C, which knows no such cast */
    return found;
}

int has_threads(void) { return region() != NULL; }

struct pool {
    void (*work)(const void *, long, char *);
    const void *context;
    long pieces, next, thread;
    char *room;
    long bytes;
};

static void take_pieces(void *shared)
{
    struct pool *pool = shared;
    char *room = pool->room + pool->bytes * __atomic_fetch_add(&pool->thread, 1, __ATOMIC_RELAXED);
    for (;;) {
        long piece = __atomic_fetch_add(&pool->next, 1, __ATOMIC_RELAXED);
        if (piece >= pool->pieces)
            return;
        pool->work(pool->context, piece, room);
    }
}

int in_pieces(void (*work)(const void *, long, char *), const void *context, long pieces, int threads, long bytes)
{
    parallel_region parallel = region();
    if (threads > pieces)
        threads = (int)pieces;
    if (threads < 1 || parallel == NULL)
        threads = 1;
    bytes = (bytes + 63) & ~63L;
    char *room = NULL;
    if (bytes != 0 && (room = aligned_alloc(64, (size_t)(bytes * threads))) == NULL)
        return -1;
    struct pool pool = {work, context, pieces, 0, 0, room, bytes};
    if (threads > 1)
        parallel(take_pieces, &pool, (unsigned)threads, 0);
    else
        take_pieces(&pool);
    free(room);
    return 0;
}
