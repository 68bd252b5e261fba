// Compares every kernel of one level of the native CPU library with the portable level, on random
// inputs, through the library's C interface: for processors on which there is no torch, such as
// emulated ones.
//
//   against_portable             prints the levels that this processor has
//   against_portable LEVEL       compares; exits with 1 where something is wrong
//
// Limits are those of tests/kernels/test_native_products.py and test_native_blocks.py. The smallest
// products come within a tenth of theirs at every level with 15-bit activations, so the numbers are
// the same at each run and in every standard library.
#include <limits>

#include "compare.h"

namespace {

constexpr double kExact = 6e-5;  // of 15-bit activations
constexpr double kFloat = 1e-5;  // of float32 in another order
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

ossia_context *portable, *level;

// A packed matrix and what it says; `wide_weights` is empty for INT8, which rounds.
struct Matrix {
  ossia_matrix view;
  std::shared_ptr<uint8_t> values, scales;
  Floats bias;
  std::vector<double> wide_weights;
};

void pack_one_mxfp4(Matrix &m, int64_t number, int64_t value_bytes, int64_t scale_bytes) {
  constexpr double kValues[16] = {0,  0.5,  1,  1.5,  2,  3,  4,  6,
                                  0,  -0.5, -1, -1.5, -2, -3, -4, -6};
  const int64_t rows = m.view.rows, inputs = m.view.inputs;
  const auto blocks = bytes(rows * inputs / 2, 0, 255), codes = bytes(rows * inputs / 32, 118, 125);
  must(ossia_pack_mxfp4(portable, blocks.data(), codes.data(), rows, inputs,
                        m.values.get() + number * value_bytes,
                        m.scales.get() + number * scale_bytes),
       "packing MXFP4");
  for (int64_t i = 0; i < rows * inputs; ++i) {
    const int nibble = blocks[i / 2] >> (i % 2 * 4) & 15;
    m.wide_weights.push_back(kValues[nibble] * std::exp2(codes[i / 32] - 127));
  }
}

Matrix make_matrix(int64_t kind, int64_t count, int64_t rows, int64_t inputs) {
  const int64_t value_bytes = ossia_value_bytes(kind, rows, inputs);
  const int64_t scale_bytes = ossia_scale_bytes(kind, rows, inputs);
  Matrix m{};
  m.values = aligned(count * value_bytes + 8192);
  m.scales = aligned(count * scale_bytes + 8192);
  m.bias = normal(count * rows);
  m.view = {kind, count, rows, inputs, m.values.get(), m.scales.get(), m.bias.data()};
  if (kind == OSSIA_MXFP4) {
    for (int64_t i = 0; i < count; ++i) pack_one_mxfp4(m, i, value_bytes, scale_bytes);
    return m;
  }
  std::vector<uint16_t> weight;
  for (const float x : normal(rows * inputs)) weight.push_back(bfloat(x));
  if (kind == OSSIA_INT8) {
    must(ossia_pack_int8(portable, weight.data(), rows, inputs, m.values.get(),
                         reinterpret_cast<uint16_t *>(m.scales.get())),
         "packing INT8");
    return m;
  }
  must(ossia_pack_bf16(portable, weight.data(), rows, inputs,
                       reinterpret_cast<uint16_t *>(m.values.get())),
       "packing BF16");
  for (const uint16_t w : weight) m.wide_weights.push_back(wide(w));
  return m;
}

// Activations whose blocks differ in size, as after a norm with learned weights.
Floats activations(int64_t tokens, int64_t inputs) {
  Floats x = normal(tokens * inputs);
  Floats sizes(static_cast<size_t>(inputs));
  for (float &size : sizes) size = std::exp(4.0f * uniform());
  for (int64_t i = 0; i < tokens * inputs; ++i) x[i] *= sizes[i % inputs];
  return x;
}

Floats linear(ossia_context *context, const Matrix &m, const float *x, int64_t tokens,
              const float *residual) {
  Floats out(static_cast<size_t>(tokens * m.view.rows), kNan);
  must(ossia_linear(context, x, tokens, &m.view, residual, out.data()), "linear");
  return out;
}

void check_linear(int64_t kind, int64_t rows, int64_t inputs) {
  const Matrix m = make_matrix(kind, 1, rows, inputs);
  for (const int64_t tokens : {1, 2, 3, 4, 5, 6, 7, 8, 33}) {
    char what[80];
    std::snprintf(what, sizeof what, "linear, kind %d [%d, %d], %d tokens", static_cast<int>(kind),
                  static_cast<int>(rows), static_cast<int>(inputs), static_cast<int>(tokens));
    const Floats x = activations(tokens, inputs), residual = normal(tokens * rows);
    const Floats found = linear(level, m, x.data(), tokens, residual.data());
    expect_close(found, linear(portable, m, x.data(), tokens, residual.data()), kExact, what);
    const Floats alone = linear(level, m, x.data() + (tokens - 1) * inputs, 1,
                                residual.data() + (tokens - 1) * rows);
    const float *last = found.data() + (tokens - 1) * rows;
    expect(std::memcmp(alone.data(), last, alone.size() * sizeof(float)) == 0,
           "bits of a token that is alone");
    if (m.wide_weights.empty()) continue;
    std::vector<double> wanted;
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t r = 0; r < rows; ++r) {
        double sum = static_cast<double>(m.bias[r]) + residual[t * rows + r];
        for (int64_t k = 0; k < inputs; ++k) {
          sum += m.wide_weights[r * inputs + k] * x[t * inputs + k];
        }
        wanted.push_back(sum);
      }
    }
    expect_close(found, wanted, kExact, what);
  }
}

void check_not_a_number() {
  const Matrix m = make_matrix(OSSIA_INT8, 1, 32, 64);
  Floats x = activations(3, 64);
  x[64 + 5] = kNan;
  const Floats out = linear(level, m, x.data(), 3, nullptr);
  for (int i = 0; i < 96; ++i) {
    expect(std::isnan(out[i]) == (i / 32 == 1), "a NaN stays in its token");
  }
}

void check_experts(int64_t tokens) {
  constexpr int64_t kExperts = 5, kHidden = 96, kUnits = 160, kChosen = 3;
  const Matrix up = make_matrix(OSSIA_MXFP4, kExperts, 2 * kUnits, kHidden);
  const Matrix down = make_matrix(OSSIA_MXFP4, kExperts, kHidden, kUnits);
  const Floats x = normal(tokens * kHidden), residual = normal(tokens * kHidden);
  Floats shares = normal(tokens * kChosen, 0.5f);
  std::vector<int32_t> chosen;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t j = 0; j < kChosen; ++j) {
      chosen.push_back(static_cast<int32_t>((t * 7 / 3 + j * (1 + t % 2)) % kExperts));
    }
  }
  const auto run = [&](ossia_context *context) {
    Floats out(x.size(), kNan);
    must(ossia_moe(context, x.data(), tokens, chosen.data(), shares.data(), kChosen, &up.view,
                   &down.view, 1.702f, 7.0f, residual.data(), out.data()),
         "experts");
    return out;
  };
  expect_close(run(level), run(portable), 2 * kExact, "experts");
}

void check_norm_and_router(int64_t tokens, int64_t experts, int64_t hidden) {
  const Floats x = normal(tokens * hidden), weight = normal(hidden);
  const Floats router = normal(experts * hidden), bias = normal(experts);
  struct Result {
    Floats normed, shares;
    std::vector<int32_t> chosen;
  };
  const auto run = [&](ossia_context *context) {
    Result r{Floats(x.size(), kNan), Floats(tokens * 4, kNan), std::vector<int32_t>(tokens * 4)};
    must(ossia_rms_norm(context, x.data(), tokens, hidden, weight.data(), 1e-5f, r.normed.data()),
         "norm");
    must(ossia_route(context, x.data(), tokens, hidden, router.data(), bias.data(), experts, 4,
                     r.chosen.data(), r.shares.data()),
         "router");
    return r;
  };
  const Result found = run(level), wanted = run(portable);
  expect_close(found.normed, wanted.normed, kFloat, "norm");
  expect_close(found.shares, wanted.shares, 1e-4, "shares of the router");
  expect(found.chosen == wanted.chosen, "choice of the router");
}

// Three sequences over shuffled pages: one token after 299, a whole prompt of 70, one after 529.
void check_attention(const ossia_heads &heads, bool bf16) {
  constexpr int64_t kPage = 16, kWidth = 34, kPages = 3 * kWidth, kTokens = 72;
  const std::vector<int32_t> lengths = {300, 70, 530}, starts = {0, 1, 71, 72}, firsts = {0, 0, 0};
  const int64_t dim = heads.head_dim, kv = heads.kv_heads, row = (heads.heads + 2 * kv) * dim;
  std::vector<int32_t> table(kPages);
  for (int64_t i = 0; i < kPages; ++i) table[i] = static_cast<int32_t>(i * 37 % kPages);
  std::vector<int64_t> slots;
  for (int64_t s = 0; s < 3; ++s) {
    const int64_t count = starts[s + 1] - starts[s];
    for (int64_t p = lengths[s] - count; p < lengths[s]; ++p) {
      slots.push_back(table[s * kWidth + p / kPage] * kPage + p % kPage);
    }
  }
  const Floats angles = normal(kTokens * dim / 2), qkv = normal(kTokens * row);
  const Floats sinks = normal(heads.heads);
  Floats cos, sin;
  for (const float a : angles) {
    cos.push_back(std::cos(a));
    sin.push_back(std::sin(a));
  }
  const ossia_pages pages = {kTokens,       3,              kWidth,        slots.data(),
                             table.data(),  firsts.data(),  lengths.data(), starts.data(),
                             cos.data(),    sin.data()};
  // Keys and values that were there before; NaN where no sequence has a position.
  const int64_t size = kPages * kPage * kv * dim;
  Floats before[2] = {Floats(size, kNan), Floats(size, kNan)};
  for (Floats &pool : before) {
    for (int64_t s = 0; s < 3; ++s) {
      for (int64_t p = 0; p < lengths[s]; ++p) {
        const int64_t at = (table[s * kWidth + p / kPage] * kPage + p % kPage) * kv * dim;
        const Floats one = normal(kv * dim);
        std::memcpy(&pool[at], one.data(), one.size() * sizeof(float));
      }
    }
  }
  const auto run = [&](ossia_context *context) {
    Floats full[2] = {before[0], before[1]};
    std::vector<uint16_t> half[2];
    for (int i = 0; i < 2; ++i) {
      for (const float x : full[i]) half[i].push_back(bfloat(x));
    }
    ossia_cache cache = {full[0].data(), full[1].data(), kPage, bf16};
    if (bf16) cache = {half[0].data(), half[1].data(), kPage, bf16};
    Floats turned = qkv, out(kTokens * heads.heads * dim, kNan);
    must(ossia_rotate_and_write(context, turned.data(), &heads, &pages, &cache), "rotary");
    must(ossia_attend(context, turned.data(), row, &heads, &pages, &cache, sinks.data(),
                      out.data()),
         "attention");
    out.insert(out.end(), turned.begin(), turned.end());
    return out;
  };
  expect_close(run(level), run(portable), kFloat, bf16 ? "attention, bf16" : "attention");
}

void check_read() {
  const auto memory = bytes(300'001, 0, 255);
  const auto size = static_cast<int64_t>(memory.size());
  expect(ossia_read(level, memory.data(), size) == ossia_read(portable, memory.data(), size),
         "plain read");
}

}  // namespace

int main(int count, char **arguments) {
  if (count < 2) {
    std::printf("%s\n", ossia_levels());
    return 0;
  }
  portable = ossia_open("portable", 2);
  level = ossia_open(arguments[1], 2);
  if (portable == nullptr || level == nullptr) {
    std::printf("no level %s among %s\n", arguments[1], ossia_levels());
    return 1;
  }
  for (const int64_t kind : {OSSIA_MXFP4, OSSIA_INT8, OSSIA_BF16}) {
    check_linear(kind, 16, 64);
    check_linear(kind, 21, 96);
    check_linear(kind, 48, 2880);
    check_linear(kind, 400, 64);
  }
  check_not_a_number();
  for (const int64_t tokens : {1, 7, 33}) check_experts(tokens);
  check_norm_and_router(9, 32, 2880);
  check_norm_and_router(11, 8, 64);
  check_norm_and_router(2, 5, 48);
  for (const int64_t window : {0, 128, 20}) {
    for (const bool bf16 : {false, true}) {
      check_attention({16, 2, 64, window, 0.125f}, bf16);
      check_attention({8, 2, 16, window, 0.25f}, bf16);
      check_attention({6, 2, 32, window, 0.17f}, bf16);
      check_attention({3, 3, 128, window, 0.09f}, bf16);
    }
  }
  check_read();
  ossia_close(level);
  ossia_close(portable);
  std::printf("%s: %d checks, %d wrong\n", arguments[1], checks(), failures());
  return failures() == 0 ? 0 : 1;
}
