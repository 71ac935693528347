// Four neighbouring elements a thread: of float32 they are one load of 16 bytes, and enough loads are on their way to
// keep a GPU's memory busy.

template <class T> struct alignas(sizeof(T) < 8 ? 4 * sizeof(T) : 16) Four { T at[4]; };

// Whether the elements from i on are four, and lie as one load wants them.
template <class T> __device__ bool fits(const T* p, INDEX i, INDEX n) {
    return n - i >= 4 && (unsigned long long)(p + i) % alignof(Four<T>) == 0;
}

// Elements i to i + 3 of n; what lies beyond the end is 0.
template <class T> __device__ Four<T> load(const T* p, INDEX i, INDEX n) {
    if (fits(p, i, n)) return *(const Four<T>*)(p + i);
    Four<T> four = {};
    for (int j = 0; j < 4; ++j)
        if (i + j < n) four.at[j] = p[i + j];
    return four;
}

template <class T> __device__ void store(T* p, INDEX i, INDEX n, Four<T> four) {
    if (fits(p, i, n)) {
        *(Four<T>*)(p + i) = four;
        return;
    }
    for (int j = 0; j < 4; ++j)
        if (i + j < n) p[i + j] = four.at[j];
}

// y = f(x, ...) of n elements.
template <class F, class... X> __device__ void each(INDEX n, F f, REAL* y, const X*... x) {
    INDEX i = 4 * thread_number();
    if (i >= n) return;
    auto apply = [&](Four<X>... four) {
        Four<REAL> result;
        for (int j = 0; j < 4; ++j) result.at[j] = f(four.at[j]...);
        return result;
    };
    store(y, i, n, apply(load(x, i, n)...));
}
