/* out = x · σ(x), and its backward, for n numbers; WRONG leaves the product rule's second term out. */
#include <math.h>

#define SWISH(NAME, REAL, EXP)                                                      \
    void swish_##NAME(const REAL *x, REAL *out, long n) {                           \
        for (long i = 0; i < n; i++) out[i] = x[i] / (1 + EXP(-x[i]));              \
    }                                                                               \
    void swish_backward_##NAME(const REAL *dout, const REAL *x, REAL *dx, long n) { \
        for (long i = 0; i < n; i++) {                                              \
            REAL gate = 1 / (1 + EXP(-x[i]));                                       \
            REAL slope = x[i] * gate * (1 - gate);                                  \
            dx[i] = dout[i] * (gate + SECOND(slope));                               \
        }                                                                           \
    }

#ifdef WRONG
#define SECOND(slope) (0 * (slope))
#else
#define SECOND(slope) (slope)
#endif

SWISH(float, float, expf)
SWISH(double, double, exp)
