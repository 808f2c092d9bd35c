/* The counter as a block hook of unicorn. Nothing of unicorn is included: its headers are not in its wheel. */
#include "counter.h"

void on_block(void *engine, uint64_t address, uint32_t size, void *user)
{
    Counter *c = user;
    count(c, address, size);
    if (c->halfwords > c->limit && !c->stopped) {
        c->stopped = 1;
        (void)c->stop(engine);
    }
}
