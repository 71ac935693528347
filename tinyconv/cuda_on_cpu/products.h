// A part of runtime.cpp: the matrix products of a warpgroup, whose factors lie in shared memory.
#pragma once

// Dynamic shared memory lies behind the other, at a multiple of 1024 bytes.
size_t dynamic_address() { return (shared.bytes + 1023) / 1024 * 1024; }

// 16 bytes of a factor, at an address in shared memory. All threads of the warpgroup read them.
char* factor(size_t address) {
    bool dynamic = address >= dynamic_address();
    Buffer& b = dynamic ? dynamic_shared : shared;
    size_t at = address - (dynamic ? dynamic_address() : 0);
    if (at + 16 > b.bytes) fail("its descriptor leads out of shared memory.", nullptr, 0);
    if (!watch) return b.start + at;
    access(b.start + at, 16, false, nullptr);
    for (size_t i = at; i < at + 16; ++i) {
        Access& a = b.accesses[i];
        a.reader = SEVERAL;
        if (a.writer >= 0 && a.written > fibres[a.writer].published)
            fail("it multiplies " + element(b, b.start + i) + ", which " + thread_name(a.writer) +
                     " has written and not published: publish() has to stand before the barrier.", nullptr, 0);
    }
    return b.start + at;
}

// `rows` of 16 numbers of bf16, by a descriptor of 128-byte swizzled tiles (PTX ISA, "Matrix Descriptor Format"): lines
// run along k, or, turned, along the rows.
void read_factor(unsigned long long descriptor, int rows, bool turned, float (*to)[16]) {
    auto field = [&](int bit) { return (descriptor >> bit & 0x3fff) << 4; };
    size_t start = field(0), next = field(16), eight_lines = field(32);
    if (descriptor >> 62 != 1) fail("its descriptor asks for a layout other than 128-byte swizzle.", nullptr, 0);
    for (int first = 0; first < rows * 16; first += 8) {  // 8 numbers that are neighbours
        int r = turned ? first % rows : first / 16, k = turned ? first / rows : first % 16, line = turned ? k : r;
        size_t at = start + line / 8 * eight_lines + line % 8 * 128 + (turned ? r / 64 * next + r % 64 * 2 : k * 2);
        const char* chunk = factor(at ^ (at >> 7 & 7) << 4);
        for (int i = 0; i < 8; ++i) {
            float& number = turned ? to[r + i][k] : to[r][k + i];
            number = 0;
            memcpy((char*)&number + 2, chunk + 2 * i, 2);  // the upper half of a float
        }
    }
}

float factor_a[64][16], factor_b[128][16];

void read_factors(const Product& p) {
    product_line = p.line;
    read_factor(p.a, 64, p.turned, factor_a);
    read_factor(p.b, 128, p.turned, factor_b);
    product_line = 0;
}

// When a product begins, it may read; until it has ended, it may still do so: its sums are made then.
void look_at_factors(void** threads) {
    Product& first = *(Product*)threads[0];
    for (int i = 0; i < 128; ++i) {
        Product& other = *(Product*)threads[i];
        if (other.a != first.a || other.b != first.b)
            fail("the threads of a warpgroup give different descriptors to begin_product().", nullptr, first.line);
    }
    read_factors(first);
}

void multiply(void** threads) {
    std::vector<Product>& all = *(std::vector<Product>*)threads[0];
    for (size_t i = 0; i < all.size(); ++i) {
        read_factors(all[i]);
        for (int row = 0; row < 64; ++row)
            for (int column = 0; column < 128; ++column) {
                auto& of_thread = *(std::vector<Product>*)threads[row / 16 * 32 + row % 8 * 4 + column % 8 / 2];
                float& c = of_thread[i].c[column / 8 * 4 + row % 16 / 8 * 2 + column % 2];
                double sum = c;
                for (int k = 0; k < 16; ++k) sum += (double)factor_a[row][k] * factor_b[column][k];
                c = sum;
            }
    }
}
