#include "tinyasc_conv_1x1_TYPE.h"

#include "tinyasc_clamp_RANGE.h"
#include "tinyasc_REQUANTIZE.h"

/* Two outputs at two positions at once, so that every value that is loaded is used twice. A last odd one is computed
 * twice and stored once. */
void tinyasc_conv_1x1_TYPE(const tinyasc_conv_1x1_TYPE_args *args, const VALUE_T *x, VALUE_T *y, int32_t positions)
{
    const int32_t inputs = args->inputs;
    const int32_t outputs = args->outputs;
    const int32_t zero = args->zero;
    const int32_t low = args->low;
    const int8_t *weights = args->weights;
    int32_t o;
    for (o = 0; o < outputs; o += 2) {
        const int32_t o1 = o + 1 < outputs ? o + 1 : o;
        const ACC_T bias0 = args->bias[o];
        const ACC_T bias1 = args->bias[o1];
        const int32_t multiplier0 = args->multiplier[o];
        const int32_t multiplier1 = args->multiplier[o1];
        const int32_t shift0 = args->shift[o];
        const int32_t shift1 = args->shift[o1];
        const VALUE_T *row = x;
        VALUE_T *out = y + o;
        int32_t left = positions;
        for (;;) {
            const int8_t *w0 = weights;
            const int8_t *w1 = o1 > o ? weights + inputs : weights;
            const VALUE_T *x0 = row;
            const VALUE_T *x1 = left > 1 ? row + inputs : row;
            ACC_T sum00 = bias0;
            ACC_T sum01 = bias0;
            ACC_T sum10 = bias1;
            ACC_T sum11 = bias1;
            int32_t k;
            for (k = inputs >> 2; k > 0; k--) {
                sum00 += w0[0] * x0[0];
                sum01 += w0[0] * x1[0];
                sum10 += w1[0] * x0[0];
                sum11 += w1[0] * x1[0];
                sum00 += w0[1] * x0[1];
                sum01 += w0[1] * x1[1];
                sum10 += w1[1] * x0[1];
                sum11 += w1[1] * x1[1];
                sum00 += w0[2] * x0[2];
                sum01 += w0[2] * x1[2];
                sum10 += w1[2] * x0[2];
                sum11 += w1[2] * x1[2];
                sum00 += w0[3] * x0[3];
                sum01 += w0[3] * x1[3];
                sum10 += w1[3] * x0[3];
                sum11 += w1[3] * x1[3];
                w0 += 4;
                w1 += 4;
                x0 += 4;
                x1 += 4;
            }
            for (k = inputs & 3; k > 0; k--) {
                sum00 += *w0 * *x0;
                sum01 += *w0 * *x1;
                sum10 += *w1 * *x0;
                sum11 += *w1 * *x1;
                w0++;
                w1++;
                x0++;
                x1++;
            }
            out[0] = tinyasc_clamp_RANGE(tinyasc_REQUANTIZE(sum00, multiplier0, shift0) + zero, low);
            if (o1 > o) {
                out[1] = tinyasc_clamp_RANGE(tinyasc_REQUANTIZE(sum10, multiplier1, shift1) + zero, low);
            }
            if (left > 1) {
                out[outputs] = tinyasc_clamp_RANGE(tinyasc_REQUANTIZE(sum01, multiplier0, shift0) + zero, low);
                if (o1 > o) {
                    out[outputs + 1] = tinyasc_clamp_RANGE(tinyasc_REQUANTIZE(sum11, multiplier1, shift1) + zero, low);
                }
            }
            left -= 2;
            if (left <= 0) {
                break; /* before a pointer leaves its array */
            }
            row += 2 * inputs;
            out += 2 * outputs;
        }
        weights += o1 > o ? 2 * inputs : 0;
    }
}
