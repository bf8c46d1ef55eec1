/* What attention over sequences and attention over a cache have in common: some queries of a head against its keys and
   values, all of it in the nearest caches. Sums are float32 in both number formats, in an order that depends on nothing
   but how many keys there are. (Vaswani et al. 2017, arXiv:1706.03762; blocks of registers as in Goto and van de Geijn
   2008, doi:10.1145/1356052.1356053.) */
#ifndef SECBATCH_ATTENTION_PARTS_H
#define SECBATCH_ATTENTION_PARTS_H

#include <math.h>
#include <stddef.h>

#include "vectors.h"

enum { QUERIES = 6 }; /* together; with four vectors of keys or values each they fill the registers */

/* A head of one sequence, of `dim` numbers; strides are bytes from one token to the next. Numbers of keys that are
   looked at are `places` [length], or all of them in order where that is NULL. */
struct head {
    const char *queries, *keys, *values;
    char *out;
    long query_stride, key_stride, out_stride;
    const int32_t *places;
    int length, dim;
    long width; /* length, up to whole vectors */
};

/* What a thread works in. */
struct room {
    float *columns; /* keys: [dim, width] */
    float *queries; /* [QUERIES, dim], scaled */
    float *scores;  /* [QUERIES, width] */
};

static inline long room_bytes(int dim, long width) { return 4 * (dim * width + QUERIES * (dim + width)); }

/* Each part begins on a 64 byte boundary, as `memory` does. */
static inline struct room room_in(char *memory, int dim, long width)
{
    struct room room = {(float *)memory, NULL, NULL};
    room.scores = room.columns + dim * width;
    room.queries = room.scores + QUERIES * width;
    return room;
}

INLINE long place_of(const struct head *head, int key) { return head->places == NULL ? key : head->places[key]; }

/* Sixteen keys become columns at a time. */
INLINE void keys_to_columns(struct room room, const struct head *head, format f)
{
    for (int k = 0; k < head->width; k += LANES)
        for (int d = 0; d < head->dim; d += LANES) {
            __m512 block[LANES];
            __mmask16 lanes = lanes_between(0, head->dim - d);
            UNROLLED for (int i = 0; i < LANES; i++)
                block[i] = k + i >= head->length
                               ? _mm512_setzero_ps()
                               : load_lanes(head->keys + place_of(head, k + i) * head->key_stride + d * size_of(f),
                                            lanes, f);
            transpose(block);
            UNROLLED for (int i = 0; i < LANES; i++)
                if (d + i < head->dim)
                    _mm512_store_ps(room.columns + (d + i) * head->width + k, block[i]);
        }
}

/* `rows` queries from number `query` on, times the usual factor. */
INLINE void scaled_queries(struct room room, const struct head *head, int query, int rows, format f)
{
    __m512 scale = _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_sqrt_ps(_mm512_set1_ps((float)head->dim)));
    for (int q = 0; q < rows; q++)
        for (int d = 0; d < head->dim; d += LANES) {
            __mmask16 lanes = lanes_between(0, head->dim - d);
            __m512 numbers = load_lanes(head->queries + (query + q) * head->query_stride + d * size_of(f), lanes, f);
            _mm512_mask_storeu_ps(room.queries + q * head->dim + d, lanes, _mm512_mul_ps(numbers, scale));
        }
}

/* `rows` queries times `vectors` vectors of keys, both constants. */
INLINE void some_scores(struct room room, const struct head *head, int first, int rows, int vectors)
{
    __m512 sums[QUERIES][4];
    UNROLLED for (int q = 0; q < rows; q++)
        UNROLLED for (int n = 0; n < vectors; n++)
            sums[q][n] = _mm512_setzero_ps();
    const float *columns = room.columns + first;
    for (int d = 0; d < head->dim; d++, columns += head->width) {
        __m512 keys[4];
        UNROLLED for (int n = 0; n < vectors; n++)
            keys[n] = _mm512_load_ps(columns + LANES * n);
        UNROLLED for (int q = 0; q < rows; q++) {
            __m512 query = _mm512_set1_ps(room.queries[q * head->dim + d]);
            UNROLLED for (int n = 0; n < vectors; n++)
                sums[q][n] = _mm512_fmadd_ps(query, keys[n], sums[q][n]);
        }
    }
    UNROLLED for (int q = 0; q < rows; q++)
        UNROLLED for (int n = 0; n < vectors; n++)
            _mm512_store_ps(room.scores + q * head->width + first + LANES * n, sums[q][n]);
}

/* Against the keys from `first`, a whole vector, to before `end`. */
INLINE void all_scores(struct room room, const struct head *head, int first, int end, int rows)
{
    for (; first < end; first += 4 * LANES) {
        switch ((end - first + LANES - 1) / LANES) {
        case 1: some_scores(room, head, first, rows, 1); break;
        case 2: some_scores(room, head, first, rows, 2); break;
        case 3: some_scores(room, head, first, rows, 3); break;
        default: some_scores(room, head, first, rows, 4); break;
        }
    }
}

/* `vectors` vectors of the values from number `d` on, the last of them with `lanes`, mixed for `rows` queries; rows,
   vectors and the format are constants. `sums`: what each query's weights, which are `room.scores`, are divided by. */
INLINE void some_mixtures(struct room room, const struct head *head, const float *sums, int query, int low, int high,
                          int d, __mmask16 lanes, int rows, int vectors, format f)
{
    __m512 mixed[QUERIES][4];
    UNROLLED for (int q = 0; q < rows; q++)
        UNROLLED for (int n = 0; n < vectors; n++)
            mixed[q][n] = _mm512_setzero_ps();
    for (int k = low; k < high; k++) {
        const char *values = head->values + place_of(head, k) * head->key_stride + d * size_of(f);
        __m512 value[4];
        UNROLLED for (int n = 0; n < vectors; n++)
            value[n] = load_lanes(values + n * LANES * size_of(f), n == vectors - 1 ? lanes : 0xffff, f);
        UNROLLED for (int q = 0; q < rows; q++) {
            __m512 share = _mm512_set1_ps(room.scores[q * head->width + k]);
            UNROLLED for (int n = 0; n < vectors; n++)
                mixed[q][n] = _mm512_fmadd_ps(share, value[n], mixed[q][n]);
        }
    }
    char *out = head->out + query * head->out_stride + d * size_of(f);
    UNROLLED for (int q = 0; q < rows; q++) {
        __m512 divisor = _mm512_set1_ps(1.0f / sums[q]);
        UNROLLED for (int n = 0; n < vectors; n++)
            store_lanes(out + q * head->out_stride + n * LANES * size_of(f), n == vectors - 1 ? lanes : 0xffff,
                        _mm512_mul_ps(mixed[q][n], divisor), f);
    }
}

/* Of the keys from `low` to before `high`. */
INLINE void all_mixtures(struct room room, const struct head *head, const float *sums, int query, int low, int high,
                         int rows, format f)
{
    for (int d = 0; d < head->dim; d += 4 * LANES) {
        int left = head->dim - d, vectors = (left + LANES - 1) / LANES;
        __mmask16 lanes = lanes_between(0, left - (smaller(vectors, 4) - 1) * LANES);
        switch (vectors) {
        case 1: some_mixtures(room, head, sums, query, low, high, d, lanes, rows, 1, f); break;
        case 2: some_mixtures(room, head, sums, query, low, high, d, lanes, rows, 2, f); break;
        case 3: some_mixtures(room, head, sums, query, low, high, d, lanes, rows, 3, f); break;
        default: some_mixtures(room, head, sums, query, low, high, d, lanes, rows, 4, f); break;
        }
    }
}

/* Runs `code` with `rows` as a constant from 1 to QUERIES. */
#define WITH_CONSTANT_ROWS(count, code)                                                                                \
    switch (count) {                                                                                                   \
    case 1: { enum { rows = 1 }; code; break; }                                                                        \
    case 2: { enum { rows = 2 }; code; break; }                                                                        \
    case 3: { enum { rows = 3 }; code; break; }                                                                        \
    case 4: { enum { rows = 4 }; code; break; }                                                                        \
    case 5: { enum { rows = 5 }; code; break; }                                                                        \
    default: { enum { rows = QUERIES }; code; break; }                                                                 \
    }

/* Weights of tokens that hardly count make products too small for float32's usual form, which take a hundred times as
   long: they are 0 between these two, and the thread gets its own way of doing it back. */
INLINE unsigned without_subnormals(void)
{
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | _MM_FLUSH_ZERO_ON | _MM_DENORMALS_ZERO_ON);
    return before;
}

INLINE void as_before(unsigned before) { _mm_setcsr(before); }

#endif
