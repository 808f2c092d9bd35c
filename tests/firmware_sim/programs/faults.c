/* Everything that can go wrong, by the number in a file. */
#include "sim.h"

#ifndef ARENA_BYTES
#define ARENA_BYTES 1000
#endif
static volatile uint8_t net_arena[ARENA_BYTES];
static const uint32_t table[4] = {1, 2, 3, 4};

__attribute__((noinline)) static uint32_t peek(uintptr_t address)
{
    return *(volatile uint32_t *)address;
}

__attribute__((noinline)) static void poke(uintptr_t address)
{
    *(volatile uint32_t *)address = 5;
}

__attribute__((noinline)) static int descend(const volatile int *n)
{
    volatile int here[16];
    here[0] = *n + 1;
    return here[0] > 0 ? descend(here) + here[0] : 0;
}

__attribute__((noinline)) static void fill(volatile uint8_t *at, int n)
{
    for (int i = 0; i < n; i++) {
        at[i] = (uint8_t)i;
    }
}

__attribute__((noinline)) static int frame(void)
{
    volatile uint8_t large[6000];
    fill(large, 6000);
    return large[5];
}

__attribute__((noinline)) static void forever(void)
{
    for (;;) {
        __asm__ volatile("");
    }
}

int main(void)
{
    volatile int one = 1;
    uint32_t which = 0;
    (void)sim_read("which", &which, sizeof which);
    switch (which) {
    case 1:
        return (int)peek(0xF0000000u);
    case 2:
        poke((uintptr_t)table);
        return 0;
    case 3:
        return descend(&one);
    case 4:
        return frame();
    case 5:
        forever();
        return 0;
    case 6:
        fill(net_arena, 1000);
        return 0;
    case 7:
        __builtin_trap();
    case 8:
        ((void (*)(void))0x70000001u)();
        return 0;
    default:
        return (int)table[3];
    }
}
