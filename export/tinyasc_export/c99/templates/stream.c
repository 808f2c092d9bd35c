/* Written by tinyasc; do not edit. */
#include "${name}_stream.h"

#include "${name}_frontend.h"

static ${name}_value frames[${upper}_FRAMES][${upper}_BANDS]; /* a ring */
static int32_t next; /* where the next frame goes: the oldest one */
static int32_t due;  /* frames until the next window is whole */
static int whole;

void ${name}_init(void)
{
    ${name}_frontend_init();
    next = 0;
    due = ${upper}_FRAMES;
    whole = 0;
}

int32_t ${name}_push(const int16_t *samples, int32_t n)
{
    int32_t left = n;
    while (${name}_frontend_push(&samples, &left, frames[next])) {
        next = next + 1 == ${upper}_FRAMES ? 0 : next + 1;
        due--;
        whole = due == 0;
        if (whole) {
            due = ${upper}_WINDOW_HOP;
            break;
        }
    }
    return n - left;
}

int ${name}_ready(void)
{
    return whole;
}

int ${name}_scores(${name}_value scores[${upper}_OUTPUT_SIZE])
{
    ${name}_value *const input = ${name}_arena() + $input_at;
    int32_t from = next;
    int32_t i;
    int32_t band;
    if (!whole) {
        return 0;
    }
    for (i = 0; i < ${upper}_FRAMES; i++) {
        for (band = 0; band < ${upper}_BANDS; band++) {
            input[band * ${upper}_FRAMES + i] = frames[from][band];
        }
        from = from + 1 == ${upper}_FRAMES ? 0 : from + 1;
    }
    for (i = 0; i < ${upper}_OPERATORS; i++) {
        ${name}_run_operator(i);
    }
    ${name}_store(scores);
    whole = 0;
    return 1;
}
