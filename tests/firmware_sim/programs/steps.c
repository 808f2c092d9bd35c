/* Two kernels between calls of sim_step; a recursion as deep as a file says. */
#include "sim.h"

static volatile uint32_t sink;

__attribute__((noinline)) static void work(uint32_t n)
{
    /* A volatile counter: the loop is not unrolled. */
    for (volatile uint32_t i = 0; i < n; i++) {
        sink = n;
    }
}

__attribute__((noinline)) static uint32_t deep(uint32_t n)
{
    volatile uint32_t here[16];
    here[n & 15u] = n;
    return n == 0 ? 0 : deep(n - 1) + here[n & 15u];
}

int main(void)
{
    uint32_t depth = 0;
    (void)sim_read("depth", &depth, sizeof depth);
    work(10);
    sim_step();
    work(100);
    sim_step();
    work(200);
    sim_step();
    return (int)(deep(depth) & 127u);
}
