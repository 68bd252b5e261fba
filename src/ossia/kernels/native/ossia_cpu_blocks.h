/* The C interface, second part: whole halves of a transformer block, and the operations that they
 * are made of. Conventions and matrices: ossia_cpu.h. */
#ifndef OSSIA_CPU_BLOCKS_H
#define OSSIA_CPU_BLOCKS_H

#include "ossia_cpu.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Keys and values of one layer: [pages, page_size, kv_heads, head_dim] each, float32 or bfloat16. */
typedef struct ossia_cache {
  void *keys;
  void *values;
  int64_t page_size;
  int64_t is_bf16;
} ossia_cache;

/* Where the sequences of a step keep their keys, as PagedBatch of model/batch.py says. */
typedef struct ossia_pages {
  int64_t tokens;
  int64_t sequences;
  int64_t table_width;            /* pages in a row of page_table */
  const int64_t *slots;           /* [tokens] page * page_size + offset */
  const int32_t *page_table;      /* [sequences, table_width] */
  const int32_t *first_positions; /* [sequences] */
  const int32_t *kv_lens;         /* [sequences] */
  const int32_t *query_starts;    /* [sequences + 1] */
  const float *cos;               /* [tokens, head_dim / 2] */
  const float *sin;               /* the same */
} ossia_pages;

/* head_dim a multiple of 16; heads a multiple of kv_heads, at most 64 times it. */
typedef struct ossia_heads {
  int64_t heads;
  int64_t kv_heads;
  int64_t head_dim;
  int64_t window; /* keys that a token sees, itself included; 0: all */
  float scale;    /* of the scores */
} ossia_heads;

typedef struct ossia_attention_layer {
  const float *norm; /* [hidden] */
  float eps;
  ossia_matrix qkv; /* queries first, then keys, values */
  const float *sinks;
  ossia_matrix out;
  ossia_heads heads;
} ossia_attention_layer;

typedef struct ossia_mixture_layer {
  const float *norm;
  float eps;
  const float *router;      /* [experts, hidden] */
  const float *router_bias; /* [experts] */
  int64_t chosen_per_token;
  ossia_matrix gate_up;
  ossia_matrix down;
  float alpha;
  float limit;
} ossia_mixture_layer;

/* out = x + W_out attention(rotate(W_qkv norm(x))); writes the new keys and values. x, out [tokens,
 * hidden]; out may be x. */
OSSIA_EXPORT int ossia_attention_block(ossia_context *context, const ossia_attention_layer *layer,
                                       const ossia_pages *pages, const ossia_cache *cache,
                                       const float *x, float *out);

/* out = x + experts(norm(x)). x, out [tokens, hidden]; out may be x. */
OSSIA_EXPORT int ossia_mixture_block(ossia_context *context, const ossia_mixture_layer *layer,
                                     int64_t tokens, const float *x, float *out);

/* Both halves of `count` layers one after the other. Arrays have an entry a layer; pages[i] is the
 * same for all layers of a kind. x, out [tokens, hidden]; out may be x. */
OSSIA_EXPORT int ossia_layers(ossia_context *context, int64_t count,
                              const ossia_attention_layer *const *attention,
                              const ossia_mixture_layer *const *mixture,
                              const ossia_pages *const *pages, const ossia_cache *caches,
                              const float *x, float *out);

/* out = W norm(x), logits of rows [rows, hidden]. */
OSSIA_EXPORT int ossia_head(ossia_context *context, const float *norm, float eps,
                            const ossia_matrix *matrix, int64_t rows, const float *x, float *out);

/* out = x / sqrt(mean(x^2) + eps) * weight; x [tokens, n], n a multiple of 16. */
OSSIA_EXPORT int ossia_rms_norm(ossia_context *context, const float *x, int64_t tokens, int64_t n,
                                const float *weight, float eps, float *out);

/* Turns queries and keys of qkv [tokens, (heads + 2 kv_heads) * head_dim] by cos and sin, queries
 * in place; writes keys and values at their slots. */
OSSIA_EXPORT int ossia_rotate_and_write(ossia_context *context, float *qkv,
                                        const ossia_heads *heads, const ossia_pages *pages,
                                        const ossia_cache *cache);

/* out[t, h] = sum_j p[j] v[j], p = softmax over scale * q[t, h] . k[j] of the keys that t sees and
 * sinks[h], whose share is dropped. q[t] starts at q + t * stride; out [tokens, heads * head_dim]. */
OSSIA_EXPORT int ossia_attend(ossia_context *context, const float *q, int64_t stride,
                              const ossia_heads *heads, const ossia_pages *pages,
                              const ossia_cache *cache, const float *sinks, float *out);

/* The k largest of x R^T + bias, ties by lower number, and the softmax over them. x [tokens,
 * hidden]; chosen int32 [tokens, k], shares [tokens, k]. k at most 16. */
OSSIA_EXPORT int ossia_route(ossia_context *context, const float *x, int64_t tokens, int64_t hidden,
                             const float *router, const float *bias, int64_t experts, int64_t k,
                             int32_t *chosen, float *shares);

#ifdef __cplusplus
}
#endif
#endif
