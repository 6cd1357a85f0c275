/* Plain gradient descent on a chain of dense layers with ReLU between them and cross-entropy at the end, one thread, float.

   Activations lie feature by feature, samples side by side (aT [I][P], P = batch rounded up to lanes): then a forward pass and its backward pass are
   the same block of multiply-adds, with a weight broadcast against a vector of samples. The update runs over the weights once,
   w <- keep w + rate (g + c), and sums the squared gradient on the way. Padded samples have gradient zero.
*/
#include <math.h>
#include <stdint.h>

#define LANES 16
#define DEPTH 192
#define UNROLL _Pragma("GCC unroll 16")
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4)));

/* out[r][b] (+)= sum_k a[r * row + k * col] x[k][b] for R rows and V vectors of samples; begins with start[r], or with what is there */
INLINE void block(const int R, const int V, float *out, const float *start, int more, const float *a, int64_t row, int64_t col, const float *x,
                  int64_t K, int64_t P) {
    vec sum[16];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < V; v++)
        sum[r * V + v] = more ? *(const vec *)(out + r * P + v * LANES) : (vec){0} + (start ? start[r] : 0.0f);
    for (int64_t k = 0; k < K; k++) {
        vec s[2];
        UNROLL for (int v = 0; v < V; v++) s[v] = *(const vec *)(x + k * P + v * LANES);
        UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < V; v++) sum[r * V + v] += a[r * row + k * col] * s[v];
    }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < V; v++) *(vec *)(out + r * P + v * LANES) = sum[r * V + v];
}

/* DEPTH inputs at a time: their samples stay in the first cache while all rows pass */
static void product(float *out, const float *start, const float *a, int64_t rows, int64_t row, int64_t col, const float *x, int64_t K, int64_t P) {
    for (int64_t k = 0; k < K; k += DEPTH) {
        const float *ak = a + k * col, *xk = x + k * P;
        int64_t r, b = 0, n = K - k < DEPTH ? K - k : DEPTH;
        for (; b + 2 * LANES <= P; b += 2 * LANES) {
            for (r = 0; r + 8 <= rows; r += 8) block(8, 2, out + r * P + b, start ? start + r : 0, k > 0, ak + r * row, row, col, xk + b, n, P);
            for (; r < rows; r++) block(1, 2, out + r * P + b, start ? start + r : 0, k > 0, ak + r * row, row, col, xk + b, n, P);
        }
        for (; b < P; b += LANES) {
            for (r = 0; r + 16 <= rows; r += 16) block(16, 1, out + r * P + b, start ? start + r : 0, k > 0, ak + r * row, row, col, xk + b, n, P);
            for (; r < rows; r++) block(1, 1, out + r * P + b, start ? start + r : 0, k > 0, ak + r * row, row, col, xk + b, n, P);
        }
    }
}

/* w[r][i] <- keep w + rate (g + c) for R rows and V vectors of inputs, g[r][i] = sum_b d[r][b] a[b][i]; adds up g^2 */
INLINE void moved(const int R, const int V, float *w, const float *c, const float *d, const float *a, int64_t I, int64_t B, int64_t P, float keep,
                  float rate, vec *square) {
    vec g[16];
    UNROLL for (int n = 0; n < R * V; n++) g[n] = (vec){0};
    for (int64_t b = 0; b < B; b++) {
        vec s[4];
        UNROLL for (int v = 0; v < V; v++) s[v] = *(const vec *)(a + b * I + v * LANES);
        UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < V; v++) g[r * V + v] += d[r * P + b] * s[v];
    }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < V; v++) {
        vec *p = (vec *)(w + r * I + v * LANES), n = g[r * V + v];
        *square += n * n;
        if (c) n += *(const vec *)(c + r * I + v * LANES);
        *p = keep * *p + rate * n;
    }
}

/* 64 inputs at a time: their samples stay in the first cache while all rows of weights pass */
static float update(float *w, const float *c, const float *d, const float *a, int64_t O, int64_t I, int64_t B, int64_t P, float keep, float rate) {
    vec square = {0};
    float rest = 0.0f;
    int64_t whole = I - I % LANES;
    for (int64_t i = 0; i < whole;) {
        int V = i + 4 * LANES <= whole ? 4 : 1;
        for (int64_t o = 0; o < O;) {
            int R = o + 4 <= O ? 4 : 1;
            float *wi = w + o * I + i;
            const float *ci = c ? c + o * I + i : 0;
            if (R == 4 && V == 4) moved(4, 4, wi, ci, d + o * P, a + i, I, B, P, keep, rate, &square);
            else if (R == 4) moved(4, 1, wi, ci, d + o * P, a + i, I, B, P, keep, rate, &square);
            else if (V == 4) moved(1, 4, wi, ci, d + o * P, a + i, I, B, P, keep, rate, &square);
            else moved(1, 1, wi, ci, d + o * P, a + i, I, B, P, keep, rate, &square);
            o += R;
        }
        i += V * LANES;
    }
    for (int64_t o = 0; o < O; o++)
        for (int64_t i = whole; i < I; i++) {
            float g = 0.0f, *p = w + o * I + i;
            for (int64_t b = 0; b < B; b++) g += d[o * P + b] * a[b * I + i];
            rest += g * g;
            *p = keep * *p + rate * (g + (c ? c[o * I + i] : 0.0f));
        }
    for (int v = 0; v < LANES; v++) rest += square[v];
    return rest;
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define HAS_SHUFFLE
#endif
#endif

#ifdef HAS_SHUFFLE
#define BARE(...) __VA_ARGS__
#define PICK(a, b, list) __builtin_shufflevector(a, b, BARE list)
#define SWAP(S, LOW, HIGH)                        \
    UNROLL for (int i = 0; i < LANES; i++) if (!(i & S)) { \
        vec a = t[i], b = t[i + S];               \
        t[i] = PICK(a, b, LOW);                   \
        t[i + S] = PICK(a, b, HIGH);              \
    }

/* 16 x 16 values at a time: swap single values, then pairs, fours and eights, between rows as far apart */
static void tile(float *out, const float *in, int64_t from, int64_t to) {
    vec t[LANES];
    UNROLL for (int r = 0; r < LANES; r++) t[r] = *(const vec *)(in + r * from);
    SWAP(1, (0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30), (1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31))
    SWAP(2, (0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29), (2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31))
    SWAP(4, (0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27), (4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31))
    SWAP(8, (0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23), (8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
    UNROLL for (int c = 0; c < LANES; c++) *(vec *)(out + c * to) = t[c];
}
#endif

/* out[c][r] = in[r][c] */
static void turned(float *out, const float *in, int64_t rows, int64_t from, int64_t columns, int64_t to) {
    for (int64_t r = 0; r < rows; r += LANES) {
        int64_t c = 0;
#ifdef HAS_SHUFFLE
        if (r + LANES <= rows)
            for (; c + LANES <= columns; c += LANES) tile(out + c * to + r, in + r * from + c, from, to);
#endif
        for (; c < columns; c++)
            for (int64_t k = r; k < rows && k < r + LANES; k++) out[c * to + k] = in[k * from + c];
    }
}

/* Loss and its gradient by logits, in place: z [C][P] becomes (softmax - one) / B, and zero for padded samples. -1 for a label that is no class. */
static int cross_entropy(float *z, const int64_t *y, int64_t C, int64_t B, int64_t P, float *loss) {
    float total = 0.0f;
    for (int64_t b = 0; b < P; b++) {
        if (b >= B) {
            for (int64_t c = 0; c < C; c++) z[c * P + b] = 0.0f;
            continue;
        }
        if (y[b] < 0 || y[b] >= C) return -1;
        float most = z[b], sum = 0.0f, own = z[y[b] * P + b];
        for (int64_t c = 1; c < C; c++) most = z[c * P + b] > most ? z[c * P + b] : most;
        for (int64_t c = 0; c < C; c++) sum += z[c * P + b] = expf(z[c * P + b] - most);
        total += logf(sum) + most - own;
        for (int64_t c = 0; c < C; c++) z[c * P + b] = (z[c * P + b] / sum - (c == y[b])) / (float)B;
    }
    *loss = total / (float)B;
    return 0;
}

/* layers: n rows (inputs, outputs, offset of weight, offset of bias). work: for each layer inputs x (P + B) + outputs x P floats, all in turn. */
int airloom_dense(float *values, const int64_t *layers, int64_t n, const float *x, const int64_t *y, int64_t steps, int64_t B, const float *keep,
                  const float *rate, const float *c, float *work, float *losses, float *squares) {
    int64_t P = (B + LANES - 1) / LANES * LANES;
    for (int64_t s = 0; s < steps; s++, x += B * layers[0], y += B) {
        float *at = work, *row = work, *z = work;
        turned(work, x, B, layers[0], layers[0], P);
        for (int64_t i = 0; i < layers[0]; i++)
            for (int64_t b = B; b < P; b++) work[i * P + b] = 0.0f;
        for (int64_t l = 0; l < n; l++) {
            const int64_t *L = layers + 4 * l, I = L[0], O = L[1];
            row = at + I * P;
            if (l) turned(row, at, I, P, B, I);
            z = row + I * B;
            product(z, values + L[3], values + L[2], O, I, 1, at, I, P);
            if (l + 1 < n) {
                float *next = z + O * P;
                for (int64_t k = 0; k < O * P; k += LANES) {
                    vec u = *(vec *)(z + k);
                    *(vec *)(next + k) = (vec)((ints)u & (u > 0.0f));
                }
                at = next;
            }
        }
        if (cross_entropy(z, y, layers[4 * n - 3], B, P, losses + s)) return -1;
        float square = 0.0f;
        for (int64_t l = n - 1; l >= 0; l--) {
            const int64_t *L = layers + 4 * l, I = L[0], O = L[1];
            float *d = z; /* gradient by this layer's outputs */
            row = d - I * B;
            at = row - I * P;
            if (l) { /* before the weights move; it takes the place of the outputs below */
                z = at - I * P;
                product(z, 0, values + L[2], I, 1, I, d, O, P);
                for (int64_t k = 0; k < I * P; k += LANES) {
                    vec u = *(vec *)(at + k);
                    *(vec *)(z + k) = (vec)(*(ints *)(z + k) & (u > 0.0f));
                }
            }
            square += update(values + L[2], c ? c + L[2] : 0, d, l ? row : x, O, I, B, P, keep[s], rate[s]);
            for (int64_t o = 0; o < O; o++) {
                float g = 0.0f, *p = values + L[3] + o;
                for (int64_t b = 0; b < B; b++) g += d[o * P + b];
                square += g * g;
                *p = keep[s] * *p + rate[s] * (g + (c ? c[L[3] + o] : 0.0f));
            }
        }
        squares[s] = square;
    }
    return 0;
}
