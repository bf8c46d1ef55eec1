/* Layer norm of a sum (Ba et al. 2016, arXiv:1607.06450), a row after another: numbers are read once and written once,
   and the sum is nowhere rounded to the tensors' format. */
#include "attention.h"
#include "threads.h"
#include "vectors.h"

enum { ROWS = 16, /* in one piece of work */ PARTS = 4 /* sums that do not wait for each other */ };

INLINE float sum_of(const __m512 parts[PARTS])
{
    return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(parts[0], parts[1]), _mm512_add_ps(parts[2], parts[3])));
}

INLINE void norm_row(const struct sum_norm *s, long row, float *sums, format f)
{
    long start = row * s->width * size_of(f);
    __m512 parts[PARTS] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int d = 0; d < s->width; d += PARTS * LANES)
        UNROLLED for (int i = 0; i < PARTS; i++) {
            int place = d + i * LANES;
            __mmask16 lanes = lanes_between(0, s->width - place);
            long ahead = start + place * size_of(f);
            __m512 sum = _mm512_add_ps(load_lanes(s->x + ahead, lanes, f), load_lanes(s->residual + ahead, lanes, f));
            _mm512_store_ps(sums + place, sum);
            parts[i] = _mm512_add_ps(parts[i], sum);
        }
    __m512 mean = _mm512_set1_ps(sum_of(parts) / (float)s->width);
    UNROLLED for (int i = 0; i < PARTS; i++)
        parts[i] = _mm512_setzero_ps();
    for (int d = 0; d < s->width; d += PARTS * LANES)
        UNROLLED for (int i = 0; i < PARTS; i++) {
            int place = d + i * LANES;
            __m512 away = _mm512_maskz_sub_ps(lanes_between(0, s->width - place), _mm512_load_ps(sums + place), mean);
            parts[i] = _mm512_fmadd_ps(away, away, parts[i]);
        }
    float variance = sum_of(parts) / (float)s->width;
    __m512 deviation = _mm512_sqrt_ps(_mm512_set1_ps(variance + s->eps));
    __m512 scale = _mm512_div_ps(_mm512_set1_ps(1.0f), deviation);
    for (int d = 0; d < s->width; d += LANES) {
        __mmask16 lanes = lanes_between(0, s->width - d);
        __m512 normed = _mm512_mul_ps(_mm512_sub_ps(_mm512_load_ps(sums + d), mean), scale);
        __m512 weight = load_lanes(s->weight + d * size_of(f), lanes, f);
        __m512 bias = load_lanes(s->bias + d * size_of(f), lanes, f);
        store_lanes(s->out + start + d * size_of(f), lanes, _mm512_fmadd_ps(normed, weight, bias), f);
    }
}

INLINE void some_rows(const struct sum_norm *s, long piece, char *room, format f)
{
    long end = (piece + 1) * ROWS < s->rows ? (piece + 1) * ROWS : s->rows;
    for (long row = piece * ROWS; row < end; row++)
        norm_row(s, row, (float *)room, f);
}

AVX512 static void in_float32(const void *norm, long piece, char *room) { some_rows(norm, piece, room, FLOAT32); }

AVX512 static void in_bfloat16(const void *norm, long piece, char *room) { some_rows(norm, piece, room, BFLOAT16); }

int norm_of_sum(const struct sum_norm *s, int bfloat16, int threads)
{
    long room = 4L * (s->width + PARTS * LANES);
    return in_pieces(bfloat16 ? in_bfloat16 : in_float32, s, (s->rows + ROWS - 1) / ROWS, threads, room);
}
