// One pass over the logits: summed loss, gradient and per-category gradient sums together.
//
// A logit x whose category isn't the row's label ("negative") has the loss
//     w p^g softplus(x),   p = sigmoid(x),   derivative   w p^g (g (1-p) softplus(x) + p)
// and the labelled one ("positive") the same of -x with a separate weight; g and both weights are
// per category. With a quality q the positive is w |q-p|^g BCE(p, q) instead.
//
// Rows are read in tiles short enough for a float sum over one to be accurate; sums over tiles are
// in double. A tile that contains labelled or ignored cells is copied and these cells masked by a
// logit so low that it adds exactly zero; labelled cells are collected and computed separately. So
// the loop over the other 99 % reads no labels and has no branches. Rows are split into chunks by
// shape only and chunks are summed in order: the result doesn't depend on the number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif
#if defined(__x86_64__) && !defined(__FMA__)
#error "needs fused multiply-add"
#endif

namespace {

constexpr int64_t kPiece = 256;    // elements processed at once; their buffers fit the L1 cache
constexpr int64_t kFlush = 32;     // tiles between float and double gradient sums
constexpr int64_t kChunks = 64;
constexpr int64_t kChunkElements = 1 << 15;  // no smaller chunks than this

// ------------------------------------------------------------------ float, bfloat16, float16

template <class To, class From>
inline To bits(From x) {
  To y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

inline float load(float x) { return x; }
inline float load(BFloat16 x) { return bits<float>(uint32_t(x.bits) << 16); }
inline float load(Float16 x) {
  // Shift exponent and mantissa, then multiply to correct the exponent bias and subnormals.
  uint32_t magnitude = uint32_t(x.bits & 0x7fff) << 13;
  float y = bits<float>(magnitude) * 0x1p112f;
  y = magnitude >= 0x0f800000u ? bits<float>(magnitude | 0x7f800000u) : y;  // inf, NaN
  return bits<float>(bits<uint32_t>(y) | (uint32_t(x.bits & 0x8000) << 16));
}

inline void store(float& to, float x) { to = x; }
inline void store(BFloat16& to, float x) {
  uint32_t u = bits<uint32_t>(x);
  uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
  to.bits = uint16_t(x != x ? 0x7fc0u : rounded);
}
inline void store(Float16& to, float x) {
  uint32_t u = bits<uint32_t>(x), sign = (u >> 16) & 0x8000, a = u & 0x7fffffffu;
  // Adding 1/2 aligns the last bit of a subnormal half with that of the float: the sum rounds it.
  uint32_t subnormal = bits<uint32_t>(bits<float>(a) + 0.5f) - 0x3f000000u;
  uint32_t normal = (a + 0xc8000fffu + ((a >> 13) & 1)) >> 13;
  uint32_t h = a < 0x38800000u ? subnormal : normal;
  h = a >= 0x477ff000u ? 0x7c00u : h;
  h = a > 0x7f800000u ? 0x7e00u : h;
  to.bits = uint16_t(sign | h);
}

inline const float* widened(const float* x, int64_t, float*) { return x; }
template <class T>
inline const float* widened(const T* x, int64_t n, float* buffer) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) buffer[i] = load(x[i]);
  return buffer;
}

// Sigmoid and softplus of this logit are exactly 0.
inline void mask(float& x) { x = -1e30f; }
inline void mask(BFloat16& x) { x.bits = 0xf149; }
inline void mask(Float16& x) { x.bits = 0xfb53; }

// ------------------------------------------------------------------ elementary functions

constexpr double kLog2eExact = 1.4426950408889634;
constexpr float kLog2e = 1.44269502f, kLog2eTail = 1.92596299e-8f;
constexpr float kRound = 12582912.f;  // 1.5 * 2^23: the low bits of kRound + x hold round(x)

// 2^(r + n), |r| <= 1/2, where `rounded` = kRound + n; 0 where the result is below FLT_MIN.
inline float exp2(float r, float rounded) {
  float y = 0.0013276449f;  // minimax polynomial, relative error 7.5e-8
  y = std::fma(y, r, 0.009675564f);
  y = std::fma(y, r, 0.05550713f);
  y = std::fma(y, r, 0.24022119f);
  y = std::fma(y, r, 0.69314697f);
  y = std::fma(y, r, 1.00000007f);
  y = bits<float>(bits<uint32_t>(y) + (bits<uint32_t>(rounded) << 23));
  return rounded < kRound - 126.5f ? 0.f : y;
}

// log1p(e) = 2 atanh(q / 2) with q = e / (1 + e / 2), for e in [0, 1].
inline float log1p_from(float q) {
  float s = q * q, y = 0.00055035811f;  // minimax polynomial, relative error 4e-9
  y = std::fma(y, s, 0.0021844221f);
  y = std::fma(y, s, 0.012507784f);
  y = std::fma(y, s, 0.083332893f);
  y = std::fma(y, s, 1.f);
  return y * q;
}

// p^g for p = sigmoid(x), given l = log1p(exp(-|x|)) and g / ln 2 in two parts.
//
// It is 2^(g log2 p) with log p = min(x, 0) - l. The exponent goes down to -126, where rounding it
// would cause an error of 1e-5, so only its integer part is taken from the rounded product.
inline float power(float x, float l, float log2, float tail) {
  float m = x < 0.f ? x : 0.f;
  float z = std::fma(m - l, log2, kRound), k = z - kRound;
  float t = std::fma(m, tail, std::fma(m, log2, -k));
  return exp2(std::fma(-l, log2, t), z);
}

enum Power { kZero, kSquare, kAny };

struct Category {
  const float *gamma, *log2, *tail, *weight;  // log2 + tail = gamma / ln 2, to 48 bits

  Category operator+(int64_t k) const { return {gamma + k, log2 + k, tail + k, weight + k}; }
};

// Loss and derivative of n <= kPiece negatives; returns the loss summed, adds |derivative| to sums.
//
// Several short loops over buffers in the L1 cache instead of a long one: from logit to gradient
// takes 150 cycles, more than out-of-order execution covers; iterations of short loops overlap.
template <int P, bool Sums, class T>
inline float negatives(const T* logits, Category category, int64_t n, T* grad, float* sums) {
  alignas(64) float wide[kPiece], e[kPiece], r[kPiece], l[kPiece];
  const float* x = widened(logits, n, wide);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {  // e = exp(-|x|)
    float a = -std::fabs(x[i]), z = std::fma(a, kLog2e, kRound), k = z - kRound;
    e[i] = exp2(std::fma(a, kLog2eTail, std::fma(a, kLog2e, -k)), z);
  }
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {  // r = 1 / (1 + e), l = log1p(e), from one division
    float e1 = 1.f + e[i], half = std::fma(0.5f, e[i], 1.f), d = 1.f / (e1 * half);
    r[i] = half * d;
    l[i] = log1p_from(e[i] * (e1 * d));
  }
  float loss = 0.f;
#pragma omp simd reduction(+ : loss)
  for (int64_t i = 0; i < n; ++i) {
    float er = e[i] * r[i];
    float p = x[i] >= 0.f ? r[i] : er, not_p = x[i] >= 0.f ? er : r[i];
    float softplus = (x[i] > 0.f ? x[i] : 0.f) + l[i];
    float gamma = P == kAny ? category.gamma[i] : 2.f;
    float weight = category.weight[i];
    if (P == kSquare) weight *= p * p;
    if (P == kAny) weight *= power(x[i], l[i], category.log2[i], category.tail[i]);
    float d = weight * (P == kZero ? p : std::fma(gamma * not_p, softplus, p));
    loss += weight * softplus;
    store(grad[i], d);
    if (Sums) sums[i] += d;
  }
  return loss;
}

// The positive of the quality focal loss, in double since q - p may cancel; there are few of them.
inline double quality_positive(double x, double q, double gamma, double weight, float& grad) {
  double e = std::exp(-std::fabs(x)), l = std::log1p(e), r = 1 / (1 + e);
  double p = x >= 0 ? r : e * r, not_p = x >= 0 ? e * r : r;
  double bce = q * (std::max(-x, 0.0) + l) + (1 - q) * (std::max(x, 0.0) + l);
  double d = (1 - q) * p - q * not_p;  // p - q
  double size = std::fabs(d), power = gamma == 0 ? 1 : std::pow(size, gamma);
  double slope = gamma == 0 || size == 0 ? 0 : gamma * power / d;
  grad = float(weight * (power * d + slope * p * not_p * bce));
  return weight * power * bce;
}

// ------------------------------------------------------------------ rows

struct Job {
  const void* logits;
  const int64_t* labels;
  int64_t rows, cols, stride;  // stride: elements from a row to the next; columns are contiguous
  int64_t first;               // category of column 0
  int64_t background;          // largest label
  const float *gamma, *positive_weight, *negative_weight;  // one per column
  const float* quality;        // one per row, or null
  void* grad;                  // rows x cols, may be the logits; null: no gradient
  double* sums;                // 2 x cols: |gradient| of positives, of negatives; or null
};

// Settings per column, repeated for every row of a tile.
struct Tiled {
  std::vector<float> gamma, log2, tail, weight;

  Tiled(const float* g, const float* w, int64_t cols, int64_t rows) {
    for (int64_t i = 0; i < rows * cols; ++i) add(g[i % cols], w[i % cols]);
  }
  Tiled() = default;

  void add(float g, float w) {
    double exact = double(g) * kLog2eExact;
    gamma.push_back(g);
    weight.push_back(w);
    log2.push_back(float(exact));
    tail.push_back(float(exact - float(exact)));
  }
  Category category() const { return {gamma.data(), log2.data(), tail.data(), weight.data()}; }
};

// Consecutive rows, processed by one thread.
template <class T, int P, bool Sums>
class Chunk {
 public:
  double loss = 0;
  int64_t bad_row = -1;
  std::vector<double> positive_sums, negative_sums;

  Chunk(const Job& job, const Tiled& tiled, int64_t tile) : job(job), tiled(tiled), tile(tile) {}

  void run(int64_t begin, int64_t end) {
    copy.resize(tile * job.cols);
    if (!job.grad) scratch.resize(tile * job.cols);
    if (Sums) {
      partial.assign(tile * job.cols, 0.f);
      positive_sums.assign(job.cols, 0);
      negative_sums.assign(job.cols, 0);
    }
    for (int64_t row = begin; row < end; row += tile) {
      one_tile(row, std::min(tile, end - row));
      if (Sums && ++tiles % kFlush == 0) flush();
      if (int64_t(pending.size()) >= kPiece) positives();
    }
    if (Sums) flush();
    positives();
  }

 private:
  struct Cell {
    int64_t row, col;
    float x;
  };
  const Job& job;
  const Tiled& tiled;
  const int64_t tile;
  int64_t tiles = 0;
  std::vector<T> copy, scratch;
  std::vector<float> partial;
  std::vector<Cell> pending;

  void one_tile(int64_t row, int64_t n) {
    const int64_t cols = job.cols, size = n * cols;
    const T* x = static_cast<const T*>(job.logits) + row * job.stride;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t label = job.labels[row + i], col = label - job.first;
      if (label < -1 || label > job.background) bad_row = row + i;
      if (label >= 0 && (col < 0 || col >= cols)) continue;
      if (x != copy.data()) x = std::copy_n(x, size, copy.data()) - size;
      T* cells = copy.data() + i * cols;
      if (label < 0) {
        for (int64_t k = 0; k < cols; ++k) mask(cells[k]);
      } else {
        pending.push_back({row + i, col, load(cells[col])});
        mask(cells[col]);
      }
    }
    T* grad = job.grad ? static_cast<T*>(job.grad) + row * cols : scratch.data();
    for (int64_t k = 0; k < size; k += kPiece)
      loss += negatives<P, Sums>(x + k, tiled.category() + k, std::min(kPiece, size - k), grad + k,
                                 Sums ? partial.data() + k : nullptr);
  }

  // The labelled cells found since the last call; their tiles have set their gradient to 0.
  void positives() {
    float x[kPiece], slope[kPiece];
    for (size_t start = 0; start < pending.size(); start += kPiece) {
      const int64_t n = std::min<int64_t>(kPiece, pending.size() - start);
      const Cell* cells = pending.data() + start;
      Tiled own;
      for (int64_t i = 0; i < n; ++i) {
        const Cell at = cells[i];
        x[i] = -at.x;
        own.add(job.gamma[at.col], job.positive_weight[at.col]);
      }
      if (job.quality) {
        for (int64_t i = 0; i < n; ++i)
          loss += quality_positive(-x[i], job.quality[cells[i].row], own.gamma[i], own.weight[i],
                                   slope[i]);
      } else {
        loss += negatives<P, false>(x, own.category(), n, slope, static_cast<float*>(nullptr));
        for (int64_t i = 0; i < n; ++i) slope[i] = -slope[i];
      }
      for (int64_t i = 0; i < n; ++i) {
        const Cell at = cells[i];
        if (job.grad) store(static_cast<T*>(job.grad)[at.row * job.cols + at.col], slope[i]);
        if (Sums) positive_sums[at.col] += std::fabs(slope[i]);
      }
    }
    pending.clear();
  }

  void flush() {
    for (int64_t i = 0; i < tile; ++i)
      for (int64_t k = 0; k < job.cols; ++k) negative_sums[k] += partial[i * job.cols + k];
    std::fill(partial.begin(), partial.end(), 0.f);
  }
};

// Subnormal numbers take a hundred cycles on some processors and are flushed to 0 instead.
struct FlushSubnormals {
#if defined(__x86_64__)
  unsigned saved = _mm_getcsr();
  FlushSubnormals() { _mm_setcsr(saved | 0x8040); }
  ~FlushSubnormals() { _mm_setcsr(saved); }
#else
  FlushSubnormals() {}
#endif
};

// A new gradient is first accessed here: page faults of 2 MiB instead of 4 KiB are cheaper.
void ask_for_huge_pages(void* memory, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const uintptr_t huge = uintptr_t(1) << 21, start = uintptr_t(memory);
  const uintptr_t from = (start + huge - 1) / huge * huge, to = (start + bytes) / huge * huge;
  if (memory && to > from) madvise(reinterpret_cast<void*>(from), to - from, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

template <class T, int P, bool Sums>
int64_t run(const Job& job, double* loss, int threads) {
  const int64_t cols = job.cols;
  // Several short rows form a tile: no loop remainders, and a single column (K = 1) works too.
  const bool dense = job.stride == cols;
  const int64_t tile = dense ? std::max<int64_t>(1, kPiece / cols) : 1;
  const Tiled tiled(job.gamma, job.negative_weight, cols, tile);
  int64_t count = std::min(kChunks, job.rows * cols / kChunkElements);
  if (Sums) count = std::min(count, std::max<int64_t>(4, (1 << 18) / cols));  // bounds their memory
  count = std::max<int64_t>(1, count);
  int64_t rows = (job.rows + count - 1) / count;
  rows = (rows + tile - 1) / tile * tile;
  ask_for_huge_pages(job.grad, job.rows * cols * sizeof(T));

  std::vector<Chunk<T, P, Sums>> chunks(count, Chunk<T, P, Sums>(job, tiled, tile));
  threads = int(std::min<int64_t>(threads, count));
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
  for (int64_t c = 0; c < count; ++c) {
    FlushSubnormals guard;
    chunks[c].run(std::min(job.rows, c * rows), std::min(job.rows, (c + 1) * rows));
  }
  *loss = 0;
  int64_t bad_row = -1;
  for (const auto& chunk : chunks) {
    *loss += chunk.loss;
    bad_row = std::max(bad_row, chunk.bad_row);
    for (int64_t k = 0; Sums && k < cols; ++k) {
      job.sums[k] += chunk.positive_sums[k];
      job.sums[cols + k] += chunk.negative_sums[k];
    }
  }
  return bad_row;
}

template <class T, int P>
int64_t with_sums(const Job& job, double* loss, int threads) {
  return job.sums ? run<T, P, true>(job, loss, threads) : run<T, P, false>(job, loss, threads);
}

template <class T>
int64_t with_power(const Job& job, double* loss, int threads) {
  auto all = [&](float v) { return std::count(job.gamma, job.gamma + job.cols, v) == job.cols; };
  if (all(0.f)) return with_sums<T, kZero>(job, loss, threads);
  if (all(2.f)) return with_sums<T, kSquare>(job, loss, threads);
  return with_sums<T, kAny>(job, loss, threads);
}

}  // namespace

// dtype: 0 float, 1 bfloat16, 2 float16. Adds to `sums`. Returns the row of an impossible label,
// or -1.
extern "C" int64_t hyperfocal_sigmoid_sum(int dtype, const void* logits, const int64_t* labels,
                                          int64_t rows, int64_t cols, int64_t stride, int64_t first,
                                          int64_t background, const float* gamma,
                                          const float* positive_weight,
                                          const float* negative_weight, const float* quality,
                                          void* grad, double* sums, double* loss, int threads) {
  const Job job{logits,          labels,          rows,    cols, stride, first, background, gamma,
                positive_weight, negative_weight, quality, grad, sums};
  switch (dtype) {
    case 0:
      return with_power<float>(job, loss, threads);
    case 1:
      return with_power<BFloat16>(job, loss, threads);
    default:
      return with_power<Float16>(job, loss, threads);
  }
}
