/* Soft and hard float, division, 64-bit products, initialised and cleared data, files and text. */
#include "sim.h"

static volatile uint32_t seed = 12345u;
static volatile uint32_t cleared[3];
static const char digits[] = "0123456789abcdef";

static void print_hex(uint32_t value)
{
    char text[10];
    for (int i = 0; i < 8; i++) {
        text[i] = digits[value >> (28 - 4 * i) & 15u];
    }
    text[8] = '\n';
    text[9] = 0;
    sim_print(text);
}

static uint32_t next(uint32_t x)
{
    return x * 1664525u + 1013904223u;
}

int main(void)
{
    float given[4], sums[4];
    uint32_t x = seed, hash = 2166136261u + cleared[0] + cleared[2];
    for (int i = 0; i < 50; i++) {
        x = next(x);
        uint32_t y = next(x) | 1u;
        hash = (hash ^ (x / y)) * 16777619u;
        hash = (hash ^ (uint32_t)(((uint64_t)x * y) >> 32)) * 16777619u;
        hash = (hash ^ (uint32_t)((int32_t)x % (int32_t)(y >> 8 | 1u))) * 16777619u;
    }
    print_hex(hash);
    if (sim_read("given", given, sizeof given) != (int32_t)sizeof given || sim_read("absent", sums, 4) != -1) {
        return -1;
    }
    for (int i = 0; i < 4; i++) {
        sums[i] = given[i] * given[(i + 1) & 3] + given[(i + 2) & 3] / given[(i + 3) & 3];
    }
    return sim_write("sums", sums, sizeof sums) == 0 ? 42 : -2;
}
