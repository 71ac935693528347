// Runs the threads of a CUDA kernel on one CPU thread, and watches what they do to memory.
//
// Each CUDA thread is a fibre: it runs until it ends or waits at a barrier, then the next one runs. So a block
// of any size needs one core, and every run takes the same order. The kernel is compiled with calls to __tsan_read4 and
// the like before each access (the interface of the compiler's thread sanitizer, whose library is not used): the
// functions of those names below know the arrays that the kernel was given.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include <dlfcn.h>
#include <link.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "shared_with_kernels.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace {

const size_t STACK = 256 << 10;
const size_t GUARD = 64 << 10;  // below a stack, where nobody may write

enum State { READY, AT_BLOCK_BARRIER, AT_WARP_OPERATION, DONE };

// A copy to shared memory that its thread has asked for and not yet waited for.
struct Copy {
    char* to;
    int size;
    char bytes[16];
};

// A matrix product of a warpgroup that was begun and not yet waited for: c += a b, where a and b are descriptors.
struct Product {
    float* c;
    unsigned long long a, b;
    int turned, line;
};

struct Fibre {
    ucontext_t context;
    char* stack = nullptr;
    uint3 index = {0, 0, 0};
    State state = READY;
    int line = 0;                  // where it waits
    unsigned mask = 0;             // of the lanes that it waits for
    size_t group = 32;             // of that many threads: a warp, or a warpgroup
    bool ordering = true;          // whether what it waits in orders the memory of its warp
    const char* what = "";         // the operation that it waits at
    int warp_epoch = 0;
    unsigned long long given = 0;  // what it hands to the other lanes of its warp
    std::vector<Copy> copies;
    std::vector<Product> products;
    bool began = false;       // to multiply
    size_t committed = 0;     // of its products
    long long published = 0;  // when it last let the matrix products see what it wrote
};

// The last write and read of one element, and when: an epoch ends at a barrier.
struct Access {
    int writer = -1, write_epoch = -1, write_warp_epoch = -1, write_block = -1;
    int reader = -1, read_epoch = -1, read_warp_epoch = -1, read_block = -1;
    bool set = false;  // something was written: in this launch, or to shared memory in this block
    bool coming = false;  // will be, by a copy
    long long written = 0;
};

struct Buffer {
    const char* name;
    char* start;
    size_t bytes, item;
    bool constant;
    std::vector<Access> accesses;  // one an element, where races are looked for
};

const int SEVERAL = -2;  // readers

std::vector<Fibre> fibres;
std::vector<char*> stacks;
size_t started, used_stacks;  // in this block
std::vector<Buffer> buffers;
Buffer shared, dynamic_shared;
ucontext_t scheduler;
Fibre* current;
int epoch, block_number;
long long moments;  // counts writes
int product_line;   // of the product that is being made, which reads for all its threads
bool watch;
std::string printed, message;
void* where;
int where_line;
void (*entry)(void**);
void** entry_arguments;
std::vector<std::pair<char*, char*>> own;  // memory of the kernel's and this library: constants, tables

int number_of(const Fibre* f) {
    return f->index.x + blockDim.x * (f->index.y + blockDim.y * f->index.z);
}

[[noreturn]] void fail(std::string text, void* address, int line) {
    message = text;
    where = address;
    where_line = line ? line : product_line;
    swapcontext(&current->context, &scheduler);  // never to come back
    abort();
}

std::string thread_name(int number) {
    int x = number % blockDim.x, y = number / blockDim.x % blockDim.y, z = number / blockDim.x / blockDim.y;
    return "thread (" + std::to_string(x) + ", " + std::to_string(y) + ", " + std::to_string(z) + ")";
}

std::string element(const Buffer& b, const char* at) {
    long offset = at - b.start, i = offset / (long)b.item - (offset % (long)b.item < 0);
    return std::string(b.name) + "[" + std::to_string(i) + "]";
}

bool inside(const Buffer& b, const char* at, size_t size) {
    return b.bytes && at >= b.start && at + size <= b.start + b.bytes;
}

bool same_moment(int e, int warp_epoch, int other) {
    if (e != epoch) return false;
    // Within a warp its own barriers count as well.
    return other / 32 != number_of(current) / 32 || warp_epoch == current->warp_epoch;
}

void race(const Buffer& b, const char* at, const char* does, int other, int other_block, const char* did, void* pc) {
    std::string who = other == SEVERAL ? "other threads" : thread_name(other);
    if (other_block != block_number) who += " of block number " + std::to_string(other_block);
    const char* mend = other_block != block_number ? "Blocks run in any order: give each element to one block."
                                                   : "A __syncthreads() has to stand between the two.";
    fail(std::string("a race: it ") + does + " " + element(b, at) + ", which " + who + " " + did + ". " + mend, pc, 0);
}

void look_for_races(Buffer& b, const char* at, size_t size, bool write, void* pc) {
    int me = number_of(current);
    for (size_t i = (at - b.start) / b.item; i <= (at + size - 1 - b.start) / b.item; ++i) {
        Access& a = b.accesses[i];
        const char* element_at = b.start + i * b.item;
        bool other_block = a.write_block >= 0 && a.write_block != block_number;
        bool together = a.write_block == block_number && a.writer != me &&
                        same_moment(a.write_epoch, a.write_warp_epoch, a.writer);
        if (other_block || together)
            race(b, element_at, write ? "writes" : "reads", a.writer, a.write_block,
                 together ? "writes since the last barrier" : "writes", pc);
        if (write) {
            other_block = a.read_block >= 0 && a.read_block != block_number;
            together = a.read_block == block_number && a.reader != me && a.reader != -1 && a.read_epoch == epoch &&
                       (a.reader == SEVERAL || same_moment(a.read_epoch, a.read_warp_epoch, a.reader));
            if (other_block || together)
                race(b, element_at, "writes", a.reader, a.read_block,
                     together ? "reads since the last barrier" : "reads", pc);
            a.writer = me, a.write_epoch = epoch, a.write_warp_epoch = current->warp_epoch;
            a.write_block = block_number, a.set = true, a.coming = false, a.written = ++moments;
        } else {
            bool again = a.read_block == block_number && a.read_epoch == epoch && a.reader != me && a.reader != -1;
            a.reader = again ? SEVERAL : me;
            a.read_epoch = epoch, a.read_warp_epoch = current->warp_epoch, a.read_block = block_number;
        }
    }
}

// Where a local array lies that is too large for the stack.
bool below_the_stack(char* at) { return at < current->stack && at >= current->stack - (16 << 20); }

void out_of_stack(void* pc) {
    fail("it needs more than the " + std::to_string(STACK >> 10) + " KiB of stack that a thread has.", pc, 0);
}

void access(char* at, size_t size, bool write, void* pc) {
    if (!watch || !current) return;
    const char* does = write ? "writes" : "reads";
    for (Buffer* b : {&shared, &dynamic_shared})
        if (inside(*b, at, size)) {
            if (!write)
                for (size_t i = (at - b->start) / b->item; i <= (at + size - 1 - b->start) / b->item; ++i)
                    if (!b->accesses[i].set) {
                        std::string why = b->accesses[i].coming
                            ? ", to which a copy is still under way. Is a copy_async_wait() missing?"
                            : ", which no thread of the block has written yet. Is a __syncthreads() missing?";
                        fail("it reads " + std::string(b->name) + ", byte " + std::to_string(at - b->start) + why, pc, 0);
                    }
            look_for_races(*b, at, size, write, pc);
            return;
        }
    for (Buffer& b : buffers)
        if (inside(b, at, size)) {
            if (write && b.constant) fail("it writes " + element(b, at) + ", which is const.", pc, 0);
            if (!(size & (size - 1)) && (size_t)at % size)  // a range may have any size
                fail(std::string("it ") + does + " " + std::to_string(size) + " bytes at " + element(b, at) +
                         ", which is no multiple of " + std::to_string(size) + " bytes.", pc, 0);
            look_for_races(b, at, size, write, pc);
            return;
        }
    if (at >= current->stack && at + size <= current->stack + STACK) return;
    for (auto& part : own)
        if (at >= part.first && at + size <= part.second) return;
    if (below_the_stack(at)) out_of_stack(pc);
    const Buffer* nearest = nullptr;
    size_t least = ~size_t(0);
    for (const Buffer& b : buffers) {
        size_t distance = at < b.start ? b.start - at : at - (b.start + b.bytes) + 1;
        if (distance < least) least = distance, nearest = &b;
    }
    if (dynamic_shared.bytes && at >= dynamic_shared.start && at < dynamic_shared.start + (64 << 20))
        fail(std::string("it ") + does + " behind the " + std::to_string(dynamic_shared.bytes) +
                 " bytes of dynamic shared memory of this launch.", pc, 0);
    if (!nearest || least > (1 << 20)) fail(std::string("it ") + does + " where no array is.", pc, 0);
    fail(std::string("it ") + does + " " + element(*nearest, at) + ", outside of its " +
             std::to_string(nearest->bytes / nearest->item) + " elements.", pc, 0);
}

#include "faults.h"

// The threads of a block that did not start yet, one after the other: a thread that never waits needs no switch.
void run_threads() {
    char* stack = stacks[used_stacks - 1];
    while (started < fibres.size()) {
        current = &fibres[started++];
        current->stack = stack;
        threadIdx = current->index;
        entry(entry_arguments);
        current->state = DONE;
    }
    swapcontext(&current->context, &scheduler);
}

// On a stack of their own.
void start_threads() {
    if (used_stacks == stacks.size()) {
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void* memory = mmap(nullptr, GUARD + STACK, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (memory == MAP_FAILED || mprotect(memory, GUARD, PROT_NONE)) abort();
        stacks.push_back((char*)memory + GUARD);
    }
    ucontext_t fresh;
    getcontext(&fresh);
    fresh.uc_stack.ss_sp = stacks[used_stacks++];
    fresh.uc_stack.ss_size = STACK;
    fresh.uc_link = nullptr;
    makecontext(&fresh, run_threads, 0);
    swapcontext(&scheduler, &fresh);
}

void wait(State state, const char* what, int line, unsigned mask, size_t group = 32, bool ordering = true) {
    current->state = state, current->what = what, current->line = line, current->mask = mask;
    current->group = group, current->ordering = ordering;
    Fibre* me = current;
    swapcontext(&me->context, &scheduler);
}

// Lets the warps, and warpgroups, go on whose lanes have all come; true if there was one.
bool release_warps() {
    bool released = false;
    for (size_t i = 0; i < fibres.size(); ++i) {
        Fibre& f = fibres[i];
        if (f.state != AT_WARP_OPERATION) continue;
        size_t first = i / f.group * f.group, end = first + f.group < fibres.size() ? first + f.group : fibres.size();
        bool all = true;
        for (size_t other = first; other < end; ++other)
            if (f.mask >> other % 32 & 1) {
                Fibre& o = fibres[other];
                all = all && o.state == AT_WARP_OPERATION && o.mask == f.mask && o.line == f.line && o.what == f.what;
            }
        if (!all) continue;
        for (size_t other = first; other < end; ++other)
            if (f.mask >> other % 32 & 1) fibres[other].state = READY, fibres[other].warp_epoch += f.ordering;
        released = true;
    }
    return released;
}

#include "products.h"

// All fibres wait or are done, and no warp can go on: a barrier of the block, or a mistake.
bool release_block() {
    Fibre* waiting = nullptr;
    for (Fibre& f : fibres)
        if (f.state == AT_WARP_OPERATION) {
            current = &f;
            message = std::string("it waits in ") + f.what + " for lanes of its mask that do not come there.";
            where = nullptr, where_line = f.line;
            return false;
        } else if (f.state == AT_BLOCK_BARRIER && !waiting) {
            waiting = &f;
        }
    for (Fibre& f : fibres)
        if (f.state == DONE || f.line != waiting->line) {
            current = waiting;
            std::string other = thread_name(number_of(&f));
            message = "it waits at __syncthreads(), but " + other +
                      (f.state == DONE ? " has left the kernel. " : " waits at that of line " + std::to_string(f.line) + ". ") +
                      "All threads of a block have to come to the same barrier.";
            where = nullptr, where_line = waiting->line;
            return false;
        }
    for (Fibre& f : fibres) f.state = READY;
    ++epoch;
    return true;
}

bool run_block() {
    fibres.assign(blockDim.x * blockDim.y * blockDim.z, Fibre());
    unsigned number = 0;
    for (Fibre& f : fibres) {
        f.index = {number % blockDim.x, number / blockDim.x % blockDim.y, number / blockDim.x / blockDim.y};
        ++number;
    }
    started = used_stacks = 0;
    while (started < fibres.size()) {
        start_threads();
        if (!message.empty()) return false;
    }
    for (;;) {
        bool all_done = true;
        for (Fibre& f : fibres) {
            if (f.state == READY) {
                current = &f;
                threadIdx = f.index;
                swapcontext(&scheduler, &f.context);
                if (!message.empty()) return false;
            }
            all_done = all_done && f.state == DONE;
        }
        if (all_done) return true;
        if (!release_warps() && !release_block()) return false;
    }
}

int remember_own(dl_phdr_info* info, size_t, void* path) {
    if (!info->dlpi_name || strcmp(info->dlpi_name, (const char*)path)) return 0;
    for (int i = 0; i < info->dlpi_phnum; ++i)
        if (info->dlpi_phdr[i].p_type == PT_LOAD) {
            char* first = (char*)info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
            own.push_back({first, first + info->dlpi_phdr[i].p_memsz});
        }
    return 0;
}

}  // namespace

extern "C" {

struct Argument {
    const char* name;
    char* start;
    size_t bytes, item;
    int constant;
    char* written;  // one byte an element, for Python: 1 where a thread wrote; none where nothing is watched
};

// What went wrong, for Python.
struct Report {
    const char* message;  // empty: nothing
    const char* printed;
    unsigned block[3], thread[3];
    size_t address;  // in the library of the kernel, where the compiler's table knows the line
    int line;        // or the line itself
};

// One launch: every block of the grid, one after the other.
void cuda_on_cpu_launch(void (*kernel)(void**), void** arguments, const unsigned* grid, const unsigned* block,
                        Argument* arrays, int count, char* shared_start, size_t shared_bytes, char* dynamic_start,
                        size_t dynamic_bytes, int checked, const char* library, Report* report) {
    entry = kernel, entry_arguments = arguments, watch = checked;
    gridDim = dim3(grid[0], grid[1], grid[2]), blockDim = dim3(block[0], block[1], block[2]);
    message.clear(), printed.clear(), buffers.clear(), own.clear();
    where = nullptr, where_line = product_line = 0;
    for (int i = 0; i < count; ++i) {
        Argument& a = arrays[i];
        buffers.push_back({a.name, a.start, a.bytes, a.item, a.constant != 0, {}});
        buffers.back().accesses.resize(checked ? a.bytes / a.item : 0);
    }
    shared = {"shared memory", shared_start, shared_bytes, 1, false, {}};
    dynamic_shared = {"dynamic shared memory", dynamic_start, dynamic_bytes, 1, false, {}};
    cuda_on_cpu_dynamic_shared = dynamic_start;
    Dl_info here;
    dladdr((void*)&cuda_on_cpu_launch, &here);
    dl_iterate_phdr(remember_own, (void*)library);
    dl_iterate_phdr(remember_own, (void*)here.dli_fname);
    Faults caught;
    bool good = true;
    block_number = 0;
    for (unsigned z = 0; good && z < grid[2]; ++z)
        for (unsigned y = 0; good && y < grid[1]; ++y)
            for (unsigned x = 0; good && x < grid[0]; ++x, ++block_number) {
                blockIdx = {x, y, z};
                epoch = 0;
                for (Buffer* b : {&shared, &dynamic_shared}) {
                    memset(b->start, 0xff, b->bytes);  // NaN, or -1
                    b->accesses.assign(checked ? b->bytes : 0, Access());
                }
                for (Buffer& b : buffers)
                    for (Access& a : b.accesses) a.write_epoch = a.read_epoch = -1;
                good = run_block();
            }
    for (int i = 0; i < count; ++i)
        if (arrays[i].written)
            for (Buffer& b : buffers)  // of two arguments in the same memory the first has seen all
                if (b.start == arrays[i].start) {
                    for (size_t j = 0; j < b.accesses.size(); ++j) arrays[i].written[j] = b.accesses[j].set;
                    break;
                }
    report->message = message.c_str(), report->printed = printed.c_str();
    report->line = where_line, report->address = 0;
    if (!good) {
        report->block[0] = blockIdx.x, report->block[1] = blockIdx.y, report->block[2] = blockIdx.z;
        report->thread[0] = current->index.x, report->thread[1] = current->index.y, report->thread[2] = current->index.z;
        Dl_info info;
        if (where && dladdr(where, &info)) report->address = (char*)where - (char*)info.dli_fbase - 1;
    }
    current = nullptr;
}

// ------------------------------------------------------------------------------------------------
// What kernels call

char* cuda_on_cpu_dynamic_shared;

void cuda_on_cpu_barrier(int line) { wait(AT_BLOCK_BARRIER, "__syncthreads()", line, 0); }

// Hands a value to the lanes of the mask and takes that of lane `from`; the lane's own where `from` is none of them.
unsigned long long cuda_on_cpu_exchange(unsigned mask, unsigned long long value, int from, const char* what, int line) {
    int me = number_of(current), first = me / 32 * 32;
    if (!(mask >> (me - first) & 1)) fail(std::string(what) + " with a mask that leaves this lane out.", nullptr, line);
    current->given = value;
    wait(AT_WARP_OPERATION, what, line, mask);
    bool there = from >= 0 && from < 32 && first + from < (int)fibres.size();
    if (there && !(mask >> from & 1))
        fail(std::string(what) + " from lane " + std::to_string(from) + ", which the mask leaves out.", nullptr, line);
    unsigned long long taken = there ? fibres[first + from].given : value;
    wait(AT_WARP_OPERATION, what, -line, mask);  // until all have taken
    return taken;
}

int cuda_on_cpu_lane() { return number_of(current) % 32; }

// What a warp of 32 threads, or a warpgroup of 128, does as one: when all have come, the first of them does it for all.
void cuda_on_cpu_together(int threads, void (*operation)(void**), void* mine, const char* what, int line) {
    size_t me = number_of(current), first = me / threads * threads;
    if (first + threads > fibres.size())
        fail(std::string(what) + " needs all " + std::to_string(threads) + " threads, but the block ends before.",
             nullptr, line);
    current->given = (unsigned long long)mine;
    wait(AT_WARP_OPERATION, what, line, 0xffffffff, threads, false);
    if (me != first) return;
    std::vector<void*> given;
    for (int i = 0; i < threads; ++i) given.push_back((void*)fibres[first + i].given);
    operation(given.data());
}

// Until the thread waits for the copy its target has no value: who reads it is told so. From nowhere: zeros.
void cuda_on_cpu_copy_async(void* shared_address, const void* from, int size) {
    void* pc = __builtin_return_address(0);
    Copy copy = {(char*)shared_address, size, {}};
    if (from) {
        access((char*)from, size, false, pc);
        memcpy(copy.bytes, from, size);
    }
    access(copy.to, size, true, pc);
    bool there = false;
    for (Buffer* b : {&shared, &dynamic_shared})
        if (inside(*b, copy.to, size)) {
            there = true;
            for (int i = 0; watch && i < size; ++i) {
                Access& a = b->accesses[copy.to - b->start + i];
                a.set = false, a.coming = true;
            }
        }
    if (!there) fail("copy_async() copies to shared memory, but this address is none.", pc, 0);
    if ((size_t)copy.to % size || (size_t)from % size)
        fail("copy_async() of " + std::to_string(size) + " bytes needs addresses that are multiples of them.", pc, 0);
    current->copies.push_back(copy);
}

void cuda_on_cpu_copy_async_wait() {
    for (Copy& copy : current->copies) {
        access(copy.to, copy.size, true, __builtin_return_address(0));
        memcpy(copy.to, copy.bytes, copy.size);
    }
    current->copies.clear();
}

// An atomic operation needs its address checked; it races with nobody.
void cuda_on_cpu_atomic(void* address, size_t size) {
    if (!watch) return;
    char* at = (char*)address;
    for (Buffer* b : {&shared, &dynamic_shared})
        if (inside(*b, at, size)) {
            for (size_t i = 0; i < size; ++i)
                if (!b->accesses[at - b->start + i].set)
                    fail("an atomic operation on shared memory that no thread of the block has written.",
                         __builtin_return_address(0), 0);
            return;
        }
    for (Buffer& b : buffers)
        if (inside(b, at, size) && !b.constant) {
            b.accesses[(at - b.start) / b.item].set = true;
            return;
        }
    access(at, size, true, __builtin_return_address(0));
}

unsigned cuda_on_cpu_shared_address(const void* address) {
    char* at = (char*)address;
    if (inside(shared, at, 0)) return at - shared.start;
    if (inside(dynamic_shared, at, 0)) return at - dynamic_shared.start + dynamic_address();
    fail("a descriptor of what does not lie in shared memory.", __builtin_return_address(0), 0);
}

void cuda_on_cpu_publish() { current->published = moments; }

void cuda_on_cpu_products_begin() { current->began = true; }

void cuda_on_cpu_begin_product(float* c, unsigned long long a, unsigned long long b, int turned, int line) {
    if (!current->began) fail("begin_product() without a products_begin() before it.", nullptr, line);
    Product mine = {c, a, b, turned, line};
    current->products.push_back(mine);
    cuda_on_cpu_together(128, look_at_factors, &mine, "begin_product()", line);
}

void cuda_on_cpu_products_commit() { current->committed = current->products.size(); }

void cuda_on_cpu_products_wait(int line) {
    if (current->committed < current->products.size())
        fail("products_wait() does not wait for products after which no products_commit() stands.", nullptr, line);
    cuda_on_cpu_together(128, multiply, &current->products, "products_wait()", line);
    current->products.clear();
    current->began = false, current->committed = 0;
}

int cuda_on_cpu_printf(const char* format, ...) {
    char text[4096];
    va_list values;
    va_start(values, format);
    int length = vsnprintf(text, sizeof text, format, values);
    va_end(values);
    if (printed.size() < (1 << 20)) printed += text;  // CUDA keeps a megabyte as well
    return length;
}

// ------------------------------------------------------------------------------------------------
// What the compiler calls

#define CHECKED(SIZE)                                                                                              \
    void __tsan_read##SIZE(void* at) { access((char*)at, SIZE, false, __builtin_return_address(0)); }            \
    void __tsan_write##SIZE(void* at) { access((char*)at, SIZE, true, __builtin_return_address(0)); }            \
    void __tsan_unaligned_read##SIZE(void* at) { access((char*)at, SIZE, false, __builtin_return_address(0)); }  \
    void __tsan_unaligned_write##SIZE(void* at) { access((char*)at, SIZE, true, __builtin_return_address(0)); }
CHECKED(1)
CHECKED(2)
CHECKED(4)
CHECKED(8)
CHECKED(16)
void __tsan_read_range(void* at, size_t size) { access((char*)at, size, false, __builtin_return_address(0)); }
void __tsan_write_range(void* at, size_t size) { access((char*)at, size, true, __builtin_return_address(0)); }
// clang copies a struct by a call of memcpy, which the linker turns into one of this.
void* __wrap_memcpy(void* to, const void* from, size_t size) {
    access((char*)from, size, false, __builtin_return_address(0));
    access((char*)to, size, true, __builtin_return_address(0));
    return memcpy(to, from, size);
}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}

// An index beyond an array whose size the compiler knows: `float tile[16]`. The first argument begins with the place.
struct Place {
    const char* file;
    unsigned line, column;
};
void cuda_on_cpu_out_of_bounds(Place* place, size_t index) {
    if (watch && current)
        fail("the index " + std::to_string((long)index) + " is outside of an array of the kernel.", nullptr, place->line);
}
void __ubsan_handle_out_of_bounds(void* place, void* index) { cuda_on_cpu_out_of_bounds((Place*)place, (size_t)index); }

}  // extern "C"
