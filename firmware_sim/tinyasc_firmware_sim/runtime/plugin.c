/* The counter as a plugin of qemu (API version 1).
 *
 * Distributions ship qemu without its plugin header, so the few functions that are used are declared here; they, and those
 * of the C library, are found in qemu itself when the plugin is loaded. The counter lies in a file that the host made
 * and maps: what was counted stands there even when qemu is killed. Argument: counter=PATH. */
#include "counter.h"

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*TranslateCallback)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*ExecuteCallback)(unsigned, void *);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, TranslateCallback callback);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, ExecuteCallback callback, int flags, void *user);
uint64_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, uint64_t index);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *instruction);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *instruction);

int open(const char *path, int flags, ...);
int64_t lseek(int file, int64_t offset, int whence);
void *mmap(void *at, uint64_t length, int protection, int flags, int file, int64_t offset);
void *malloc(uint64_t size);
enum { READ_WRITE = 2, END = 2, PROT_READ_WRITE = 3, SHARED = 1 };

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

typedef struct {
    uint64_t address, size;
} Block;

static Counter *counter;

static void on_execute(unsigned cpu, void *user)
{
    const Block *block = user;
    (void)cpu;
    count(counter, block->address, block->size);
}

/* Bytes of an instruction, by its first two. The size that qemu states is too large by two at the end of a page, where
 * its translator has looked at the next instruction already. */
static uint64_t length(const struct qemu_plugin_insn *instruction)
{
    const uint8_t *bytes = qemu_plugin_insn_data(instruction);
    int wide = counter->riscv ? (bytes[0] & 3) == 3 : bytes[1] >> 3 >= 0x1D;
    return wide ? 4u : 2u;
}

static void on_translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    Block *block = malloc(sizeof *block);
    (void)id;
    if (!block) {
        counter->outside++;
        return;
    }
    block->address = qemu_plugin_tb_vaddr(tb);
    struct qemu_plugin_insn *last = qemu_plugin_tb_get_insn(tb, qemu_plugin_tb_n_insns(tb) - 1u);
    block->size = qemu_plugin_insn_vaddr(last) + length(last) - block->address;
    qemu_plugin_register_vcpu_tb_exec_cb(tb, on_execute, 0, block);
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc,
                                                               char **argv)
{
    (void)info;
    if (argc != 1) {
        return -1;
    }
    int file = open(argv[0] + 8, READ_WRITE);
    if (file < 0) {
        return -1;
    }
    int64_t size = lseek(file, 0, END);
    counter = mmap(0, (uint64_t)size, PROT_READ_WRITE, SHARED, file, 0);
    if ((intptr_t)counter == -1) {
        return -1;
    }
    /* The file gives offsets in place of addresses. */
    uint8_t *start = (uint8_t *)counter;
    counter->edges = (int64_t *)(start + (uintptr_t)counter->edges);
    counter->jumps = (int64_t *)(start + (uintptr_t)counter->jumps);
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
    return 0;
}
