/* Integers alone (tinyasc_export/frontend_fixed.py). No product needs more than 32 bits; the mel sums take 64. */
#include "tinyasc_frontend_fixed_TYPE.h"

/* Right shifts of negative numbers have to keep the sign; C leaves that to the compiler, and all known ones do. */
typedef char tinyasc_frontend_shift[((int32_t)-1 >> 1) == -1 ? 1 : -1];

/* mantissa * 2^exponent; the mantissa lies in 2^30 .. 2^31, or is 0. */
typedef struct {
    uint32_t mantissa;
    int32_t exponent;
} number;

/* x * q15 / 32768, rounded, halves up, from products of 16 by 16 bits. */
static inline int32_t multiply(int32_t x, int32_t q15)
{
    const int32_t high = x >> 16;
    const int32_t low = x & 0xFFFF;
    return 2 * (high * q15) + ((low * q15 + 16384) >> 15);
}

/* How far left the loudest sample can be shifted in 16 bits. */
static int32_t headroom(const int16_t *ring, int32_t n)
{
    int32_t loudest = 0;
    int32_t raised = 0;
    int32_t i;
    for (i = 0; i < n; i++) {
        const int32_t x = ring[i];
        loudest |= x ^ (x >> 15);
    }
    while (raised < 15 && loudest < 16384) {
        loudest *= 2;
        raised++;
    }
    return raised;
}

/* Samples times the window, as n_fft / 2 complex points in bit-reversed order. */
static void load(const tinyasc_frontend_fixed_TYPE_args *args, const int16_t *ring, int32_t at, int32_t raised,
                 int32_t *z)
{
    const int32_t points = args->n_fft / 2;
    const int32_t mask = args->n_fft - 1;
    const int32_t gain = (int32_t)1 << raised;
    const int32_t down = 16 - args->fraction;
    const int32_t half = (int32_t)1 << (down - 1);
    const uint16_t *w = args->window;
    int32_t step = 1;
    int32_t to = 0;
    int32_t i;
    for (i = 0; i < points; i++) {
        int32_t bit = points >> 1;
        if (i == points / 2) {
            step = -1; /* the window falls as it rose */
        }
        z[2 * to] = (ring[(at + 2 * i) & mask] * gain * w[0] + half) >> down;
        z[2 * to + 1] = (ring[(at + 2 * i + 1) & mask] * gain * w[step] + half) >> down;
        w += 2 * step;
        while ((to & bit) != 0) {
            to ^= bit;
            bit >>= 1;
        }
        to |= bit;
    }
}

/* Cosine and sine of 2 pi k / n_fft for k below 3 n_fft / 4. */
static void root(const uint16_t *cosine, int32_t quarter, int32_t k, int32_t *c, int32_t *s)
{
    if (k < quarter) {
        *c = cosine[k];
        *s = cosine[quarter - k];
    } else if (k < 2 * quarter) {
        *c = -(int32_t)cosine[2 * quarter - k];
        *s = cosine[k - quarter];
    } else {
        *c = -(int32_t)cosine[k - 2 * quarter];
        *s = -(int32_t)cosine[3 * quarter - k];
    }
}

/* Transforms of four points, of which bit reversal has swapped the inner two. */
static void first_stage(int32_t *z, int32_t points)
{
    int32_t i;
    for (i = 0; i < points / 4; i++) {
        const int32_t p_re = z[0] + z[2];
        const int32_t p_im = z[1] + z[3];
        const int32_t q_re = z[0] - z[2];
        const int32_t q_im = z[1] - z[3];
        const int32_t r_re = z[4] + z[6];
        const int32_t r_im = z[5] + z[7];
        const int32_t s_re = z[4] - z[6];
        const int32_t s_im = z[5] - z[7];
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
static void pairs_stage(int32_t *z, int32_t points)
{
    int32_t i;
    for (i = 0; i < points / 2; i++) {
        const int32_t re = z[2];
        const int32_t im = z[3];
        z[2] = z[0] - re;
        z[3] = z[1] - im;
        z[0] = z[0] + re;
        z[1] = z[1] + im;
        z += 4;
    }
}

/* From transforms of `length` points to four times as many; step is points / (2 * length). */
static void stage(const uint16_t *cosine, int32_t *z, int32_t points, int32_t length, int32_t step)
{
    const int32_t quarter = points / 2;
    int32_t j;
    for (j = 0; j < length; j++) {
        int32_t c1;
        int32_t s1;
        int32_t c2;
        int32_t s2;
        int32_t c3;
        int32_t s3;
        int32_t i;
        root(cosine, quarter, j * step, &c1, &s1);
        root(cosine, quarter, 2 * j * step, &c2, &s2);
        root(cosine, quarter, 3 * j * step, &c3, &s3);
        for (i = j; i < points; i += 4 * length) {
            int32_t *a = z + 2 * i;
            int32_t *c = a + 2 * length;
            int32_t *b = c + 2 * length;
            int32_t *d = b + 2 * length;
            const int32_t b_re = multiply(b[0], c1) + multiply(b[1], s1);
            const int32_t b_im = multiply(b[1], c1) - multiply(b[0], s1);
            const int32_t c_re = multiply(c[0], c2) + multiply(c[1], s2);
            const int32_t c_im = multiply(c[1], c2) - multiply(c[0], s2);
            const int32_t d_re = multiply(d[0], c3) + multiply(d[1], s3);
            const int32_t d_im = multiply(d[1], c3) - multiply(d[0], s3);
            const int32_t p_re = a[0] + c_re;
            const int32_t p_im = a[1] + c_im;
            const int32_t q_re = a[0] - c_re;
            const int32_t q_im = a[1] - c_im;
            const int32_t r_re = b_re + d_re;
            const int32_t r_im = b_im + d_im;
            const int32_t s_re = b_re - d_re;
            const int32_t s_im = b_im - d_im;
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

/* Twice the real transform's bin k (or its conjugate) in place of point k, from points k and points - k. */
static void split(const uint16_t *cosine, int32_t *z, int32_t points)
{
    const int32_t quarter = points / 2;
    int32_t k;
    z[0] = 2 * (z[0] + z[1]);
    z[1] = 0;
    for (k = 1; k <= quarter; k++) {
        int32_t *low = z + 2 * k;
        int32_t *high = z + 2 * (points - k);
        const int32_t c = cosine[k];
        const int32_t s = cosine[quarter - k];
        const int32_t a_re = low[0] + high[0];
        const int32_t a_im = low[1] - high[1];
        const int32_t b_re = low[1] + high[1];
        const int32_t b_im = high[0] - low[0];
        const int32_t t_re = multiply(b_re, c) + multiply(b_im, s);
        const int32_t t_im = multiply(b_im, c) - multiply(b_re, s);
        low[0] = a_re + t_re;
        low[1] = a_im + t_im;
        high[0] = a_re - t_re;
        high[1] = a_im - t_im;
    }
}

/* How far right the largest of 2 n values has to be shifted to take 16 bits with its sign. */
static int32_t excess(const int32_t *z, int32_t n)
{
    int32_t largest = 0;
    int32_t down = 0;
    int32_t i;
    for (i = 0; i < 2 * n; i++) {
        largest |= z[i] ^ (z[i] >> 31);
    }
    while (largest >= 32768) {
        largest >>= 1;
        down++;
    }
    return down;
}

static number normal(uint64_t total, int32_t exponent)
{
    number y;
    while ((total >> 31) != 0) {
        total >>= 1;
        exponent++;
    }
    y.mantissa = (uint32_t)total;
    if (y.mantissa != 0) {
        while (y.mantissa < ((uint32_t)1 << 23)) {
            y.mantissa <<= 8;
            exponent -= 8;
        }
        while (y.mantissa < ((uint32_t)1 << 30)) {
            y.mantissa <<= 1;
            exponent--;
        }
    }
    y.exponent = exponent;
    return y;
}

static number add(number a, number b)
{
    int32_t apart;
    if (a.mantissa == 0) {
        return b;
    }
    if (b.mantissa == 0) {
        return a;
    }
    if (a.exponent < b.exponent) {
        const number c = a;
        a = b;
        b = c;
    }
    apart = a.exponent - b.exponent;
    a.mantissa += apart < 31 ? b.mantissa >> apart : 0;
    if ((a.mantissa >> 31) != 0) {
        a.mantissa >>= 1;
        a.exponent++;
    }
    return a;
}

static VALUE_T integer(const tinyasc_frontend_fixed_TYPE_args *args, int32_t band, number mel, int32_t raised)
{
    int32_t level = 0; /* octaves above the floor, Q16 */
    int32_t units;
    if (mel.mantissa != 0) {
        const int32_t *step = args->log2 + ((mel.mantissa >> 24) & 63);
        const int32_t between = (int32_t)((mel.mantissa >> 8) & 0xFFFF);
        level = (mel.exponent + 30 - 2 * raised) * 65536 + step[0] + (((step[1] - step[0]) * between) >> 16);
        level -= args->floor[band];
        if (level < 0) {
            level = 0;
        }
    }
    units = (multiply(level, args->factor[band]) + args->addend[band]) >> args->shift;
    if (units < (VALUE_MIN)) {
        units = VALUE_MIN;
    } else if (units > VALUE_MAX) {
        units = VALUE_MAX;
    }
    return (VALUE_T)units;
}

void tinyasc_frontend_fixed_TYPE(const tinyasc_frontend_fixed_TYPE_args *args, const int16_t *ring, int32_t at,
                                 int32_t *work, VALUE_T *features)
{
    const int32_t points = args->n_fft / 2;
    const int32_t raised = headroom(ring, args->n_fft);
    const uint16_t *ratio = args->ratio;
    number before = {0, 0};
    int32_t length;
    int32_t step;
    int32_t i;
    load(args, ring, at, raised, work);
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
    split(args->cosine, work, points);
    for (i = 0; i <= args->n_mels; i++) {
        const int32_t *z = work + 2 * args->begin[i];
        const int32_t bins = args->begin[i + 1] - args->begin[i];
        const int32_t down = excess(z, bins);
        const int32_t half = ((int32_t)1 << down) >> 1;
        uint64_t rise = 0;
        uint64_t fall = 0;
        int32_t k;
        for (k = 0; k < bins; k++) {
            const int32_t re = (z[0] + half) >> down;
            const int32_t im = (z[1] + half) >> down;
            const uint32_t power = (uint32_t)(re * re) + (uint32_t)(im * im);
            const uint32_t part = (power >> 16) * *ratio + (((power & 0xFFFF) * *ratio) >> 16);
            rise += part;
            fall += power - part;
            z += 2;
            ratio++;
        }
        if (i > 0) {
            features[i - 1] = integer(args, i - 1, add(before, normal(fall, 2 * down)), raised);
        }
        before = normal(rise, 2 * down);
    }
}
