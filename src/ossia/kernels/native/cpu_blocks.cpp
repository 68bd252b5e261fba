// Halves of a transformer block, and the head: the operations of this library one after the other.
// One call from Python runs all layers: a large model has swept Python out of the caches by the time
// a layer ends, and a small one would wait for it.
#include "cpu_block_kernels.h"
#include "cpu_context.h"
#include "ossia_cpu_blocks.h"

namespace ossia {

const BlockKernels &block_kernels(Level level) {
  switch (level) {
#if defined(OSSIA_WITH_AVX512)
    case Level::kAvx512:
    case Level::kVnni:
    case Level::kAmx:
      return kBlockKernelsAvx512;
#endif
#if defined(OSSIA_WITH_AVX2)
    case Level::kAvx2:
    case Level::kAvxVnni:
      return kBlockKernelsAvx2;
#endif
#if defined(OSSIA_WITH_NEON)
    case Level::kNeon:
      return kBlockKernelsNeon;
#endif
    default:
      return kBlockKernelsPortable;
  }
}

}  // namespace ossia

int ossia_attention_block(ossia_context *context, const ossia_attention_layer *layer,
                          const ossia_pages *pages, const ossia_cache *cache, const float *x,
                          float *out) {
  const std::lock_guard<std::mutex> lock(context->block);
  const int64_t tokens = pages->tokens, hidden = layer->qkv.inputs;
  ossia::Arena arena;
  const size_t normed_at = arena.add<float>(tokens * hidden);
  const size_t qkv_at = arena.add<float>(tokens * layer->qkv.rows);
  const size_t mixed_at = arena.add<float>(tokens * layer->out.inputs);
  if (!arena.place(context->between)) return OSSIA_NO_MEMORY;
  float *normed = arena.at<float>(normed_at), *qkv = arena.at<float>(qkv_at);
  float *mixed = arena.at<float>(mixed_at);
  int code = ossia_rms_norm(context, x, tokens, hidden, layer->norm, layer->eps, normed);
  if (code == OSSIA_OK) code = ossia_linear(context, normed, tokens, &layer->qkv, nullptr, qkv);
  if (code == OSSIA_OK) code = ossia_rotate_and_write(context, qkv, &layer->heads, pages, cache);
  if (code == OSSIA_OK) {
    code = ossia_attend(context, qkv, layer->qkv.rows, &layer->heads, pages, cache, layer->sinks,
                        mixed);
  }
  if (code == OSSIA_OK) code = ossia_linear(context, mixed, tokens, &layer->out, x, out);
  return code;
}

int ossia_mixture_block(ossia_context *context, const ossia_mixture_layer *layer, int64_t tokens,
                        const float *x, float *out) {
  const std::lock_guard<std::mutex> lock(context->block);
  const int64_t hidden = layer->gate_up.inputs, k = layer->chosen_per_token;
  ossia::Arena arena;
  const size_t normed_at = arena.add<float>(tokens * hidden);
  const size_t shares_at = arena.add<float>(tokens * k);
  const size_t chosen_at = arena.add<int32_t>(tokens * k);
  if (!arena.place(context->between)) return OSSIA_NO_MEMORY;
  float *normed = arena.at<float>(normed_at), *shares = arena.at<float>(shares_at);
  int32_t *chosen = arena.at<int32_t>(chosen_at);
  int code = ossia_rms_norm(context, x, tokens, hidden, layer->norm, layer->eps, normed);
  if (code == OSSIA_OK) {
    code = ossia_route(context, normed, tokens, hidden, layer->router, layer->router_bias,
                       layer->gate_up.count, k, chosen, shares);
  }
  if (code == OSSIA_OK) {
    code = ossia_moe(context, normed, tokens, chosen, shares, k, &layer->gate_up, &layer->down,
                     layer->alpha, layer->limit, x, out);
  }
  return code;
}

int ossia_layers(ossia_context *context, int64_t count,
                 const ossia_attention_layer *const *attention,
                 const ossia_mixture_layer *const *mixture, const ossia_pages *const *pages,
                 const ossia_cache *caches, const float *x, float *out) {
  for (int64_t i = 0; i < count; ++i) {
    int code = ossia_attention_block(context, attention[i], pages[i], caches + i, x, out);
    if (code == OSSIA_OK) code = ossia_mixture_block(context, mixture[i], pages[i]->tokens, out, out);
    if (code != OSSIA_OK) return code;
    x = out;
  }
  return OSSIA_OK;
}

int ossia_head(ossia_context *context, const float *norm, float eps, const ossia_matrix *matrix,
               int64_t rows, const float *x, float *out) {
  const std::lock_guard<std::mutex> lock(context->block);
  ossia::Arena arena;
  const size_t normed_at = arena.add<float>(rows * matrix->inputs);
  if (!arena.place(context->between)) return OSSIA_NO_MEMORY;
  float *normed = arena.at<float>(normed_at);
  const int code = ossia_rms_norm(context, x, rows, matrix->inputs, norm, eps, normed);
  return code == OSSIA_OK ? ossia_linear(context, normed, rows, matrix, nullptr, out) : code;
}
