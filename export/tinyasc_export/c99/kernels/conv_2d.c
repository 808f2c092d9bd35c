#include "tinyasc_conv_2d_TYPE.h"

void tinyasc_conv_2d_TYPE(const tinyasc_conv_2d_TYPE_args *args, const VALUE_T *x, VALUE_T *y, VALUE_T *scratch)
{
    const int32_t channels = args->channels;
    const int32_t positions = args->out_height * args->out_width;
    VALUE_T *to = scratch;
    int32_t gathered = 0;
    int32_t row = 0;
    int32_t column = 0;
    int32_t position;
    for (position = 0; position < positions; position++) {
        int32_t t;
        for (t = 0; t < args->tap_count; t++) {
            const int32_t i = row + args->taps[2 * t];
            const int32_t j = column + args->taps[2 * t + 1];
            int32_t c;
            if (i >= 0 && i < args->height && j >= 0 && j < args->width) {
                const VALUE_T *from = x + (i * args->width + j) * channels;
                for (c = 0; c < channels; c++) {
                    to[c] = from[c];
                }
            } else {
                for (c = 0; c < channels; c++) {
                    to[c] = args->padding;
                }
            }
            to += channels;
        }
        gathered++;
        if (gathered == 2 || position + 1 == positions) {
            tinyasc_conv_1x1_TYPE(&args->product, scratch, y, gathered);
            y += gathered * args->product.outputs;
            to = scratch;
            gathered = 0;
        }
        column += args->stride_width;
        if (column == args->out_width * args->stride_width) {
            column = 0;
            row += args->stride_height;
        }
    }
}
