/* Attention of single steps of generation: a few queries a row over a cache of keys and values. What no query of a row
   sees is not read. */
#include "attention.h"
#include "attention_parts.h"
#include "threads.h"

struct batch {
    struct cache_attention a;
    int heads_at_once; /* of a row, in one piece of work */
};

/* What the queries of a row see, after what the heads work in. */
struct sight {
    int32_t *places; /* numbers of the keys that any query sees */
    __mmask16 *seen; /* [queries, vectors of places]: which of them each sees */
};

static long sight_bytes(int queries, int keys)
{
    return 4 * whole_vectors(keys) + 2 * queries * (whole_vectors(keys) / LANES);
}

/* Whether a mask's number is 0, of either sign, and not minus infinity. */
INLINE int is_seen(const char *number, format f)
{
    return f == FLOAT32 ? *(const uint32_t *)number <= 1u << 31 : *(const uint16_t *)number <= 1u << 15;
}

/* Returns how many places there are. */
INLINE int look(const struct cache_attention *a, const char *mask, struct sight sight, format f)
{
    int found = 0, masks = a->mask_step == 0 ? 1 : a->queries;
    long vectors = whole_vectors(a->keys) / LANES;
    for (long i = 0; i < masks * vectors; i++)
        sight.seen[i] = 0;
    for (int k = 0; k < a->keys; k++) {
        int any = 0;
        for (int q = 0; q < masks; q++)
            if (is_seen(mask + q * a->mask_step + k * size_of(f), f)) {
                sight.seen[q * vectors + found / LANES] |= (__mmask16)(1u << found % LANES);
                any = 1;
            }
        sight.places[found] = k;
        found += any;
    }
    return found;
}

/* Of a single query, whose keys need not become columns: sixteen products of vectors, which are added up together. */
INLINE void scores_of_one(struct room room, const struct head *head, format f)
{
    for (int k = 0; k < head->length; k += LANES) {
        __m512 products[LANES];
        UNROLLED for (int i = 0; i < LANES; i++)
            products[i] = _mm512_setzero_ps();
        for (int d = 0; d < head->dim; d += LANES) {
            __mmask16 lanes = lanes_between(0, head->dim - d);
            __m512 query = _mm512_maskz_loadu_ps(lanes, room.queries + d);
            UNROLLED for (int i = 0; i < LANES; i++) {
                const char *key = head->keys + place_of(head, smaller(k + i, head->length - 1)) * head->key_stride;
                products[i] = _mm512_fmadd_ps(load_lanes(key + d * size_of(f), lanes, f), query, products[i]);
            }
        }
        transpose(products);
        UNROLLED for (int half = LANES / 2; half > 0; half /= 2)
            UNROLLED for (int i = 0; i < half; i++)
                products[i] = _mm512_add_ps(products[i], products[i + half]);
        _mm512_store_ps(room.scores + k, products[0]);
    }
}

/* Of one query's scores, in place; returns their sum, by which they are not divided yet. Whoever sees nothing gets
   weights of 0 and a sum of 1. */
INLINE float exponentials(float *scores, int length, const __mmask16 *seen)
{
    __m512 largest = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
    for (int k = 0; k < length; k += LANES)
        largest = _mm512_mask_max_ps(largest, seen[k / LANES], largest, _mm512_load_ps(scores + k));
    __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
    int any = 0;
    for (int k = 0; k < length; k += LANES) {
        __m512 power = exponential(_mm512_sub_ps(_mm512_load_ps(scores + k), top));
        power = _mm512_maskz_mov_ps(seen[k / LANES], power);
        _mm512_store_ps(scores + k, power);
        sum = _mm512_add_ps(sum, power);
        any |= seen[k / LANES];
    }
    return any ? _mm512_reduce_add_ps(sum) : 1.0f;
}

/* `single`, a constant as well: it is a row's only query, and the keys are no columns. */
INLINE void some_queries(struct room room, const struct head *head, struct sight sight, int masks, long vectors,
                         int query, int single, int rows, format f)
{
    float sums[QUERIES];
    scaled_queries(room, head, query, rows, f);
    if (single)
        scores_of_one(room, head, f);
    else
        all_scores(room, head, 0, head->length, rows);
    for (int q = 0; q < rows; q++)
        sums[q] = exponentials(room.scores + q * head->width, head->length,
                               sight.seen + (masks == 1 ? 0 : query + q) * vectors);
    all_mixtures(room, head, sums, query, 0, head->length, rows, f);
}

INLINE void some_heads(const struct batch *batch, long piece, char *memory, format f)
{
    const struct cache_attention *a = &batch->a;
    int pieces = a->heads / batch->heads_at_once, begin = (int)(piece % pieces) * batch->heads_at_once;
    int masks = a->mask_step == 0 ? 1 : a->queries;
    long row = piece / pieces, vectors = whole_vectors(a->keys) / LANES;
    struct sight sight = {(int32_t *)(memory + room_bytes(a->dim, whole_vectors(a->keys))), NULL};
    sight.seen = (__mmask16 *)(sight.places + whole_vectors(a->keys));
    int length = look(a, a->mask + row * a->mask_row, sight, f);
    struct room room = room_in(memory, a->dim, whole_vectors(length));
    unsigned before = without_subnormals();
    for (int h = begin; h < begin + batch->heads_at_once; h++) {
        const char *keys = a->pairs + row * a->pair_row + h * a->pair_head;
        struct head head = {.queries = a->query + row * a->query_row + h * a->query_head,
                            .keys = keys,
                            .values = keys + size_of(f) * a->dim,
                            .out = a->out + (row * a->queries * a->heads + h) * a->dim * size_of(f),
                            .query_stride = a->query_step,
                            .key_stride = size_of(f) * 2 * a->dim,
                            .out_stride = size_of(f) * a->heads * a->dim,
                            .places = sight.places,
                            .length = length,
                            .dim = a->dim,
                            .width = whole_vectors(length)};
        if (a->queries == 1) {
            some_queries(room, &head, sight, masks, vectors, 0, 1, 1, f);
            continue;
        }
        keys_to_columns(room, &head, f);
        for (int query = 0; query < a->queries; query += QUERIES)
            WITH_CONSTANT_ROWS(a->queries - query, some_queries(room, &head, sight, masks, vectors, query, 0, rows, f))
    }
    as_before(before);
}

AVX512 static void in_float32(const void *batch, long piece, char *room) { some_heads(batch, piece, room, FLOAT32); }

AVX512 static void in_bfloat16(const void *batch, long piece, char *room) { some_heads(batch, piece, room, BFLOAT16); }

int attend_cache(const struct cache_attention *a, int bfloat16, int threads)
{
    struct batch batch = {*a, a->heads};
    if (a->rows < 4 * threads) /* too few for all threads to be at work until the end */
        batch.heads_at_once = 1;
    return in_pieces(bfloat16 ? in_bfloat16 : in_float32, &batch, (long)a->rows * (a->heads / batch.heads_at_once),
                     threads, room_bytes(a->dim, whole_vectors(a->keys)) + sight_bytes(a->queries, a->keys));
}
