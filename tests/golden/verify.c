/* A port of two pairs to C, verified with golden cases.

       cc -O2 verify.c -o verify -lm && ./verify FILE.safetensors...

   A file begins with the length of its header in eight bytes, little-endian. The header is JSON; the
   numbers follow. The exit status is 1 where a number is further off than its tolerance. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *path;
    char *header;
    const char *data;
} Case;

/* A number of the metadata, such as "option:eps=1e-05". */
static double number(const Case *c, const char *prefix, const char *name) {
    char key[64];
    snprintf(key, sizeof key, " %s:%s=", prefix, name);
    const char *at = strstr(c->header, key);
    if (!at) {
        fprintf(stderr, "%s: no%s\n", c->path, key);
        exit(2);
    }
    return atof(at + strlen(key));
}

/* A tensor as doubles, with its sizes; NULL where the case has none. */
static double *tensor(const Case *c, const char *name, long *rows, long *columns) {
    char key[64];
    snprintf(key, sizeof key, "\"%s\":{", name);
    const char *at = strstr(c->header, key);
    if (!at) return NULL;
    int wide = strncmp(strstr(at, "\"dtype\":\"") + 9, "F64", 3) == 0;
    long sizes[2] = {1, 1}, begin, rank = 0;
    char *shape = strstr(at, "\"shape\":[") + 9;
    while (*shape != ']' && rank < 2) {
        sizes[rank++] = strtol(shape, &shape, 10);
        if (*shape == ',') shape++;
    }
    sscanf(strstr(at, "\"data_offsets\":[") + 16, "%ld", &begin);
    *rows = sizes[0], *columns = sizes[1];
    double *numbers = malloc(sizes[0] * sizes[1] * sizeof *numbers);
    for (long i = 0; i < sizes[0] * sizes[1]; i++) {
        double full;
        float narrow;
        memcpy(&full, c->data + begin + (wide ? 8 * i : 0), 8);
        memcpy(&narrow, c->data + begin + (wide ? 0 : 4 * i), 4);
        numbers[i] = wide ? full : narrow;
    }
    return numbers;
}

static int verify(const Case *c, const char *name, const double *got, long count) {
    long rows, columns;
    double *expected = tensor(c, name, &rows, &columns), allowed = number(c, "atol", name);
    for (long i = 0; i < count; i++)
        if (!(fabs(got[i] - expected[i]) <= allowed)) {
            printf("%s: %s[%ld] is %.9g, expected %.9g within %.3g\n", c->path, name, i, got[i],
                   expected[i], allowed);
            return 1;
        }
    return 0;
}

/* out = tanh(x), dx = (1 - out²) dout */
static int verify_tanh(const Case *c) {
    long n, m;
    double *x = tensor(c, "x", &n, &m), *dout = tensor(c, "dout", &n, &m);
    double *out = malloc(n * m * sizeof *out), *dx = malloc(n * m * sizeof *dx);
    for (long i = 0; i < n * m; i++) {
        out[i] = tanh(x[i]);
#ifdef WRONG_TANH
        dx[i] = (1 - out[i]) * dout[i];
#else
        dx[i] = (1 - out[i] * out[i]) * dout[i];
#endif
    }
    return verify(c, "out", out, n * m) | verify(c, "dx", dx, n * m);
}

/* Batch normalization of a matrix, column by column; gain and bias may be missing. */
static int verify_batchnorm(const Case *c) {
    long n, m, ignored, one;
    double *x = tensor(c, "x", &n, &m), *dout = tensor(c, "dout", &n, &m);
    double *gain = tensor(c, "gain", &ignored, &one), *bias = tensor(c, "bias", &ignored, &one);
    double eps = number(c, "option", "eps");
    double free_count = n - number(c, "option", "correction");
    double *out = malloc(n * m * sizeof *out), *dx = malloc(n * m * sizeof *dx);
    double *dgain = malloc(m * sizeof *dgain), *dbias = malloc(m * sizeof *dbias);
    for (long j = 0; j < m; j++) {
        double mean = 0, var = 0, scale = gain ? gain[j] : 1;
        for (long i = 0; i < n; i++) mean += x[i * m + j] / n;
        for (long i = 0; i < n; i++) var += pow(x[i * m + j] - mean, 2) / free_count;
        double inv_std = 1 / sqrt(var + eps);
        dgain[j] = dbias[j] = 0;
        for (long i = 0; i < n; i++) {
            double xhat = (x[i * m + j] - mean) * inv_std;
            out[i * m + j] = scale * xhat + (bias ? bias[j] : 0);
            dgain[j] += dout[i * m + j] * xhat;
            dbias[j] += dout[i * m + j];
        }
        for (long i = 0; i < n; i++) {
            double xhat = (x[i * m + j] - mean) * inv_std;
#ifdef WRONG_BATCHNORM
            double through_mean = 0;
#else
            double through_mean = dbias[j] / n;
#endif
            dx[i * m + j] = scale * inv_std *
                            (dout[i * m + j] - through_mean - xhat * dgain[j] / free_count);
        }
    }
    int wrong = verify(c, "out", out, n * m) | verify(c, "dx", dx, n * m);
    return gain ? wrong | verify(c, "dgain", dgain, m) | verify(c, "dbias", dbias, m) : wrong;
}

int main(int count, char **paths) {
    int wrong = 0;
    for (int i = 1; i < count; i++) {
        FILE *file = fopen(paths[i], "rb");
        uint64_t length;
        if (!file || fread(&length, 8, 1, file) != 1) {
            fprintf(stderr, "%s: cannot be read\n", paths[i]);
            return 2;
        }
        fseek(file, 0, SEEK_END);
        long size = ftell(file) - 8;
        char *content = calloc(size + 9, 1);
        fseek(file, 8, SEEK_SET);
        if (fread(content, 1, size, file) != (size_t)size) return 2;
        fclose(file);
        char *header = calloc(length + 1, 1);
        memcpy(header, content, length);
        Case c = {paths[i], header, content + length};
        int is_tanh = strstr(header, "pair=tanh ") != NULL;
        wrong |= is_tanh ? verify_tanh(&c) : verify_batchnorm(&c);
    }
    printf("%d cases, %s\n", count - 1, wrong ? "some wrong" : "all right");
    return wrong;
}
