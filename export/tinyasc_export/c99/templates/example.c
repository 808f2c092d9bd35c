/* An example, yours to change: names raw sound on standard input. Written by tinyasc.
 *
 *     make example
 *     ffmpeg -v error -i clip.wav -f s16le -ac 1 -ar $sample_rate - | ./example
 *
 * Samples are int16, little endian, one channel, $sample_rate Hz. A line for each window, ${upper}_WINDOW_HOP frames after the one
 * before: its number, the likeliest class, and the score q of every class, whose logit is $scale * (q $minus_zero_point). Sound that is
 * shorter than a window is padded with silence at its end.
 */
#include "${name}_frontend.h"
#include "${name}_stream.h"

#include <stdio.h>

enum { PIECE = 512 };

static unsigned long windows;

static void say(const ${name}_value scores[${upper}_OUTPUT_SIZE])
{
    int best = 0;
    int i;
    for (i = 1; i < ${upper}_OUTPUT_SIZE; i++) {
        if (scores[i] > scores[best]) {
            best = i;
        }
    }
    printf("%lu\t%s\t", windows, ${name}_labels[best]);
    for (i = 0; i < ${upper}_OUTPUT_SIZE; i++) {
        printf(i == 0 ? "%d" : " %d", (int)scores[i]);
    }
    printf("\n");
    fflush(stdout);
}

static void hear(const int16_t *samples, int32_t n)
{
    static ${name}_value scores[${upper}_OUTPUT_SIZE];
    while (n > 0) {
        const int32_t taken = ${name}_push(samples, n);
        samples += taken;
        n -= taken;
        if (${name}_ready()) {
            ${name}_scores(scores);
            say(scores);
            windows++;
        }
    }
}

int main(void)
{
    static unsigned char bytes[2 * PIECE];
    static int16_t samples[PIECE];
    static const int16_t silence = 0;
    int heard = 0;
    size_t n;
    if (!${name}_frontend_is_exact()) {
        fprintf(stderr, "built with options that change float32's bits; see README.md\n");
        return 1;
    }
    ${name}_init();
    while ((n = fread(bytes, 2, PIECE, stdin)) > 0) {
        size_t i;
        for (i = 0; i < n; i++) {
            const int32_t low = bytes[2 * i];
            const int32_t high = bytes[2 * i + 1];
            samples[i] = (int16_t)(low + 256 * (high < 128 ? high : high - 256));
        }
        heard = 1;
        hear(samples, (int32_t)n);
    }
    if (!heard) {
        fprintf(stderr, "no samples on standard input\n");
        return 1;
    }
    while (windows == 0) {
        hear(&silence, 1);
    }
    return 0;
}
