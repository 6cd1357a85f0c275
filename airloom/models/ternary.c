/* A ternary matrix times one vector, one thread, float.

   y[o] = bias[o] + sum_g scale[o][g] * sum_{i in g} t[o][i] x[i],      t in {-1, 0, 1}

   A row lies as words of 32 bits for 16 columns each: which are +1 (low half), which are -1 (high half): 2 bits per weight. Groups are whole numbers of such blocks.
   With AVX-512 a word is the mask of an addition as it is; elsewhere lanes are selected by their bit. Several rows at a time share the loads of x.
*/
#include <stdint.h>

#define BLOCK 16
#define UNROLL _Pragma("GCC unroll 16")
#define INLINE static inline __attribute__((always_inline))

#ifdef __AVX512F__
#include <immintrin.h>
#define LANES 16
#define ROWS 4
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
/* sum + t x for the LANES columns of piece p of a block; word: which are +1 (low half), which are -1 (high half) */
INLINE vec added(vec sum, vec x, uint32_t word, int p) {
    __m512 s = _mm512_mask_add_ps((__m512)sum, (uint16_t)word, (__m512)sum, (__m512)x);
    return (vec)_mm512_mask_sub_ps(s, (uint16_t)(word >> 16), s, (__m512)x);
}
#else
#define ROWS 2
#ifdef __AVX2__
#define LANES 8
#define BITS {1, 2, 4, 8, 16, 32, 64, 128}
#else
#define LANES 4
#define BITS {1, 2, 4, 8}
#endif
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4)));
INLINE vec added(vec sum, vec x, uint32_t word, const int p) {
    const ints bit = (ints)BITS << (p * LANES), all = (ints){0} + (int32_t)word;
    const ints up = (all & bit) == bit, down = (all & (bit << BLOCK)) == (bit << BLOCK);
    return sum + (vec)((ints)x & up) - (vec)((ints)x & down);
}
#endif
#define PIECES (BLOCK / LANES)

INLINE void rows(const int R, float *y, const uint32_t *codes, const float *scale, const float *bias, const float *x, int64_t blocks,
                 int64_t per_group) {
    const int64_t groups = blocks / per_group;
    vec total[ROWS];
    UNROLL for (int r = 0; r < R; r++) total[r] = (vec){0};
    for (int64_t g = 0; g < groups; g++) {
        vec sum[ROWS * PIECES];
        UNROLL for (int r = 0; r < R * PIECES; r++) sum[r] = (vec){0};
        for (int64_t b = g * per_group; b < (g + 1) * per_group; b++) {
            UNROLL for (int p = 0; p < PIECES; p++) {
                const vec v = *(const vec *)(x + b * BLOCK + p * LANES);
                UNROLL for (int r = 0; r < R; r++) {
                    sum[r * PIECES + p] = added(sum[r * PIECES + p], v, codes[r * blocks + b], p);
                }
            }
        }
        UNROLL for (int r = 0; r < R; r++) UNROLL for (int p = 0; p < PIECES; p++) total[r] += sum[r * PIECES + p] * scale[r * groups + g];
    }
    UNROLL for (int r = 0; r < R; r++) {
        float s = bias ? bias[r] : 0.0f;
        for (int l = 0; l < LANES; l++) s += total[r][l];
        y[r] = s;
    }
}

/* codes [out][blocks], scale [out][blocks / per_group], bias [out] or null, x [16 blocks], y [out] */
void airloom_ternary(float *y, const uint32_t *codes, const float *scale, const float *bias, const float *x, int64_t out, int64_t blocks,
                     int64_t per_group) {
    const int64_t groups = blocks / per_group;
    int64_t o = 0;
    for (; o + ROWS <= out; o += ROWS) rows(ROWS, y + o, codes + o * blocks, scale + o * groups, bias ? bias + o : 0, x, blocks, per_group);
    for (; o < out; o++) rows(1, y + o, codes + o * blocks, scale + o * groups, bias ? bias + o : 0, x, blocks, per_group);
}
