/* Start-up, faults, stack painting and semihosting of one emulated run, on Cortex-M and RV32.
 *
 * Every function here is called sim_...: the linker script sets them apart, so that neither their bytes nor their
 * instructions count as the program's. The host reads `sim.status` after the run; its layout is in results.py. */
#include "sim.h"

#define PAINT 0xA5C3960Fu /* no byte repeats, so that the loop is no memset and a shifted copy is seen */
#define MAGIC 0x314D4953u
enum { FAULT_NONE = 0, FAULT_ADDRESS = 1, FAULT_STACK = 2, FAULT_INSTRUCTION = 3, FAULT_GUARD = 4 };
enum { SYS_OPEN = 0x01, SYS_CLOSE = 0x02, SYS_WRITE0 = 0x04, SYS_WRITE = 0x05, SYS_READ = 0x06, SYS_EXIT_EXTENDED = 0x20 };
#define APPLICATION_EXIT 0x20026u
/* Emulated machines have memory below the stack, where boards have none: SIM_GUARD_STACK forbids so much of it. */
#define GUARD_BELOW 0x10000u

static const char sim_status_file[] = "sim.status"; /* a literal would count as the program's */

typedef struct {
    uint32_t magic, fault, pc, address, stack_bytes;
} Status;

/* From the linker script. */
extern uint32_t __stack_bottom[], __stack_top[];
extern uint8_t __data_load[], __data_start[], __data_end[], __bss_start[], __bss_end[];
extern uint8_t __arena_start[], __arena_end[], __guard_end[];
int main(void);
void sim_reset(void);
void sim_start(void);
void sim_fault_report(uintptr_t stack, uint32_t cause, uint32_t pc, uint32_t address);

#if defined(__riscv)
static uintptr_t sim_call(uintptr_t operation, const void *block)
{
    register uintptr_t a0 __asm__("a0") = operation;
    register uintptr_t a1 __asm__("a1") = (uintptr_t)block;
    /* The three instructions mark a semihosting call; they may not be compressed, nor lie on two pages. */
    __asm__ volatile(".balign 16\n.option push\n.option norvc\n"
                     "slli x0, x0, 0x1f\nebreak\nsrai x0, x0, 7\n.option pop\n"
                     : "+r"(a0) : "r"(a1) : "memory");
    return a0;
}

static uint32_t *sim_stack_pointer(void)
{
    uint32_t *sp;
    __asm__ volatile("mv %0, sp" : "=r"(sp));
    return sp;
}

/* The trap keeps no registers: it never returns. */
__attribute__((naked, aligned(4))) void sim_trap(void)
{
    __asm__ volatile("mv a0, sp\ncsrr a1, mcause\ncsrr a2, mepc\ncsrr a3, mtval\n"
                     "la sp, __stack_top\nj sim_fault_report\n");
}

__attribute__((naked, section(".vectors"), used)) void sim_reset(void)
{
    __asm__ volatile(".option push\n.option norelax\nla sp, __stack_top\nla t0, sim_trap\ncsrw mtvec, t0\n"
                     ".option pop\nj sim_start\n");
}

static uint32_t sim_fault_kind(uint32_t cause)
{
    return cause == 2u ? FAULT_INSTRUCTION : FAULT_ADDRESS;
}

static int sim_stack_limit(uint32_t cause)
{
    (void)cause;
    return 0;
}

/* A function of its own, so that sim_start takes the same stack with a guard and without. */
__attribute__((noinline)) static void sim_prepare(void)
{
#ifdef SIM_GUARD_STACK
    /* PMP entry 1: what lies below the stack, for machine mode too (L), may not be touched. */
    uintptr_t bottom = (uintptr_t)__stack_bottom;
    __asm__ volatile("csrw pmpaddr0, %0\ncsrw pmpaddr1, %1\ncsrw pmpcfg0, %2\n"
                     :: "r"((bottom - GUARD_BELOW) >> 2), "r"(bottom >> 2), "r"(0x8800u) : "memory");
#endif
}
#else
static uintptr_t sim_call(uintptr_t operation, const void *block)
{
    register uintptr_t r0 __asm__("r0") = operation;
    register uintptr_t r1 __asm__("r1") = (uintptr_t)block;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static uint32_t *sim_stack_pointer(void)
{
    uint32_t *sp;
    __asm__ volatile("mov %0, sp" : "=r"(sp));
    return sp;
}

/* The old stack pointer may point anywhere: the report gets the whole stack anew. */
__attribute__((naked, used)) void sim_trap(void)
{
    __asm__ volatile("mrs r0, msp\nldr r1, =__stack_top\nmov sp, r1\nbl sim_trap_report\n.ltorg\n");
}

#define SCB(offset) (*(volatile uint32_t *)(0xE000E000u + (offset)))
#define MAINLINE (__ARM_ARCH >= 7 && !defined(__ARM_ARCH_8M_BASE__))

/* A frame holds r0-r3, r12, lr, pc and xpsr. */
__attribute__((used)) void sim_trap_report(const uint32_t *frame)
{
    int inside = frame >= __stack_bottom && frame + 8 <= __stack_top;
    uint32_t cause = 0, address = 0;
#if MAINLINE
    cause = SCB(0xD28);
    address = cause & 0x8000u ? SCB(0xD38) : cause & 0x80u ? SCB(0xD34) : 0u;
#endif
    sim_fault_report((uintptr_t)frame, cause, inside ? frame[6] : 0u, address);
}

static uint32_t sim_fault_kind(uint32_t cause)
{
    return cause & 0x00010000u ? FAULT_INSTRUCTION : FAULT_ADDRESS;
}

__attribute__((section(".vectors"), used)) const uintptr_t sim_vectors[16] = {
    (uintptr_t)__stack_top, (uintptr_t)sim_reset, (uintptr_t)sim_trap, (uintptr_t)sim_trap, (uintptr_t)sim_trap,
    (uintptr_t)sim_trap,    (uintptr_t)sim_trap,  (uintptr_t)sim_trap, (uintptr_t)sim_trap, (uintptr_t)sim_trap,
    (uintptr_t)sim_trap,    (uintptr_t)sim_trap,  (uintptr_t)sim_trap, (uintptr_t)sim_trap, (uintptr_t)sim_trap,
    (uintptr_t)sim_trap,
};

void sim_reset(void)
{
    sim_start();
}

/* Stacking failed, or the stack limit of Armv8-M was hit: the stack pointer then stays where it was. */
static int sim_stack_limit(uint32_t cause)
{
    return (cause & 0x00101010u) != 0u;
}

__attribute__((noinline)) static void sim_prepare(void)
{
#if MAINLINE
    SCB(0xD88) |= 0x00F00000u; /* CPACR: the FPU, and Helium, for everyone */
#if defined(SIM_GUARD_STACK) && __ARM_ARCH >= 8
    __asm__ volatile("msr msplim, %0" ::"r"(__stack_bottom));
#elif defined(SIM_GUARD_STACK)
    /* MPU region 0: no access to what lies below the stack; elsewhere all is as without. */
    SCB(0xD98) = 0u;
    SCB(0xD9C) = (uint32_t)(uintptr_t)__stack_bottom - GUARD_BELOW;
    SCB(0xDA0) = 0x10000000u | 15u << 1 | 1u;
    SCB(0xD94) = 5u;
#endif
    __asm__ volatile("dsb\nisb" ::: "memory");
#endif
}
#endif

/* The host counts from here to the next call apart. */
__attribute__((noinline)) void sim_step(void)
{
    __asm__ volatile("" ::: "memory");
}

static uint32_t sim_length(const char *text)
{
    uint32_t n = 0;
    while (((const volatile char *)text)[n] != 0) {
        n++;
    }
    return n;
}

void sim_print(const char *text)
{
    (void)sim_call(SYS_WRITE0, text);
}

static int32_t sim_transfer(const char *name, uintptr_t mode, uintptr_t operation, const void *data, uint32_t size)
{
    uintptr_t block[3] = {(uintptr_t)name, mode, sim_length(name)};
    uintptr_t handle = sim_call(SYS_OPEN, block);
    if (handle == UINTPTR_MAX) {
        return -1;
    }
    block[0] = handle;
    block[1] = (uintptr_t)data;
    block[2] = size;
    uintptr_t left = sim_call(operation, block);
    (void)sim_call(SYS_CLOSE, &handle);
    return (int32_t)(size - left);
}

int32_t sim_read(const char *name, void *to, uint32_t size)
{
    return sim_transfer(name, 1u, SYS_READ, to, size);
}

int32_t sim_open(const char *name)
{
    uintptr_t block[3] = {(uintptr_t)name, 1u, sim_length(name)};
    return (int32_t)sim_call(SYS_OPEN, block);
}

int32_t sim_read_on(int32_t file, void *to, uint32_t size)
{
    uintptr_t block[3] = {(uintptr_t)file, (uintptr_t)to, size};
    return (int32_t)(size - sim_call(SYS_READ, block));
}

int32_t sim_write(const char *name, const void *from, uint32_t size)
{
    return sim_transfer(name, 5u, SYS_WRITE, from, size) == (int32_t)size ? 0 : -1;
}

/* The lowest word of the stack that is not as it was painted tells how deep it went. */
static uint32_t sim_stack_bytes(void)
{
    const volatile uint32_t *word = __stack_bottom;
    while (word < __stack_top && *word == PAINT) {
        word++;
    }
    return (uint32_t)((uintptr_t)__stack_top - (uintptr_t)word);
}

static uint8_t sim_guard_byte(const volatile uint8_t *at)
{
    return (uint8_t)(0xA5u ^ (uintptr_t)at);
}

static uint32_t sim_guard_broken(void)
{
    for (const volatile uint8_t *at = __arena_end; at < __guard_end; at++) {
        if (*at != sim_guard_byte(at)) {
            return (uint32_t)(uintptr_t)at;
        }
    }
    return 0u;
}

static void sim_end(int32_t code, Status *status)
{
    uintptr_t block[2] = {APPLICATION_EXIT, (uintptr_t)code};
    status->magic = MAGIC;
    (void)sim_write(sim_status_file, status, (uint32_t)sizeof *status);
    for (;;) {
        (void)sim_call(SYS_EXIT_EXTENDED, block);
    }
}

void sim_exit(int32_t code)
{
    Status status = {0, FAULT_NONE, 0, 0, 0};
    status.stack_bytes = sim_stack_bytes();
    status.address = sim_guard_broken();
    if (status.address != 0u) {
        status.fault = FAULT_GUARD;
    } else if (status.stack_bytes == (uint32_t)((uintptr_t)__stack_top - (uintptr_t)__stack_bottom)) {
        status.fault = FAULT_STACK; /* the lowest word was written: how far below it went is not known */
        status.address = (uint32_t)(uintptr_t)__stack_bottom;
    }
    sim_end(code, &status);
}

void sim_fault_report(uintptr_t stack, uint32_t cause, uint32_t pc, uint32_t address)
{
    Status status = {0, FAULT_NONE, 0, 0, 0};
    uintptr_t bottom = (uintptr_t)__stack_bottom;
    int below = address >= bottom - GUARD_BELOW && address < bottom;
    status.fault = stack < bottom || below || sim_stack_limit(cause) ? (uint32_t)FAULT_STACK : sim_fault_kind(cause);
    status.pc = pc;
    status.address = address;
    sim_end(1, &status);
}

static void sim_clear(volatile uint8_t *from, const volatile uint8_t *to)
{
    while (from < to) {
        *from++ = 0;
    }
}

void sim_start(void)
{
    for (volatile uint32_t *word = __stack_bottom; word < sim_stack_pointer(); word++) {
        *word = PAINT;
    }
    const volatile uint8_t *from = __data_load;
    for (volatile uint8_t *to = __data_start; to < __data_end; to++) {
        *to = *from++;
    }
    sim_clear(__bss_start, __bss_end);
    sim_clear(__arena_start, __arena_end);
    for (volatile uint8_t *at = __arena_end; at < __guard_end; at++) {
        *at = sim_guard_byte(at);
    }
    sim_prepare();
    sim_exit(main());
}
