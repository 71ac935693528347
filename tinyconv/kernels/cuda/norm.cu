// Normalisation: y = w (x - mean) / sqrt(var + eps) + b. x is seen as (A, C, L), and the statistics of each c are taken
// over all a and l: for batch norm C are the channels, for instance, group and layer norm A is 1 and C counts the
// groups of numbers that are normalised together. The weight of element i is w[i / inner % count]. REAL is float or
// double.
//
// Every pass over x is bound by memory. So the sums of one c are shared out among many teams of threads, whose results
// a second kernel puts together, always in the same order; and no index is divided inside of a loop.

#include "threads.h"
#include "four.h"

const int CHUNK = 8;  // numbers that a thread loads before it computes

// How a sum over a and l is shared out: `parts` teams for each c. A team of `lanes` threads has a segment of `length`
// numbers of a row (a, c): neighbouring threads, neighbouring numbers. Where rows are short a team is one thread and
// has a segment of a column (c, l): neighbours are again beside each other.
struct Teams { INDEX A, C, L, segments, length, parts; int lanes; };

// The numbers of one team: `count` of them, `step` apart; it makes part `part` of the sum of c.
struct Team { INDEX start, step, count, c, part; };

__device__ Team team(Teams s) {
    INDEX t = team_number(s.lanes), width = s.C * s.L;
    bool columns = s.lanes == 1;
    INDEX segment = columns ? t / width : t % s.segments, line = columns ? t % width : t / s.segments;
    INDEX first = segment * s.length, end = columns ? s.A : s.L, most = end > first ? end - first : 0;
    if (line >= (columns ? width : s.A * s.C) || segment >= s.segments) most = 0;  // no such team
    INDEX count = most < s.length ? most : s.length;
    if (columns) return {first * width + line, width, count, line / s.L, segment * s.L + line % s.L};
    return {line * s.L + first, 1, count, line % s.C, line / s.C * s.segments + segment};
}

// How many of its team's numbers a thread has: every lanes-th.
__device__ INDEX own_count(Team t, int lane, int lanes) {
    return t.count > lane ? (t.count - lane - 1) / lanes + 1 : 0;
}

// How many numbers, their mean, and the sum of the squares of (x - mean).
struct Moments { double number, mean, squares; };

// Of both together. Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
// variances", 1979.
__device__ Moments together(Moments a, Moments b) {
    if (b.number == 0) return a;
    double number = a.number + b.number, apart = b.mean - a.mean, share = b.number / number;
    return {number, a.mean + apart * share, a.squares + b.squares + apart * apart * a.number * share};
}

// The moments of a team's numbers. A thread squares what is left of a few numbers when their own mean is taken off, so
// that no digits are lost; in float64 it then refers the sums to one shift, the first thread's first mean, which costs
// less than joining moments.
__device__ Moments moments(const REAL* x, Team t, int lane, int lanes) {
    INDEX step = lanes * t.step, own = own_count(t, lane, lanes), done = 0;
    const REAL* from = x + t.start + lane * t.step;
    double sum = 0, squares = 0;
    REAL shift = 0;
    do {  // once in every thread of a warp, since these exchange the shift
        int n = own - done < CHUNK ? own - done : CHUNK;
        REAL value[CHUNK], total = 0, first = 0, second = 0;
        for (int k = 0; k < CHUNK; ++k) value[k] = k < n ? from[k * step] : REAL(0);
        for (int k = 0; k < CHUNK; ++k) total += value[k];
        REAL centre = n == CHUNK ? total * (REAL(1) / CHUNK) : n ? total / n : REAL(0);
        for (int k = 0; k < CHUNK; ++k) {
            REAL apart = k < n ? value[k] - centre : REAL(0);
            first += apart;
            second += apart * apart;
        }
        if (!done) shift = __shfl_sync(0xffffffff, centre, 0, lanes);
        double off = double(centre) - shift, moved = n * off;
        sum += first + moved;
        squares += second + off * (2.0 * first + moved);
        from += CHUNK * step, done += n;
    } while (done < own);
    sum = team_sum(sum, lanes), squares = team_sum(squares, lanes);
    double apart = sum / t.count;
    return {double(t.count), shift + apart, squares - sum * apart};
}

__device__ double variance(Moments m) { return m.squares < 0 ? 0 : m.squares / m.number; }

// parts (C, parts, 3): the moments of each team.
extern "C" __global__ void statistics(const REAL* x, double* parts, Teams teams) {
    Team t = team(teams);
    int lanes = teams.lanes, lane = threadIdx.x % lanes;
    Moments m = moments(x, t, lane, lanes);
    double* to = parts + (t.c * teams.parts + t.part) * 3;
    if (lane == 0 && t.count) to[0] = m.number, to[1] = m.mean, to[2] = m.squares;
}

// Mean and variance from the parts: a warp each c.
extern "C" __global__ void join_statistics(const double* parts, double* mean, double* var, INDEX C, INDEX P) {
    INDEX c = team_number(32);
    int lane = threadIdx.x % 32;
    Moments all = {0, 0, 0};
    for (INDEX p = lane; c < C && p < P; p += 32) {
        const double* from = parts + (c * P + p) * 3;
        all = together(all, {from[0], from[1], from[2]});
    }
    for (int step = 16; step > 0; step /= 2) {
        Moments other = {__shfl_down_sync(0xffffffff, all.number, step), __shfl_down_sync(0xffffffff, all.mean, step),
                         __shfl_down_sync(0xffffffff, all.squares, step)};
        if (lane < step) all = together(all, other);
    }
    if (c < C && lane == 0) mean[c] = all.mean, var[c] = variance(all);
}

// A mean as two numbers, so that nothing is lost when it is rounded to REAL, and 1 / sqrt(var + eps).
struct Scale { REAL centre, rest, factor; };

__device__ Scale scale(double mean, double var, double eps) {
    REAL centre = REAL(mean);
    return {centre, REAL(mean - centre), rsqrt(REAL(var + eps))};
}
__device__ REAL normalised(REAL x, Scale s) { return (x - s.centre - s.rest) * s.factor; }

// How statistics and weights lie: element i has those of i / size % groups and of i / inner % count.
struct Layout { INDEX groups, size, inner, count; };

// f(j, c, k, fresh) for the four elements i + j: their statistics c, their weight k, and whether c is another than
// before.
template <class F> __device__ void walk(INDEX i, Layout at, F f) {
    INDEX row = i / at.size, l = i - row * at.size, c = row % at.groups, r = l, k = c;
    if (at.size != at.inner || at.groups != at.count) row = i / at.inner, r = i - row * at.inner, k = row % at.count;
    if (at.size % 4 == 0 && at.inner % 4 == 0) {
        for (int j = 0; j < 4; ++j) f(j, c, k, j == 0);
        return;
    }
    for (int j = 0; j < 4; ++j) {
        f(j, c, k, j == 0 || l == 0);
        if (++l == at.size) l = 0, c = c + 1 == at.groups ? 0 : c + 1;
        if (++r == at.inner) r = 0, k = k + 1 == at.count ? 0 : k + 1;
    }
}

// y, four elements a thread.
extern "C" __global__ void scale_shift(const REAL* x, const double* mean, const double* var, const REAL* w,
                                       const REAL* b, REAL* y, INDEX n, Layout at, double eps) {
    INDEX i = 4 * thread_number();
    if (i >= n) return;
    Four<REAL> four = load(x, i, n);
    Scale s;
    walk(i, at, [&](int j, INDEX c, INDEX k, bool fresh) {
        if (fresh) s = scale(mean[c], var[c], eps);
        four.at[j] = normalised(four.at[j], s) * w[k] + b[k];
    });
    store(y, i, n, four);
}

// Which of `count` values element i has, each holding for `size` elements, and of the element `step` further on.
struct Cursor { INDEX rest, at, size, count, rest_step, at_step; };

__device__ Cursor cursor(INDEX i, INDEX step, INDEX size, INDEX count) {
    return {i % size, i / size % count, size, count, step % size, step / size % count};
}
__device__ void advance(Cursor& c) {
    c.rest += c.rest_step, c.at += c.at_step;
    if (c.rest >= c.size) c.rest -= c.size, ++c.at;
    if (c.at >= c.count) c.at -= c.count;
}

// Mean, variance and y where a team has all numbers of a c: it reads them again while they are in the cache.
extern "C" __global__ void normalise_rows(const REAL* x, double* mean, double* var, const REAL* w, const REAL* b,
                                          REAL* y, Teams teams, Layout at, double eps) {
    Team t = team(teams);
    int lanes = teams.lanes, lane = threadIdx.x % lanes;
    Moments m = moments(x, t, lane, lanes);
    if (!t.count) return;
    if (lane == 0) mean[t.c] = m.mean, var[t.c] = variance(m);
    Scale s = scale(m.mean, variance(m), eps);
    INDEX step = lanes * t.step, i = t.start + lane * t.step, own = own_count(t, lane, lanes);
    Cursor by = cursor(i, step, at.inner, at.count);
    for (INDEX done = 0; done < own; done += CHUNK, i += CHUNK * step) {
        REAL value[CHUNK];
        for (int k = 0; k < CHUNK; ++k) value[k] = done + k < own ? x[i + k * step] : REAL(0);
        for (int k = 0; k < CHUNK; ++k, advance(by))
            if (done + k < own) y[i + k * step] = normalised(value[k], s) * w[by.at] + b[by.at];
    }
}

// parts (C, parts, 2): of each team the sums of g and of g n, n the normalised x. The teams may be those of the
// weights; with MOVING the statistics are not the same for all elements of a team. WEIGHTED: g w for g.
template <bool WEIGHTED, bool MOVING>
__device__ void add_up(const REAL* g, const REAL* x, const double* mean, const double* var, const REAL* w,
                       double* parts, Teams teams, Layout at, double eps) {
    Team t = team(teams);
    int lanes = teams.lanes, lane = threadIdx.x % lanes;
    INDEX step = lanes * t.step, i = t.start + lane * t.step, own = own_count(t, lane, lanes);
    Cursor of = MOVING ? cursor(i, step, at.size, at.groups) : Cursor();
    Cursor by = WEIGHTED ? cursor(i, step, at.inner, at.count) : Cursor();
    INDEX c = i / at.size % at.groups;
    Scale s = scale(mean[c], var[c], eps);
    double first = 0, second = 0;
    for (INDEX done = 0; done < own; done += CHUNK, i += CHUNK * step) {
        int n = own - done < CHUNK ? own - done : CHUNK;
        REAL given[CHUNK], value[CHUNK], plain = 0, product = 0;
        for (int k = 0; k < CHUNK; ++k) {
            given[k] = k < n ? g[i + k * step] : REAL(0), value[k] = k < n ? x[i + k * step] : REAL(0);
            if (WEIGHTED) given[k] *= w[by.at], advance(by);
        }
        for (int k = 0; k < CHUNK; ++k) {
            if (MOVING) s = scale(mean[of.at], var[of.at], eps), advance(of);
            plain += given[k];
            product += k < n ? given[k] * normalised(value[k], s) : REAL(0);
        }
        first += plain, second += product;
    }
    first = team_sum(first, lanes), second = team_sum(second, lanes);
    double* to = parts + (t.c * teams.parts + t.part) * 2;
    if (lane == 0 && t.count) to[0] = first, to[1] = second;
}

extern "C" __global__ void gradient_parts(const REAL* g, const REAL* x, const double* mean, const double* var,
                                          const REAL* w, double* parts, Teams teams, Layout at, double eps) {
    add_up<false, false>(g, x, mean, var, w, parts, teams, at, eps);
}
extern "C" __global__ void gradient_parts_moving(const REAL* g, const REAL* x, const double* mean, const double* var,
                                                 const REAL* w, double* parts, Teams teams, Layout at, double eps) {
    add_up<false, true>(g, x, mean, var, w, parts, teams, at, eps);
}
extern "C" __global__ void gradient_parts_weighted(const REAL* g, const REAL* x, const double* mean, const double* var,
                                                   const REAL* w, double* parts, Teams teams, Layout at, double eps) {
    add_up<true, false>(g, x, mean, var, w, parts, teams, at, eps);
}

// db and dw[c] = the sums of parts; sums[c] = the same, with `weighted` each times its weight. The parts (count, P, 2)
// are those of rows of x, `segments` of each; c has `runs` rows, one after the other, in each a. A warp each c.
extern "C" __global__ void join_gradients(const REAL* w, const double* parts, double* sums, REAL* dw, REAL* db, INDEX C,
                                          INDEX A, INDEX runs, INDEX segments, INDEX P, INDEX count, int weighted) {
    INDEX c = team_number(32);
    int lane = threadIdx.x % 32;
    double plain[2] = {}, scaled[2] = {};
    for (INDEX j = lane; c < C && j < A * runs * segments; j += 32) {
        INDEX row = (j / segments / runs * C + c) * runs + j / segments % runs, k = row % count;
        const double* from = parts + (k * P + row / count * segments + j % segments) * 2;
        for (int e = 0; e < 2; ++e) plain[e] += from[e], scaled[e] += weighted ? from[e] * w[k] : from[e];
    }
    for (int e = 0; e < 2; ++e) plain[e] = team_sum(plain[e], 32), scaled[e] = team_sum(scaled[e], 32);
    if (c < C && lane == 0) {
        sums[2 * c] = scaled[0], sums[2 * c + 1] = scaled[1];
        db[c] = plain[0], dw[c] = plain[1];
    }
}

struct Means { REAL plain, product; };

// dx = (g w - mean(g w) - n mean(g w n)) / sqrt(var + eps), four elements a thread; share = 1 / the numbers of each c.
extern "C" __global__ void gradient_input(const REAL* g, const REAL* x, const double* mean, const double* var,
                                          const REAL* w, const double* sums, REAL* dx, INDEX n, Layout at,
                                          double share, double eps) {
    INDEX i = 4 * thread_number();
    if (i >= n) return;
    Four<REAL> given = load(g, i, n), four = load(x, i, n);
    Scale s;
    Means m;
    walk(i, at, [&](int j, INDEX c, INDEX k, bool fresh) {
        if (fresh) {
            s = scale(mean[c], var[c], eps);
            m = {REAL(sums[2 * c] * share), REAL(sums[2 * c + 1] * share)};
        }
        REAL value = normalised(four.at[j], s);
        four.at[j] = (given.at[j] * w[k] - m.plain - value * m.product) * s.factor;
    });
    store(dx, i, n, four);
}
