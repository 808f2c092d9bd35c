/* Counts how often every halfword of the program is executed; called at the start of every basic block.
 *
 * A block of n halfwords from i on adds one at i and takes one away at i + n: the running sum is the count of every
 * halfword, whatever the blocks were. A block that does not begin where the one before ended was jumped to: that is
 * counted at the end of the one before. A row is what runs between two calls of
 * sim_step(). */
#ifndef TINYASC_COUNTER_H
#define TINYASC_COUNTER_H

#include <stdint.h>

typedef struct {
    uint64_t base;        /* address of the first halfword */
    uint64_t slots;       /* halfwords */
    int64_t *edges;       /* rows x (slots + 1) */
    int64_t *jumps;       /* rows x (slots + 1), by the end of the block that was left */
    uint64_t step;        /* the halfword at which the next row begins whenever a block starts there */
    uint64_t rows, row, end, halfwords, limit, outside, stopped;
    int (*stop)(void *);
    uint64_t riscv;
} Counter;

static inline void count(Counter *c, uint64_t address, uint64_t size)
{
    uint64_t first = (address - c->base) >> 1, last = first + (size >> 1);
    if (address < c->base || last > c->slots) {
        c->outside++;
        return;
    }
    if (c->end != first && c->halfwords != 0) {
        c->jumps[c->row * (c->slots + 1u) + c->end]++;
    }
    if (first == c->step && c->row + 1u < c->rows) {
        c->row++;
    }
    int64_t *edges = c->edges + c->row * (c->slots + 1u);
    edges[first]++;
    edges[last]--;
    c->end = last;
    c->halfwords += size >> 1;
}

#endif
