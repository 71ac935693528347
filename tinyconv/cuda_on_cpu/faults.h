// A part of runtime.cpp: faults of the processor.
#pragma once

// What no check sees, a pointer that a compiler knows to be null, say, the processor does: not the end of the process.
class Faults {
  public:
    Faults() {
        stack_t own_stack = {memory, 0, sizeof memory};  // a fibre's may be what has run out
        sigaltstack(&own_stack, &stack_before);
        struct sigaction catching = {};
        catching.sa_sigaction = report;
        catching.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        for (int i = 0; i < 3; ++i) sigaction(SIGNALS[i], &catching, &before[i]);
    }
    ~Faults() {
        for (int i = 0; i < 3; ++i) sigaction(SIGNALS[i], &before[i], nullptr);
        sigaltstack(&stack_before, nullptr);
    }

  private:
    static constexpr int SIGNALS[3] = {SIGSEGV, SIGILL, SIGFPE};

    static void report(int number, siginfo_t* info, void* context) {
#if defined(__x86_64__)
        void* pc = (void*)(((ucontext_t*)context)->uc_mcontext.gregs[REG_RIP] + 1);
#elif defined(__aarch64__)
        void* pc = (void*)(((ucontext_t*)context)->uc_mcontext.pc + 1);
#else
        void* pc = nullptr;
#endif
        if (number == SIGFPE) fail("it divides a whole number by zero.", pc, 0);
        if (number == SIGILL) fail("the compiler knows that this is undefined: a null pointer, say.", pc, 0);
        char* at = (char*)info->si_addr;
        if (below_the_stack(at)) out_of_stack(pc);
        fail("it reads or writes where no array is.", pc, 0);
    }

    char memory[64 << 10];
    stack_t stack_before;
    struct sigaction before[3];
};
