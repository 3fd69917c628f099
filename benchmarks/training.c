/* The lecture's training step in plain loops, as a compiler takes them: what torch is compared with.

   Row-major arrays: C (v, e), W1 (k, h) with k = block · e, b1, gain, bias (h), W2 (h, v), b2 (v).
   A step writes to them in place. Returns the loss of the last step. */

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { N = 32, BLOCK = 3, E = 10, K = BLOCK * E, H = 200, V = 27 };

static float x[N][K], xhat[N][H], h[N][H], d[N][V], du[N][H], dx[N][K];
static float dW1[K][H], dW2[H][V], db1[H], db2[V], dgain[H], dbias[H], inv_std[H], dC[V][E];

float train(float C[V][E], float W1[K][H], float *b1, float W2[H][V], float *b2, float *gain,
            float *bias, const int64_t (*context)[N][BLOCK], const int64_t (*target)[N],
            int64_t steps, float lr) {
  float loss = 0;
  for (int64_t s = 0; s < steps; s++) {
    for (int i = 0; i < N; i++)
      for (int b = 0; b < BLOCK; b++)
        memcpy(&x[i][b * E], C[context[s][i][b]], E * sizeof(float));

    for (int i = 0; i < N; i++) { /* hprebn, in xhat */
      memcpy(xhat[i], b1, sizeof xhat[i]);
      for (int k = 0; k < K; k++)
        for (int j = 0; j < H; j++) xhat[i][j] += x[i][k] * W1[k][j];
    }
    float mean[H] = {0}, var[H] = {0};
    for (int i = 0; i < N; i++)
      for (int j = 0; j < H; j++) mean[j] += xhat[i][j] / N;
    for (int i = 0; i < N; i++)
      for (int j = 0; j < H; j++) {
        xhat[i][j] -= mean[j];
        var[j] += xhat[i][j] * xhat[i][j] / (N - 1);
      }
    for (int j = 0; j < H; j++) inv_std[j] = 1 / sqrtf(var[j] + 1e-5f);
    for (int i = 0; i < N; i++)
      for (int j = 0; j < H; j++) {
        xhat[i][j] *= inv_std[j];
        h[i][j] = tanhf(gain[j] * xhat[i][j] + bias[j]);
      }

    loss = 0;
    for (int i = 0; i < N; i++) { /* logits, then softmax, then dlogits, in d */
      memcpy(d[i], b2, sizeof d[i]);
      for (int j = 0; j < H; j++)
        for (int c = 0; c < V; c++) d[i][c] += h[i][j] * W2[j][c];
      float most = d[i][0], sum = 0;
      for (int c = 1; c < V; c++) most = fmaxf(most, d[i][c]);
      const float picked = d[i][target[s][i]] - most;
      for (int c = 0; c < V; c++) sum += d[i][c] = expf(d[i][c] - most);
      loss += (logf(sum) - picked) / N;
      for (int c = 0; c < V; c++) d[i][c] /= sum * N;
      d[i][target[s][i]] -= 1.0f / N;
    }

    memset(dW2, 0, sizeof dW2), memset(db2, 0, sizeof db2);
    memset(dgain, 0, sizeof dgain), memset(dbias, 0, sizeof dbias);
    for (int i = 0; i < N; i++) {
      for (int c = 0; c < V; c++) db2[c] += d[i][c];
      for (int j = 0; j < H; j++) {
        float dh = 0;
        for (int c = 0; c < V; c++) {
          dW2[j][c] += h[i][j] * d[i][c];
          dh += d[i][c] * W2[j][c];
        }
        du[i][j] = dh * (1 - h[i][j] * h[i][j]);
      }
      for (int j = 0; j < H; j++) {
        dbias[j] += du[i][j];
        dgain[j] += du[i][j] * xhat[i][j];
      }
    }
    memset(dW1, 0, sizeof dW1), memset(db1, 0, sizeof db1), memset(dC, 0, sizeof dC);
    for (int i = 0; i < N; i++) {
      for (int j = 0; j < H; j++) {
        du[i][j] = gain[j] * inv_std[j] *
                   (du[i][j] - dbias[j] / N - xhat[i][j] * dgain[j] / (N - 1));
        db1[j] += du[i][j];
      }
      for (int k = 0; k < K; k++) {
        float sum = 0;
        for (int j = 0; j < H; j++) {
          dW1[k][j] += x[i][k] * du[i][j];
          sum += du[i][j] * W1[k][j];
        }
        dx[i][k] = sum;
      }
      for (int b = 0; b < BLOCK; b++)
        for (int e = 0; e < E; e++) dC[context[s][i][b]][e] += dx[i][b * E + e];
    }

    for (int k = 0; k < K; k++)
      for (int j = 0; j < H; j++) W1[k][j] -= lr * dW1[k][j];
    for (int j = 0; j < H; j++) {
      b1[j] -= lr * db1[j];
      gain[j] -= lr * dgain[j];
      bias[j] -= lr * dbias[j];
      for (int c = 0; c < V; c++) W2[j][c] -= lr * dW2[j][c];
    }
    for (int c = 0; c < V; c++) {
      b2[c] -= lr * db2[c];
      for (int e = 0; e < E; e++) C[c][e] -= lr * dC[c][e];
    }
  }
  return loss;
}
