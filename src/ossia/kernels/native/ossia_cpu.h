/* The C interface of Ossia's native CPU library. Python calls it through ctypes (library.py).
 *
 * Conventions
 *  - Every function works on one context: a level of instructions and a pool of threads. A context
 *    runs one operation at a time; a second caller waits.
 *  - Arrays are contiguous, in C order, and belong to the caller. Activations are float32
 *    [tokens, ...]. Matrices are in this library's own order (see below), aligned to 64 bytes.
 *  - Functions that return int return 0, or a negative number when an argument is impossible
 *    (OSSIA_BAD_ARGUMENT) or memory is short (OSSIA_NO_MEMORY). They never print and never throw.
 *
 * Order of matrices: rows in groups of 16, the last group filled up with zeros; inputs (K, a
 * multiple of 32) in blocks of 32. G = ceil(rows / 16), B = K / 32.
 *  - MXFP4  values uint8 [count, G, B, 4, 16, 4]: part t of a block holds inputs 8t .. 8t+7 of 16
 *           rows, 4 bytes a row; byte j has input 8t+j in its low and 8t+4+j in its high nibble.
 *           scales uint8 [count, G, B, 16], E8M0. Rows keep their order: gate and up alternate, so
 *           64 rows give one block of 32 hidden units.
 *  - INT8   values uint8 [count, G, B, 8, 16, 4]: part t holds inputs 4t .. 4t+3 of 16 rows, value
 *           + 128. scales bfloat16 [count, G, B, 16]. Weight = (value - 128) * scale.
 *  - BF16   values bfloat16 [count, G, B, 16, 16, 2]: part p holds inputs 2p, 2p+1 of 16 rows.
 */
#ifndef OSSIA_CPU_H
#define OSSIA_CPU_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define OSSIA_ABI 1 /* goes up with every change that an older caller would misread */
#define OSSIA_EXPORT __attribute__((visibility("default")))

enum { OSSIA_OK = 0, OSSIA_BAD_ARGUMENT = -1, OSSIA_NO_MEMORY = -2 };
enum { OSSIA_MXFP4 = 1, OSSIA_INT8 = 2, OSSIA_BF16 = 3 }; /* kinds of matrices */

typedef struct ossia_context ossia_context;

/* `count` matrices of the same shape [rows, inputs], one after the other. */
typedef struct ossia_matrix {
  int64_t kind;
  int64_t count;
  int64_t rows;
  int64_t inputs;
  const void *values;
  const void *scales; /* NULL for BF16 */
  const float *bias;  /* [count, rows] or NULL */
} ossia_matrix;

/* ---- context ---------------------------------------------------------------------------- */

/* OSSIA_ABI of the library. */
OSSIA_EXPORT int ossia_abi(void);

/* The levels that this library has and this processor runs, best first, with commas between. */
OSSIA_EXPORT const char *ossia_levels(void);

/* A context of `threads` threads, the caller's included. `level`: one of ossia_levels, or NULL or
 * "" for the best. NULL when there is no such level, or no thread could be started. */
OSSIA_EXPORT ossia_context *ossia_open(const char *level, int threads);
OSSIA_EXPORT void ossia_close(ossia_context *context);
OSSIA_EXPORT const char *ossia_level(const ossia_context *context);
OSSIA_EXPORT int ossia_threads(const ossia_context *context);

/* ---- order of matrices ------------------------------------------------------------------ */

/* Bytes of one matrix of `kind`, values and scales; 0 for an impossible shape. */
OSSIA_EXPORT int64_t ossia_value_bytes(int64_t kind, int64_t rows, int64_t inputs);
OSSIA_EXPORT int64_t ossia_scale_bytes(int64_t kind, int64_t rows, int64_t inputs);

/* blocks uint8 [rows, K/32, 16], codes uint8 [rows, K/32] as in checkpoints -> MXFP4. */
OSSIA_EXPORT int ossia_pack_mxfp4(ossia_context *context, const uint8_t *blocks,
                                  const uint8_t *codes, int64_t rows, int64_t inputs,
                                  uint8_t *values, uint8_t *scales);

/* weight bfloat16 [rows, inputs] -> INT8 (each 32 inputs of a row: largest magnitude / 127, in
 * bfloat16, is the scale; values to the nearest). */
OSSIA_EXPORT int ossia_pack_int8(ossia_context *context, const uint16_t *weight, int64_t rows,
                                 int64_t inputs, uint8_t *values, uint16_t *scales);

/* weight bfloat16 [rows, inputs] -> BF16. */
OSSIA_EXPORT int ossia_pack_bf16(ossia_context *context, const uint16_t *weight, int64_t rows,
                                 int64_t inputs, uint16_t *values);

/* Asks the system to back `memory` with large pages (2 MB instead of 4 KB), before it is first
 * written: reading matrices is then up to a third faster, because the processor looks up fewer
 * addresses. 0 where the system agreed. */
OSSIA_EXPORT int ossia_advise_huge(void *memory, int64_t bytes);

/* ---- products --------------------------------------------------------------------------- */

/* out = x W^T + bias (+ residual). x [tokens, inputs]; residual, out [tokens, rows]; residual may
 * be NULL and may be `out`. `matrix` is one of INT8, BF16, MXFP4, count 1. */
OSSIA_EXPORT int ossia_linear(ossia_context *context, const float *x, int64_t tokens,
                              const ossia_matrix *matrix, const float *residual, float *out);

/* The `top` largest of x W^T + bias of each token, largest first, ties by lower row. values
 * [tokens, top], rows int32 [tokens, top]. 1 <= top <= rows. Nothing else is stored. */
OSSIA_EXPORT int ossia_linear_top(ossia_context *context, const float *x, int64_t tokens,
                                  const ossia_matrix *matrix, int64_t top, float *values,
                                  int32_t *rows);

/* out[t] = residual[t] + sum over j of shares[t, j] * expert_{chosen[t, j]}(x[t]), added in the
 * order of j;
 * expert(x) = D h + d, h = clamp(g, max limit) sigmoid(alpha g) (clamp(u, -limit, limit) + 1),
 * g and u the even and odd rows of G x + e. x, residual, out [tokens, hidden]; residual may be
 * NULL and may be `out`; chosen int32 [tokens, chosen_per_token], shares float the same. */
OSSIA_EXPORT int ossia_moe(ossia_context *context, const float *x, int64_t tokens,
                           const int32_t *chosen, const float *shares, int64_t chosen_per_token,
                           const ossia_matrix *gate_up, const ossia_matrix *down, float alpha,
                           float limit, const float *residual, float *out);

/* ---- ceilings --------------------------------------------------------------------------- */

/* Reads `bytes` bytes with all threads and returns a checksum: the plain read that the speed of
 * the products is compared with. */
OSSIA_EXPORT uint64_t ossia_read(ossia_context *context, const void *memory, int64_t bytes);

#ifdef __cplusplus
}
#endif
#endif
