/* Attention of short sequences, a head of a sequence at a time: its keys are turned into columns, then six queries at a
   time find their scores, the scores' softmax, and the mixture of values, all of it in the nearest caches. Sums are
   float32 in both number formats, in an order that depends on the sequence's length and nothing else.
   (Vaswani et al. 2017, arXiv:1706.03762; blocks of registers as in Goto and van de Geijn 2008,
   doi:10.1145/1356052.1356053.) */
#include "attention.h"

#include <math.h>

#include "threads.h"
#include "vectors.h"

enum { QUERIES = 6 }; /* together; with four vectors of keys or values each they fill the registers */

/* What a thread works in. */
struct room {
    float columns[WIDEST * LONGEST];  /* keys: [dim, width], width the length up to whole vectors */
    float queries[QUERIES * WIDEST];  /* [QUERIES, dim], scaled */
    float scores[QUERIES * LONGEST];  /* [QUERIES, LONGEST] */
};

/* `rows` queries times `vectors` vectors of keys, both constants. */
INLINE void some_scores(const struct room *room, float *scores, int first, int width, int dim, int rows, int vectors)
{
    __m512 sums[QUERIES][4];
    UNROLLED for (int q = 0; q < rows; q++)
        UNROLLED for (int n = 0; n < vectors; n++)
            sums[q][n] = _mm512_setzero_ps();
    const float *columns = room->columns + first;
    for (int d = 0; d < dim; d++, columns += width) {
        __m512 keys[4];
        UNROLLED for (int n = 0; n < vectors; n++)
            keys[n] = _mm512_load_ps(columns + LANES * n);
        UNROLLED for (int q = 0; q < rows; q++) {
            __m512 query = _mm512_set1_ps(room->queries[q * dim + d]);
            UNROLLED for (int n = 0; n < vectors; n++)
                sums[q][n] = _mm512_fmadd_ps(query, keys[n], sums[q][n]);
        }
    }
    UNROLLED for (int q = 0; q < rows; q++)
        UNROLLED for (int n = 0; n < vectors; n++)
            _mm512_store_ps(scores + q * LONGEST + first + LANES * n, sums[q][n]);
}

/* Against the keys from `first`, a whole vector, to before `end`. */
INLINE void all_scores(const struct room *room, float *scores, int first, int end, int width, int dim, int rows)
{
    for (; first < end; first += 4 * LANES) {
        switch ((end - first + LANES - 1) / LANES) {
        case 1: some_scores(room, scores, first, width, dim, rows, 1); break;
        case 2: some_scores(room, scores, first, width, dim, rows, 2); break;
        case 3: some_scores(room, scores, first, width, dim, rows, 3); break;
        default: some_scores(room, scores, first, width, dim, rows, 4); break;
        }
    }
}

/* Of one query's scores from `low` to before `high`, in place; 0 elsewhere from `first` to before `end`. Returns their
   sum, by which they are not divided yet. */
INLINE float exponentials(float *scores, int first, int end, int low, int high)
{
    __m512 largest = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
    for (int k = first; k < end; k += LANES)
        largest = _mm512_mask_max_ps(largest, lanes_between(low - k, high - k), largest, _mm512_load_ps(scores + k));
    __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
    for (int k = first; k < end; k += LANES) {
        __m512 power = exponential(_mm512_sub_ps(_mm512_load_ps(scores + k), top));
        power = _mm512_maskz_mov_ps(lanes_between(low - k, high - k), power);
        _mm512_store_ps(scores + k, power);
        sum = _mm512_add_ps(sum, power);
    }
    return _mm512_reduce_add_ps(sum);
}

/* Where a head's tokens have their queries, keys and values, `stride` bytes apart, and their results, `out_stride`. */
struct head {
    const char *queries, *keys, *values;
    char *out;
    long stride, out_stride;
    int length, dim, window;
};

/* `vectors` vectors of the values from number `d` on, mixed for `rows` queries: all three are constants with the
   format. */
INLINE void some_mixtures(const struct room *room, const float *sums, const struct head *head, int query, int low,
                          int high, int d, int rows, int vectors, format f)
{
    __m512 mixed[QUERIES][4];
    UNROLLED for (int q = 0; q < rows; q++)
        UNROLLED for (int n = 0; n < vectors; n++)
            mixed[q][n] = _mm512_setzero_ps();
    const char *values = head->values + low * head->stride + d * size_of(f);
    for (int k = low; k < high; k++, values += head->stride) {
        __m512 value[4];
        UNROLLED for (int n = 0; n < vectors; n++)
            value[n] = load(values + n * LANES * size_of(f), f);
        UNROLLED for (int q = 0; q < rows; q++) {
            __m512 share = _mm512_set1_ps(room->scores[q * LONGEST + k]);
            UNROLLED for (int n = 0; n < vectors; n++)
                mixed[q][n] = _mm512_fmadd_ps(share, value[n], mixed[q][n]);
        }
    }
    char *out = head->out + query * head->out_stride + d * size_of(f);
    UNROLLED for (int q = 0; q < rows; q++) {
        __m512 divisor = _mm512_set1_ps(1.0f / sums[q]);
        UNROLLED for (int n = 0; n < vectors; n++)
            store(out + q * head->out_stride + n * LANES * size_of(f), _mm512_mul_ps(mixed[q][n], divisor), f);
    }
}

INLINE void all_mixtures(const struct room *room, const float *sums, const struct head *head, int query, int low,
                         int high, int rows, format f)
{
    int d = 0;
    for (; d + 4 * LANES <= head->dim; d += 4 * LANES)
        some_mixtures(room, sums, head, query, low, high, d, rows, 4, f);
    for (; d + 2 * LANES <= head->dim; d += 2 * LANES)
        some_mixtures(room, sums, head, query, low, high, d, rows, 2, f);
    if (d < head->dim)
        some_mixtures(room, sums, head, query, low, high, d, rows, 1, f);
}

/* Rows of one head lie far apart, which no processor foresees: those of the next one are asked for meanwhile. */
INLINE void fetch_next_head(const struct head *head, int token, format f)
{
    long width = head->dim * size_of(f), ahead = token * head->stride + width;
    for (long byte = 0; byte < width; byte += 64) {
        _mm_prefetch(head->keys + ahead + byte, _MM_HINT_T0);
        _mm_prefetch(head->queries + ahead + byte, _MM_HINT_T0);
        _mm_prefetch(head->values + ahead + byte, _MM_HINT_T0);
    }
}

/* `rows` queries, a constant with the format, from number `query` on. */
INLINE void some_queries(struct room *room, const struct head *head, int query, int rows, format f)
{
    int length = head->length, dim = head->dim, width = whole_vectors(length);
    __m512 scale = _mm512_set1_ps(1.0f / sqrtf((float)dim));
    float sums[QUERIES];
    for (int q = 0; q < rows; q++)
        fetch_next_head(head, query + q, f);
    for (int q = 0; q < rows; q++)
        for (int d = 0; d < dim; d += LANES) {
            __m512 numbers = load(head->queries + (query + q) * head->stride + d * size_of(f), f);
            _mm512_store_ps(room->queries + q * dim + d, _mm512_mul_ps(numbers, scale));
        }
    /* What some query sees, and the vectors that hold it. */
    int low = larger(query - head->window, 0), high = smaller(query + rows + head->window, length);
    int first = low & -LANES;
    all_scores(room, room->scores, first, high, width, dim, rows);
    for (int q = 0; q < rows; q++)
        sums[q] = exponentials(room->scores + q * LONGEST, first, high, larger(query + q - head->window, 0),
                               smaller(query + q + head->window + 1, length));
    all_mixtures(room, sums, head, query, low, high, rows, f);
}

INLINE void one_head(struct room *room, const struct head *head, format f)
{
    int length = head->length, dim = head->dim, width = whole_vectors(length);
    for (int k = 0; k < width; k += LANES)
        for (int d = 0; d < dim; d += LANES) {
            __m512 block[LANES];
            const char *keys = head->keys + k * head->stride + d * size_of(f);
            UNROLLED for (int i = 0; i < LANES; i++)
                block[i] = k + i < length ? load(keys + i * head->stride, f) : _mm512_setzero_ps();
            transpose(block);
            UNROLLED for (int i = 0; i < LANES; i++)
                _mm512_store_ps(room->columns + (d + i) * width + k, block[i]);
        }
    for (int query = 0; query < length; query += QUERIES) {
        switch (length - query) {
        case 1: some_queries(room, head, query, 1, f); break;
        case 2: some_queries(room, head, query, 2, f); break;
        case 3: some_queries(room, head, query, 3, f); break;
        case 4: some_queries(room, head, query, 4, f); break;
        case 5: some_queries(room, head, query, 5, f); break;
        default: some_queries(room, head, query, QUERIES, f); break;
        }
    }
}

struct attention {
    const char *qkv;
    char *out;
    const int32_t *bounds;
    int heads, dim, window;
    int heads_at_once; /* of a sequence, in one piece of work */
};

INLINE void some_heads(const struct attention *a, int piece, struct room *room, format f)
{
    int pieces = a->heads / a->heads_at_once, sequence = piece / pieces, begin = piece % pieces * a->heads_at_once;
    int first = a->bounds[sequence], length = a->bounds[sequence + 1] - first;
    long width = (long)a->heads * a->dim * size_of(f);
    for (int h = begin; h < begin + a->heads_at_once; h++) {
        const char *queries = a->qkv + 3 * width * first + h * a->dim * size_of(f);
        char *out = a->out + width * first + h * a->dim * size_of(f);
        struct head head = {queries, queries + width, queries + 2 * width, out,      3 * width,
                            width,   length,          a->dim,              a->window};
        one_head(room, &head, f);
    }
}

/* Weights of tokens that hardly count make products too small for float32's usual form, which take a hundred times as
   long: they are 0 here. The calling thread gets its own way of doing it back. */
INLINE void without_subnormals(const void *context, int piece, char *room, format f)
{
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | _MM_FLUSH_ZERO_ON | _MM_DENORMALS_ZERO_ON);
    some_heads(context, piece, (struct room *)room, f);
    _mm_setcsr(before);
}

AVX512 static void in_float32(const void *context, int piece, char *room)
{
    without_subnormals(context, piece, room, FLOAT32);
}

AVX512 static void in_bfloat16(const void *context, int piece, char *room)
{
    without_subnormals(context, piece, room, BFLOAT16);
}

int attend(const char *qkv, char *out, const int32_t *bounds, int sequences, int heads, int dim, int window,
           int bfloat16, int threads)
{
    /* A whole sequence is one piece, unless there are too few for all threads. */
    int heads_at_once = sequences >= 4 * threads ? heads : 1;
    struct attention a = {qkv, out, bounds, heads, dim, window, heads_at_once};
    return in_pieces(bfloat16 ? in_bfloat16 : in_float32, &a, sequences * (heads / heads_at_once), threads,
                     sizeof(struct room));
}
