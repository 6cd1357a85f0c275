/* Products of a long matrix and a narrow one, as adapters of a low rank need them, one thread, float.

   rows:     out[m][j] = sum_k a[m][k] b[k][j]               m long, few j
   columns:  out[o][j] = sum_m a[m][o] b[m][j]               m long, few j
   sums:     out[m][o] = bias[o] + s sum_j a[m][j] b[j][o]   m long, at most GROUP j

   A library for all matrices packs its long factor, which costs more than the product here. Both forms read it once and as it lies: rows keep sums of
   16 parts in registers and add up the parts at the end, columns keep 16 columns of `a` side by side. Made for the 32 registers of AVX-512.
*/
#include <stdint.h>

#define LANES 16
#define GROUP 8   /* columns of the narrow factor at a time */
#define LONGEST 4096
#define DEPTH 192
#define UNROLL _Pragma("GCC unroll 32")
#define INLINE static inline __attribute__((always_inline))

/* 1 where these products are worth a call of their own */
int airloom_narrow(void) {
#if defined(__AVX512F__) && defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define HAS_NARROW
    return 1;
#endif
#endif
    return 0;
}

#ifdef HAS_NARROW
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef float half __attribute__((vector_size(2 * LANES), aligned(4)));
#define PICK __builtin_shufflevector

/* sums of neighbors, of two vectors side by side: in three steps the sums of eight vectors */
INLINE half folded(vec a) { return PICK(a, a, 0, 1, 2, 3, 4, 5, 6, 7) + PICK(a, a, 8, 9, 10, 11, 12, 13, 14, 15); }
INLINE half ones(half a, half b) { return PICK(a, b, 0, 8, 2, 10, 4, 12, 6, 14) + PICK(a, b, 1, 9, 3, 11, 5, 13, 7, 15); }
INLINE half twos(half a, half b) { return PICK(a, b, 0, 1, 8, 9, 4, 5, 12, 13) + PICK(a, b, 2, 3, 10, 11, 6, 7, 14, 15); }
INLINE half fours(half a, half b) { return PICK(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + PICK(a, b, 4, 5, 6, 7, 12, 13, 14, 15); }

/* R rows of `a` against the GROUP rows of `b` */
INLINE void dots(const int R, half *out, const float *a, int64_t row, const float *b, int64_t K) {
    vec sum[3 * GROUP];
    UNROLL for (int i = 0; i < R * GROUP; i++) sum[i] = (vec){0};
    for (int64_t k = 0; k < K; k += LANES) {
        vec x[3];
        UNROLL for (int r = 0; r < R; r++) x[r] = *(const vec *)(a + r * row + k);
        UNROLL for (int j = 0; j < GROUP; j++) {
            vec w = *(const vec *)(b + j * K + k);
            UNROLL for (int r = 0; r < R; r++) sum[r * GROUP + j] += x[r] * w;
        }
    }
    UNROLL for (int r = 0; r < R; r++) {
        vec *s = sum + r * GROUP;
        out[r] = fours(twos(ones(folded(s[0]), folded(s[1])), ones(folded(s[2]), folded(s[3]))),
                       twos(ones(folded(s[4]), folded(s[5])), ones(folded(s[6]), folded(s[7]))));
    }
}

/* K is a multiple of 16, at most LONGEST; b[k][j] lies at b[k * bk + j * bj] */
void airloom_narrow_rows(float *out, const float *a, int64_t row, const float *b, int64_t bk, int64_t bj, int64_t M, int64_t K, int64_t N) {
    float packed[GROUP * LONGEST];
    for (int64_t j = 0; j < N; j += GROUP) {
        int64_t width = N - j < GROUP ? N - j : GROUP;
        for (int64_t g = 0; g < GROUP; g++)
            for (int64_t k = 0; k < K; k++) packed[g * K + k] = g < width ? b[k * bk + (j + g) * bj] : 0.0f;
        for (int64_t m = 0; m < M;) {
            half found[3];
            int64_t R = m + 3 <= M ? 3 : 1;
            R == 3 ? dots(3, found, a + m * row, row, packed, K) : dots(1, found, a + m * row, row, packed, K);
            for (int64_t r = 0; r < R; r++) {
                float *at = out + (m + r) * N + j;
                if (width == GROUP) *(half *)at = found[r];
                else for (int64_t g = 0; g < width; g++) at[g] = found[r][g];
            }
            m += R;
        }
    }
}

/* out[g][o] (+)= sum_m b[m][g] a[m][o] for GROUP columns of `b` and V vectors of `a` */
INLINE void lines(const int V, float *out, int64_t O, int more, const float *b, const float *a, int64_t row, int64_t M) {
    vec sum[2 * GROUP];
    UNROLL for (int g = 0; g < GROUP; g++) UNROLL for (int v = 0; v < V; v++)
        sum[g * V + v] = more ? *(const vec *)(out + g * O + v * LANES) : (vec){0};
    for (int64_t m = 0; m < M; m++) {
        vec x[2];
        UNROLL for (int v = 0; v < V; v++) x[v] = *(const vec *)(a + m * row + v * LANES);
        UNROLL for (int g = 0; g < GROUP; g++) UNROLL for (int v = 0; v < V; v++) sum[g * V + v] += b[m * GROUP + g] * x[v];
    }
    UNROLL for (int g = 0; g < GROUP; g++) UNROLL for (int v = 0; v < V; v++) *(vec *)(out + g * O + v * LANES) = sum[g * V + v];
}

/* O is a multiple of 16, at most LONGEST; b[m][j] lies at b[m * bm + j * bj] */
void airloom_narrow_columns(float *out, const float *a, int64_t row, const float *b, int64_t bm, int64_t bj, int64_t M, int64_t O, int64_t N) {
    float found[GROUP * LONGEST], packed[GROUP * DEPTH];
    for (int64_t j = 0; j < N; j += GROUP) {
        int64_t width = N - j < GROUP ? N - j : GROUP;
        for (int64_t m = 0; m < M; m += DEPTH) {
            int64_t o = 0, depth = M - m < DEPTH ? M - m : DEPTH;
            for (int64_t k = 0; k < depth; k++)
                for (int64_t g = 0; g < GROUP; g++) packed[k * GROUP + g] = g < width ? b[(m + k) * bm + (j + g) * bj] : 0.0f;
            for (; o + 2 * LANES <= O; o += 2 * LANES) lines(2, found + o, O, m > 0, packed, a + m * row + o, row, depth);
            for (; o < O; o += LANES) lines(1, found + o, O, m > 0, packed, a + m * row + o, row, depth);
        }
        for (int64_t o = 0; o < O; o++)
            for (int64_t g = 0; g < width; g++) out[o * N + j + g] = found[g * O + o];
    }
}

/* out[r][o] = bias[o] + sum_j a[r][j] b[j][o] for R rows and V vectors; N is at most GROUP */
INLINE void spread(const int R, const int V, float *out, int64_t O, const float *bias, const float *a, int64_t am, int64_t aj, const float *b, int64_t N) {
    vec sum[16];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < V; v++) sum[r * V + v] = *(const vec *)(bias + v * LANES);
    for (int64_t j = 0; j < N; j++) {
        vec x[2];
        UNROLL for (int v = 0; v < V; v++) x[v] = *(const vec *)(b + j * O + v * LANES);
        UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < V; v++) sum[r * V + v] += a[r * am + j * aj] * x[v];
    }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < V; v++) *(vec *)(out + r * O + v * LANES) = sum[r * V + v];
}

/* O is a multiple of 16, at most LONGEST; N is at most GROUP; no bias: NULL */
void airloom_narrow_sums(float *out, const float *a, int64_t am, int64_t aj, const float *b, int64_t bj, int64_t bo, const float *bias, float s, int64_t M,
                         int64_t N, int64_t O) {
    float packed[(GROUP + 1) * LONGEST], *start = packed + GROUP * O;
    for (int64_t j = 0; j < N; j++)
        for (int64_t o = 0; o < O; o++) packed[j * O + o] = s * b[j * bj + o * bo];
    for (int64_t o = 0; o < O; o++) start[o] = bias ? bias[o] : 0.0f;
    for (int64_t m = 0; m < M; m += 8) {
        float *to = out + m * O;
        const float *from = a + m * am;
        int64_t o = 0;
        if (m + 8 <= M) {
            for (; o + 2 * LANES <= O; o += 2 * LANES) spread(8, 2, to + o, O, start + o, from, am, aj, packed + o, N);
            for (; o < O; o += LANES) spread(8, 1, to + o, O, start + o, from, am, aj, packed + o, N);
        } else
            for (int64_t r = 0; m + r < M; r++)
                for (o = 0; o < O; o += LANES) spread(1, 1, to + r * O + o, O, start + o, from + r * am, am, aj, packed + o, N);
    }
}
#else
void airloom_narrow_sums(float *out, const float *a, int64_t am, int64_t aj, const float *b, int64_t bj, int64_t bo, const float *bias, float s, int64_t M,
                         int64_t N, int64_t O) {}
void airloom_narrow_rows(float *out, const float *a, int64_t row, const float *b, int64_t bk, int64_t bj, int64_t M, int64_t K, int64_t N) {}
void airloom_narrow_columns(float *out, const float *a, int64_t row, const float *b, int64_t bm, int64_t bj, int64_t M, int64_t O, int64_t N) {}
#endif
