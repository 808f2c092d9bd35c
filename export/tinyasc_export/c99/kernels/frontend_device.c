/* Float32 in a written order (tinyasc_export/frontend_device.py): the same bits on every core, if the compiler neither fuses
 * a multiplication with an addition (-ffp-contract=off) nor sorts sums anew. */
#include "tinyasc_frontend_device_TYPE.h"

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#if __clang_major__ >= 14
#pragma clang fp reassociate(off)
#endif
#endif
#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__)
#error "float has to be computed in the order written: build without -ffast-math and -fassociative-math"
#endif
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0 && __FLT_EVAL_METHOD__ != 16
#error "float has to be computed as float: build with SSE on 32-bit x86 (-msse2 -mfpmath=sse)"
#endif

typedef union {
    float value;
    uint32_t bits;
} float_bits;

/* Samples times the window, as n_fft / 2 complex points in bit-reversed order. */
static void load(const tinyasc_frontend_device_TYPE_args *args, const int16_t *ring, int32_t at, float *z)
{
    const int32_t points = args->n_fft / 2;
    const int32_t mask = args->n_fft - 1;
    const float *w = args->window;
    int32_t step = 1;
    int32_t to = 0;
    int32_t i;
    for (i = 0; i < points; i++) {
        int32_t bit = points >> 1;
        if (i == points / 2) {
            step = -1; /* the window falls as it rose */
        }
        z[2 * to] = (float)ring[(at + 2 * i) & mask] * w[0];
        z[2 * to + 1] = (float)ring[(at + 2 * i + 1) & mask] * w[step];
        w += 2 * step;
        while ((to & bit) != 0) {
            to ^= bit;
            bit >>= 1;
        }
        to |= bit;
    }
}

/* Cosine and sine of 2 pi k / n_fft for k below 3 n_fft / 4. */
static void root(const float *cosine, int32_t quarter, int32_t k, float *c, float *s)
{
    if (k < quarter) {
        *c = cosine[k];
        *s = cosine[quarter - k];
    } else if (k < 2 * quarter) {
        *c = -cosine[2 * quarter - k];
        *s = cosine[k - quarter];
    } else {
        *c = -cosine[k - 2 * quarter];
        *s = -cosine[3 * quarter - k];
    }
}

/* Transforms of four points, of which bit reversal has swapped the inner two. */
static void first_stage(float *z, int32_t points)
{
    int32_t i;
    for (i = 0; i < points / 4; i++) {
        const float p_re = z[0] + z[2];
        const float p_im = z[1] + z[3];
        const float q_re = z[0] - z[2];
        const float q_im = z[1] - z[3];
        const float r_re = z[4] + z[6];
        const float r_im = z[5] + z[7];
        const float s_re = z[4] - z[6];
        const float s_im = z[5] - z[7];
        z[0] = p_re + r_re;
        z[1] = p_im + r_im;
        z[2] = q_re + s_im;
        z[3] = q_im - s_re;
        z[4] = p_re - r_re;
        z[5] = p_im - r_im;
        z[6] = q_re - s_im;
        z[7] = q_im + s_re;
        z += 8;
    }
}

/* Transforms of two points. */
static void pairs_stage(float *z, int32_t points)
{
    int32_t i;
    for (i = 0; i < points / 2; i++) {
        const float re = z[2];
        const float im = z[3];
        z[2] = z[0] - re;
        z[3] = z[1] - im;
        z[0] = z[0] + re;
        z[1] = z[1] + im;
        z += 4;
    }
}

/* From transforms of `length` points to four times as many; step is points / (2 * length). */
static void stage(const float *cosine, float *z, int32_t points, int32_t length, int32_t step)
{
    const int32_t quarter = points / 2;
    int32_t j;
    for (j = 0; j < length; j++) {
        float c1;
        float s1;
        float c2;
        float s2;
        float c3;
        float s3;
        int32_t i;
        root(cosine, quarter, j * step, &c1, &s1);
        root(cosine, quarter, 2 * j * step, &c2, &s2);
        root(cosine, quarter, 3 * j * step, &c3, &s3);
        for (i = j; i < points; i += 4 * length) {
            float *a = z + 2 * i;
            float *c = a + 2 * length;
            float *b = c + 2 * length;
            float *d = b + 2 * length;
            const float b_re = b[0] * c1 + b[1] * s1;
            const float b_im = b[1] * c1 - b[0] * s1;
            const float c_re = c[0] * c2 + c[1] * s2;
            const float c_im = c[1] * c2 - c[0] * s2;
            const float d_re = d[0] * c3 + d[1] * s3;
            const float d_im = d[1] * c3 - d[0] * s3;
            const float p_re = a[0] + c_re;
            const float p_im = a[1] + c_im;
            const float q_re = a[0] - c_re;
            const float q_im = a[1] - c_im;
            const float r_re = b_re + d_re;
            const float r_im = b_im + d_im;
            const float s_re = b_re - d_re;
            const float s_im = b_im - d_im;
            a[0] = p_re + r_re;
            a[1] = p_im + r_im;
            c[0] = q_re + s_im;
            c[1] = q_im - s_re;
            b[0] = p_re - r_re;
            b[1] = p_im - r_im;
            d[0] = q_re - s_im;
            d[1] = q_im + s_re;
        }
    }
}

/* Power of bin k in place of the real part of point k, from points k and points - k. */
static void power(const float *cosine, float *z, int32_t points)
{
    const float whole = 2.0f * (z[0] + z[1]);
    const int32_t quarter = points / 2;
    int32_t k;
    z[0] = whole * whole;
    for (k = 1; k <= quarter; k++) {
        float *low = z + 2 * k;
        float *high = z + 2 * (points - k);
        const float c = cosine[k];
        const float s = cosine[quarter - k];
        const float a_re = low[0] + high[0];
        const float a_im = low[1] - high[1];
        const float b_re = low[1] + high[1];
        const float b_im = high[0] - low[0];
        const float t_re = b_re * c + b_im * s;
        const float t_im = b_im * c - b_re * s;
        const float x_re = a_re + t_re;
        const float x_im = a_im + t_im;
        const float y_re = a_re - t_re;
        const float y_im = a_im - t_im;
        low[0] = x_re * x_re + x_im * x_im;
        high[0] = y_re * y_re + y_im * y_im;
    }
}

static float log2_of(float x, const float *coefficients)
{
    float_bits u;
    float exponent;
    float f;
    float y;
    u.value = x;
    exponent = (float)((int32_t)(u.bits >> 23) - 127);
    u.bits = (u.bits & 0x7FFFFFu) | 0x3F800000u;
    f = u.value - 1.0f;
    y = coefficients[5];
    y = y * f + coefficients[4];
    y = y * f + coefficients[3];
    y = y * f + coefficients[2];
    y = y * f + coefficients[1];
    y = y * f + coefficients[0];
    return exponent + y * f;
}

static VALUE_T integer(const tinyasc_frontend_device_TYPE_args *args, int32_t band, float mel)
{
    const float most = (float)(VALUE_MAX - (VALUE_MIN));
    float units = mel;
    if (args->amin > 0.0f) {
        units = log2_of(mel < args->amin ? args->amin : mel, args->log2);
    }
    units = units * args->factor[band] + args->addend[band];
    if (units < 0.0f) {
        units = 0.0f;
    } else if (units > most) {
        units = most;
    }
    return (VALUE_T)((int32_t)units + (VALUE_MIN));
}

void tinyasc_frontend_device_TYPE(const tinyasc_frontend_device_TYPE_args *args, const int16_t *ring, int32_t at,
                                  float *work, VALUE_T *features)
{
    const int32_t points = args->n_fft / 2;
    const float *ratio = args->ratio;
    float rise_before = 0.0f;
    int32_t length;
    int32_t step;
    int32_t i;
    load(args, ring, at, work);
    if ((points & 0x5555) != 0) { /* a power of four */
        first_stage(work, points);
        length = 4;
        step = points / 8;
    } else {
        pairs_stage(work, points);
        length = 2;
        step = points / 4;
    }
    for (; length < points; length *= 4) {
        stage(args->cosine, work, points, length, step);
        step /= 4;
    }
    power(args->cosine, work, points);
    for (i = 0; i <= args->n_mels; i++) {
        float rise = 0.0f;
        float fall = 0.0f;
        int32_t k;
        for (k = args->begin[i]; k < args->begin[i + 1]; k++) {
            const float part = work[2 * k] * *ratio++;
            rise += part;
            fall += work[2 * k] - part;
        }
        if (i > 0) {
            features[i - 1] = integer(args, i - 1, (rise_before + fall) * args->height[i - 1]);
        }
        rise_before = rise;
    }
}

int tinyasc_frontend_device_TYPE_is_exact(void)
{
    /* Volatile, so that the processor computes and not the compiler. */
    volatile float factor = 1.000244140625f; /* 1 + 2^-12, whose square has a bit more than float32 */
    volatile float minus = -1.00048828125f;  /* -(1 + 2^-11), the square without that bit */
    volatile float large = 33554432.0f;      /* 2^25, to which 1 adds nothing */
    const float x = factor;
    const float y = factor;
    const float z = minus;
    const float w = large;
    return x * y + z == 0.0f && (x + w) - w == 0.0f;
}
