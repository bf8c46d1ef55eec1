/* Attention of short sequences, a head of a sequence at a time. */
#include "attention.h"
#include "attention_parts.h"
#include "threads.h"

struct batch {
    const char *qkv;
    char *out;
    const int32_t *bounds;
    const float *bias;
    int heads, dim, window;
    int heads_at_once; /* of a sequence, in one piece of work */
};

/* Of one query's scores from `low` to before `high`, in place; 0 elsewhere from `first` to before `end`. Returns their
   sum, by which they are not divided yet. `bias`: what is added to each score before, or NULL. */
INLINE float exponentials(float *scores, const float *bias, int first, int end, int low, int high)
{
    __m512 largest = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
    for (int k = first; k < end; k += LANES) {
        __m512 score = _mm512_load_ps(scores + k);
        if (bias != NULL) {
            score = _mm512_add_ps(score, _mm512_loadu_ps(bias + k));
            _mm512_store_ps(scores + k, score);
        }
        largest = _mm512_mask_max_ps(largest, lanes_between(low - k, high - k), largest, score);
    }
    __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
    for (int k = first; k < end; k += LANES) {
        __m512 power = exponential(_mm512_sub_ps(_mm512_load_ps(scores + k), top));
        power = _mm512_maskz_mov_ps(lanes_between(low - k, high - k), power);
        _mm512_store_ps(scores + k, power);
        sum = _mm512_add_ps(sum, power);
    }
    return _mm512_reduce_add_ps(sum);
}

/* Rows of one head lie far apart, which no processor foresees: those of the next one are asked for meanwhile. */
INLINE void fetch_next_head(const struct head *head, int token, format f)
{
    long width = head->dim * size_of(f), ahead = token * head->key_stride + width;
    for (long byte = 0; byte < width; byte += 64) {
        _mm_prefetch(head->keys + ahead + byte, _MM_HINT_T0);
        _mm_prefetch(head->queries + ahead + byte, _MM_HINT_T0);
        _mm_prefetch(head->values + ahead + byte, _MM_HINT_T0);
    }
}

/* `rows` queries, a constant with the format, from number `query` on. */
INLINE void some_queries(struct room room, const struct head *head, const float *bias, int query, int window, int rows,
                         format f)
{
    float sums[QUERIES];
    for (int q = 0; q < rows; q++)
        fetch_next_head(head, query + q, f);
    scaled_queries(room, head, query, rows, f);
    /* What some query sees, and the vectors that hold it. */
    int low = larger(query - window, 0), high = smaller(query + rows + window, head->length), first = low & -LANES;
    all_scores(room, head, first, high, rows);
    for (int q = 0; q < rows; q++)
        sums[q] = exponentials(room.scores + q * head->width, bias == NULL ? NULL : bias + BIAS_MIDDLE - (query + q),
                               first, high, larger(query + q - window, 0),
                               smaller(query + q + window + 1, head->length));
    all_mixtures(room, head, sums, query, low, high, rows, f);
}

INLINE void some_heads(const struct batch *b, long piece, char *memory, format f)
{
    int pieces = b->heads / b->heads_at_once, begin = (int)(piece % pieces) * b->heads_at_once;
    long sequence = piece / pieces;
    int first = b->bounds[sequence], length = b->bounds[sequence + 1] - first;
    long width = size_of(f) * b->heads * b->dim;
    struct room room = room_in(memory, b->dim, whole_vectors(length));
    unsigned before = without_subnormals();
    for (int h = begin; h < begin + b->heads_at_once; h++) {
        long ahead = size_of(f) * h * b->dim;
        const char *queries = b->qkv + 3 * width * first + ahead;
        struct head head = {.queries = queries,
                            .keys = queries + width,
                            .values = queries + 2 * width,
                            .out = b->out + width * first + ahead,
                            .query_stride = 3 * width,
                            .key_stride = 3 * width,
                            .out_stride = width,
                            .length = length,
                            .dim = b->dim,
                            .width = whole_vectors(length)};
        const float *bias = b->bias == NULL ? NULL : b->bias + (long)h * BIAS_WIDTH;
        keys_to_columns(room, &head, f);
        for (int query = 0; query < length; query += QUERIES)
            WITH_CONSTANT_ROWS(length - query, some_queries(room, &head, bias, query, b->window, rows, f))
    }
    as_before(before);
}

AVX512 static void in_float32(const void *batch, long piece, char *room) { some_heads(batch, piece, room, FLOAT32); }

AVX512 static void in_bfloat16(const void *batch, long piece, char *room) { some_heads(batch, piece, room, BFLOAT16); }

int attend_within(const char *qkv, char *out, const int32_t *bounds, const float *bias, int sequences, int heads,
                  int dim, int window, int bfloat16, int threads)
{
    int longest = 0;
    for (int s = 0; s < sequences; s++)
        longest = larger(longest, bounds[s + 1] - bounds[s]);
    struct batch batch = {qkv, out, bounds, bias, heads, dim, window, heads};
    if (sequences < 4 * threads) /* too few for all threads to be at work until the end */
        batch.heads_at_once = 1;
    return in_pieces(bfloat16 ? in_bfloat16 : in_float32, &batch, (long)sequences * (heads / batch.heads_at_once),
                     threads, room_bytes(dim, whole_vectors(longest)));
}
