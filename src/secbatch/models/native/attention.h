#ifndef SECBATCH_ATTENTION_H
#define SECBATCH_ATTENTION_H

#include <stdint.h>

enum { LONGEST = 512 }; /* tokens of a sequence */
enum { WIDEST = 128 };  /* numbers of a head, of which there are whole vectors of 16 */

/* Attention within each of `sequences` sequences. `qkv`: [tokens, 3, heads, dim], `out`: [tokens, heads, dim];
   sequence s has the tokens from bounds[s] to bounds[s + 1] - 1. A token sees those at most `window` positions away.
   Returns 0, or -1 where memory ran out. */
int attend(const char *qkv, char *out, const int32_t *bounds, int sequences, int heads, int dim, int window,
           int bfloat16, int threads);

#endif
