#ifndef SECBATCH_ATTENTION_H
#define SECBATCH_ATTENTION_H

#include <stdint.h>

/* Raised with every change of what the functions below, or those of the module, take or mean: native/__init__.py knows
   the same number, so that it calls no code that an earlier installation left. */
enum { INTERFACE = 2 };

/* All return 0, or -1 where memory ran out. Number formats are float32 or bfloat16. */

/* Attention within each of `sequences` sequences. `qkv`: [tokens, 3, heads, dim], `out`: [tokens, heads, dim];
   sequence s has the tokens from bounds[s] to bounds[s + 1] - 1. A token sees those at most `window` positions away.
   `bias`: [heads, BIAS_WIDTH] or NULL; bias[BIAS_MIDDLE + j - i] is added to the score that query i gives to key j, so
   no sequence may have more than BIAS_MIDDLE tokens. */
enum { BIAS_MIDDLE = 512, BIAS_WIDTH = 2 * BIAS_MIDDLE + 16 };
int attend_within(const char *qkv, char *out, const int32_t *bounds, const float *bias, int sequences, int heads,
                  int dim, int window, int bfloat16, int threads);

/* `query`: [rows, heads, queries, dim] over `pairs`: [rows, heads, keys, 2 * dim], keys and values side by side, whose
   lines are contiguous. `mask`: [rows, queries or 1, keys] of 0 and minus infinity. `out`: [rows, queries, heads, dim].
   Strides are bytes; mask_step is 0 where all queries of a row see the same. */
struct cache_attention {
    const char *query, *pairs, *mask;
    char *out;
    int rows, heads, queries, keys, dim;
    long query_row, query_head, query_step, pair_row, pair_head, mask_row, mask_step;
};
int attend_cache(const struct cache_attention *a, int bfloat16, int threads);

/* What follows attention, and all else in a layer of BERT's kind: `x` + `residual`, [rows, width], normed to `out`. The
   scale `weight` and the shift `bias` [width] are in the same number format. */
struct sum_norm {
    const char *x, *residual, *weight, *bias;
    char *out;
    long rows;
    int width;
    float eps;
};
int norm_of_sum(const struct sum_norm *s, int bfloat16, int threads);

#endif
