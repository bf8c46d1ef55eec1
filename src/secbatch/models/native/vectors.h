/* Sixteen float32 numbers at a time, with AVX-512. */
#ifndef SECBATCH_VECTORS_H
#define SECBATCH_VECTORS_H

#ifndef __x86_64__
#error "There is no such processor family here; attention takes torch's way."
#endif

#include <immintrin.h>
#include <pmmintrin.h>
#include <stdint.h>

#define LANES 16
/* Any compiler for this processor family builds it; whether it may run is asked in module.c. */
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma")))
#define INLINE AVX512 static inline __attribute__((always_inline))
#define UNROLLED _Pragma("GCC unroll 16")

/* The number format of a tensor; always a constant, so that each function is compiled once for each. */
typedef enum { FLOAT32, BFLOAT16 } format;

INLINE long size_of(format f) { return f == FLOAT32 ? 4 : 2; }

/* The first of sixteen numbers, and 0 for the others, whose memory is not touched. */
INLINE __m512 load_lanes(const char *from, __mmask16 lanes, format f)
{
    if (f == FLOAT32)
        return _mm512_maskz_loadu_ps(lanes, from);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, from)), 16));
}

/* To bfloat16 it rounds to the nearest, ties to even, as torch does. */
INLINE void store_lanes(char *to, __mmask16 lanes, __m512 x, format f)
{
    if (f == FLOAT32) {
        _mm512_mask_storeu_ps(to, lanes, x);
        return;
    }
    __m512i bits = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __m512i kept = _mm512_srli_epi32(rounded, 16);
    kept = _mm512_mask_set1_epi32(kept, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), 0x7fc0);
    _mm256_mask_storeu_epi16(to, lanes, _mm512_cvtepi32_epi16(kept));
}

static inline int smaller(int a, int b) { return a < b ? a : b; }
static inline int larger(int a, int b) { return a > b ? a : b; }
static inline long whole_vectors(long count) { return (count + LANES - 1) & -LANES; }

/* Lanes from `low` to before `high`, which may lie anywhere. */
INLINE __mmask16 lanes_between(int low, int high)
{
    return (__mmask16)(0xffffu << smaller(larger(low, 0), LANES) & 0xffffu >> smaller(larger(LANES - high, 0), LANES));
}

/* e^x for x <= 0, to 2 units in the last place, by the usual reduction to 2^n * e^r and a polynomial for e^r
   (Moshier, Cephes' expf). What is no number stays none: max gives its second operand then. */
INLINE __m512 exponential(__m512 x)
{
    x = _mm512_max_ps(_mm512_set1_ps(-87.3f), x);
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)), _MM_FROUND_TO_NEAREST_INT);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
    return _mm512_scalef_ps(p, n);
}

/* Sixteen rows of sixteen numbers become columns, in place: pairs, fours, and quarters of registers change places. */
INLINE void transpose(__m512 r[LANES])
{
    __m512 t[LANES];
    UNROLLED for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    UNROLLED for (int i = 0; i < 16; i += 4) {
        __m512d a = _mm512_castps_pd(t[i]), b = _mm512_castps_pd(t[i + 1]);
        __m512d c = _mm512_castps_pd(t[i + 2]), d = _mm512_castps_pd(t[i + 3]);
        r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    UNROLLED for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
    }
    UNROLLED for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
    }
}

#endif
