/* Plain gradient descent on a chain of dense layers with ReLU between them and cross-entropy at the end, one thread, float.

   Activations lie feature by feature, samples side by side (aT [I][P], P = batch rounded up to lanes): then a forward pass and its backward pass are
   the same block of multiply-adds, with a weight broadcast against a vector of samples. The update runs over the weights once,
   w <- keep w + rate (g + c), and sums the squared gradient on the way. Padded samples have gradient zero.
*/
#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 16
#define UNROLL _Pragma("GCC unroll 16")
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4)));

/* out[r][b] = start[r] + sum_k a[r * row + k * col] x[k][b] for R rows and V vectors of samples */
INLINE void block(const int R, const int V, float *out, const float *start, const float *a, int64_t row, int64_t col, const float *x, int64_t K,
                  int64_t P) {
    vec sum[16];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < V; v++) sum[r * V + v] = (vec){0} + (start ? start[r] : 0.0f);
    for (int64_t k = 0; k < K; k++) {
        vec s[2];
        UNROLL for (int v = 0; v < V; v++) s[v] = *(const vec *)(x + k * P + v * LANES);
        UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < V; v++) sum[r * V + v] += a[r * row + k * col] * s[v];
    }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < V; v++) *(vec *)(out + r * P + v * LANES) = sum[r * V + v];
}

static void product(float *out, const float *start, const float *a, int64_t rows, int64_t row, int64_t col, const float *x, int64_t K, int64_t P) {
    int64_t r, b = 0;
    for (; b + 2 * LANES <= P; b += 2 * LANES) {
        for (r = 0; r + 8 <= rows; r += 8) block(8, 2, out + r * P + b, start ? start + r : 0, a + r * row, row, col, x + b, K, P);
        for (; r < rows; r++) block(1, 2, out + r * P + b, start ? start + r : 0, a + r * row, row, col, x + b, K, P);
    }
    for (; b < P; b += LANES) {
        for (r = 0; r + 16 <= rows; r += 16) block(16, 1, out + r * P + b, start ? start + r : 0, a + r * row, row, col, x + b, K, P);
        for (; r < rows; r++) block(1, 1, out + r * P + b, start ? start + r : 0, a + r * row, row, col, x + b, K, P);
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

static float update(float *w, const float *c, const float *d, const float *a, int64_t O, int64_t I, int64_t B, int64_t P, float keep, float rate) {
    vec square = {0};
    float rest = 0.0f;
    int64_t whole = I - I % LANES;
    for (int64_t o = 0; o < O;) {
        int R = o + 4 <= O ? 4 : 1;
        int64_t i = 0;
        for (; i + 4 * LANES <= whole; i += 4 * LANES) {
            const float *ci = c ? c + o * I + i : 0;
            if (R == 4) moved(4, 4, w + o * I + i, ci, d + o * P, a + i, I, B, P, keep, rate, &square);
            else moved(1, 4, w + o * I + i, ci, d + o * P, a + i, I, B, P, keep, rate, &square);
        }
        for (; i < whole; i += LANES) {
            const float *ci = c ? c + o * I + i : 0;
            if (R == 4) moved(4, 1, w + o * I + i, ci, d + o * P, a + i, I, B, P, keep, rate, &square);
            else moved(1, 1, w + o * I + i, ci, d + o * P, a + i, I, B, P, keep, rate, &square);
        }
        for (int r = 0; r < R; r++)
            for (i = whole; i < I; i++) {
                float g = 0.0f, *p = w + (o + r) * I + i;
                for (int64_t b = 0; b < B; b++) g += d[(o + r) * P + b] * a[b * I + i];
                rest += g * g;
                *p = keep * *p + rate * (g + (c ? c[(o + r) * I + i] : 0.0f));
            }
        o += R;
    }
    for (int v = 0; v < LANES; v++) rest += square[v];
    return rest;
}

static void turned(float *out, const float *in, int64_t rows, int64_t from, int64_t columns, int64_t to) {
    for (int64_t r = 0; r < rows; r += LANES)
        for (int64_t c = 0; c < columns; c++)
            for (int64_t k = r; k < rows && k < r + LANES; k++) out[c * to + k] = in[k * from + c];
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
            else memcpy(row, x, sizeof(float) * (size_t)(B * I));
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
            square += update(values + L[2], c ? c + L[2] : 0, d, row, O, I, B, P, keep[s], rate[s]);
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
