/* What compilers may call even without a C library; zig brings its own. */
#include <stddef.h>
#include <stdint.h>

#define PLAIN __attribute__((optimize("no-tree-loop-distribute-patterns")))

void *memcpy(void *to, const void *from, size_t size);
void *memmove(void *to, const void *from, size_t size);
void *memset(void *to, int value, size_t size);

PLAIN void *memcpy(void *to, const void *from, size_t size)
{
    uint8_t *t = to;
    const uint8_t *f = from;
    while (size-- != 0) {
        *t++ = *f++;
    }
    return to;
}

PLAIN void *memmove(void *to, const void *from, size_t size)
{
    uint8_t *t = to;
    const uint8_t *f = from;
    if ((uintptr_t)to <= (uintptr_t)from) {
        return memcpy(to, from, size);
    }
    while (size-- != 0) {
        t[size] = f[size];
    }
    return to;
}

PLAIN void *memset(void *to, int value, size_t size)
{
    uint8_t *t = to;
    while (size-- != 0) {
        *t++ = (uint8_t)value;
    }
    return to;
}
