// What `cuda_decode_mid.cu` asks of the machine beside cuda_decode_parts.cu: wgmma with weights in
// registers, waits that can end in an error, registers that move from one role to another. Compiled
// after cuda_decode_parts.cu and before the kernels.

// Wait until a phase of a barrier has ended. In tests, WAIT_LIMIT_NS turns a wait that takes longer
// into an error of the kernel.
__device__ __forceinline__ bool phase_ended(u32 barrier, u32 parity) {
  u32 done;
  asm volatile("{\n"
               ".reg .pred p;\n"
               "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
               "selp.u32 %0, 1, 0, p;\n"
               "}"
               : "=r"(done)
               : "r"(barrier), "r"(parity)
               : "memory");
  return done != 0;
}

__device__ __forceinline__ void wait_until(u32 barrier, u32 parity) {
#ifdef WAIT_LIMIT_NS
  u64 begin, now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
  while (!phase_ended(barrier, parity)) {
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    if (now - begin > WAIT_LIMIT_NS) asm volatile("trap;");
  }
#else
  while (!phase_ended(barrier, parity)) {
  }
#endif
}

// What other threads wrote by ordinary copies is visible to this thread's products.
__device__ __forceinline__ void see_copies() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// The thread's number, read anew: what is derived from it is then computed where it is used and
// does not take registers of the main loop.
__device__ __forceinline__ int fresh_thread() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

template <int COUNT> __device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

template <int COUNT> __device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

// --- wgmma (PTX ISA, "asynchronous warpgroup level matrix instructions")

__device__ __forceinline__ void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void end_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// All groups of products but the last PENDING have ended.
template <int PENDING> __device__ __forceinline__ void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// The description of rows of 128 bytes, swizzled, eight of them 1,024 bytes, from `address` on: its
// low half, in units of 16 bytes. The high half is the same for all.
__device__ __forceinline__ u32 describe(u32 address) {
  return (address & 0x3FFFF) >> 4 | 1u << 16;
}
#define DESCRIPTION_HIGH "0x40000040"

#define REGISTERS_4 "%0,%1,%2,%3"
#define REGISTERS_8 REGISTERS_4 ",%4,%5,%6,%7"
#define REGISTERS_12 REGISTERS_8 ",%8,%9,%10,%11"
#define REGISTERS_16 REGISTERS_12 ",%12,%13,%14,%15"
#define REGISTERS_20 REGISTERS_16 ",%16,%17,%18,%19"
#define REGISTERS_24 REGISTERS_20 ",%20,%21,%22,%23"
#define REGISTERS_32 REGISTERS_24 ",%24,%25,%26,%27,%28,%29,%30,%31"
#define REGISTERS_40 REGISTERS_32 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define REGISTERS_48 REGISTERS_40 ",%40,%41,%42,%43,%44,%45,%46,%47"
#define REGISTERS_64 REGISTERS_48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define SUMS_AT(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SUMS_4 SUMS_AT(0)
#define SUMS_8 SUMS_4, SUMS_AT(4)
#define SUMS_12 SUMS_8, SUMS_AT(8)
#define SUMS_16 SUMS_12, SUMS_AT(12)
#define SUMS_20 SUMS_16, SUMS_AT(16)
#define SUMS_24 SUMS_20, SUMS_AT(20)
#define SUMS_32 SUMS_24, SUMS_AT(24), SUMS_AT(28)
#define SUMS_40 SUMS_32, SUMS_AT(32), SUMS_AT(36)
#define SUMS_48 SUMS_40, SUMS_AT(40), SUMS_AT(44)
#define SUMS_64 SUMS_48, SUMS_AT(48), SUMS_AT(52), SUMS_AT(56), SUMS_AT(60)

// d[64 weight rows, COLUMNS rows of activations] += a[64, 16] b[16, COLUMNS], for a warpgroup. Lane
// 4 g + t of warp w has columns 8 j + 2 t, + 1 of row 16 w + g in d[4 j], d[4 j + 1] and of row
// 16 w + g + 8 in d[4 j + 2], d[4 j + 3].
template <int COLUMNS> struct Product;

#define DEFINE_PRODUCT(COLUMNS, SUMS, A0, A1, A2, A3, B)                                           \
  template <> struct Product<COLUMNS> {                                                            \
    static __device__ __forceinline__ void run(float (&d)[COLUMNS / 2], const u32 *a, u32 b) {     \
      asm volatile("{\n.reg .b64 rows;\nmov.b64 rows, {" B ", " DESCRIPTION_HIGH "};\n"           \
                   "wgmma.mma_async.sync.aligned.m64n" #COLUMNS "k16.f32.bf16.bf16 "               \
                   "{" REGISTERS_##SUMS "}, {" A0 "," A1 "," A2 "," A3 "}, rows, 1, 1, 1, 0;\n}"   \
                   : SUMS_##SUMS                                                                   \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b)                            \
                   : "memory");                                                                    \
    }                                                                                              \
  };
DEFINE_PRODUCT(8, 4, "%4", "%5", "%6", "%7", "%8")
DEFINE_PRODUCT(16, 8, "%8", "%9", "%10", "%11", "%12")
DEFINE_PRODUCT(24, 12, "%12", "%13", "%14", "%15", "%16")
DEFINE_PRODUCT(32, 16, "%16", "%17", "%18", "%19", "%20")
DEFINE_PRODUCT(40, 20, "%20", "%21", "%22", "%23", "%24")
DEFINE_PRODUCT(48, 24, "%24", "%25", "%26", "%27", "%28")
DEFINE_PRODUCT(64, 32, "%32", "%33", "%34", "%35", "%36")
DEFINE_PRODUCT(80, 40, "%40", "%41", "%42", "%43", "%44")
DEFINE_PRODUCT(96, 48, "%48", "%49", "%50", "%51", "%52")
DEFINE_PRODUCT(128, 64, "%64", "%65", "%66", "%67", "%68")

// --- weights from shared memory to operands

struct Packed { // a lane's share of 16 weight rows and 64 columns
  uint4 words;
  u32 scales;
};

__device__ __forceinline__ Packed load_packed(u32 words, u32 scales) {
  return {load_words(words), load_word(scales)};
}

// The operands of columns 32 HALF .. 32 HALF + 31, two products of 16.
template <int HALF> __device__ __forceinline__ void unpack_half(Packed &packed, u32 *a) {
  // The empty statements hold the arithmetic between them: behind the wait that frees the registers
  // of `a`, before the products that read them.
  u32 &first = HALF ? packed.words.z : packed.words.x;
  u32 &second = HALF ? packed.words.w : packed.words.y;
  asm volatile("" : "+r"(first), "+r"(second));
  u32 low = multiplier(packed.scales, 2 * HALF), high = multiplier(packed.scales, 2 * HALF + 1);
#pragma unroll
  for (int s = 0; s < 2; s++) {
    u32 values[4];
    unpack(s ? second : first, values);
#pragma unroll
    for (int i = 0; i < 4; i++) a[4 * s + i] = multiply_bf16x2(values[i], i % 2 ? high : low);
  }
#pragma unroll
  for (int i = 0; i < 8; i++) asm volatile("" : "+r"(a[i]));
}

// --- results

// `swiglu` with slope = -alpha / log(2).
__device__ __forceinline__ float short_swiglu(float gate, float up, float slope, float limit) {
  float power, inverse;
  gate = fminf(gate, limit);
  up = fmaxf(fminf(up, limit), -limit);
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(gate * slope));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(1.0f + power));
  return gate * inverse * (up + 1.0f);
}

__device__ __forceinline__ void store_4(void *to, u32 value) {
  asm volatile("st.global.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}

__device__ __forceinline__ void store_8(void *to, u32 low, u32 high) {
  asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(low), "r"(high) : "memory");
}
