// What the expert kernels for Hopper share: fragments of MXFP4 weights (the layout is described in
// hopper_layout.py), matrix instructions, dependent launch. Compiled by NVRTC before the text of
// each kernel; nothing is included.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

constexpr int WARP = 32;
constexpr u32 ALL_LANES = 0xFFFFFFFFu;
constexpr int TILE = 16;               // weight rows of a matrix instruction
constexpr int CHUNK = 64;              // weight columns that a lane's 16 bytes serve
constexpr u32 E2M1_MASK = 0x81C081C0u; // sign and magnitude in both halves of a register

// Everything that earlier kernels on the stream wrote is visible after this.
__device__ __forceinline__ void wait_for_previous_kernel() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

__device__ __forceinline__ void let_next_kernel_start() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

// Four registers of an A operand from one word of the layout: E2M1 times 2^-126 as bfloat16 pairs.
__device__ __forceinline__ void unpack(u32 word, u32 (&a)[4]) {
  a[0] = word & E2M1_MASK;
  a[1] = (word << 3) & E2M1_MASK;
  a[2] = (word << 6) & E2M1_MASK;
  a[3] = ((word << 1) & 0x80008000u) | ((word >> 5) & 0x01000100u) | ((word >> 4) & 0x00C000C0u);
}

__device__ __forceinline__ u32 multiply_bf16x2(u32 a, u32 b) {
  u32 product;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
  return product;
}

// d += a b, one m16n8k16 of bfloat16. Lane 4 g + t has columns 2 t, 2 t + 1 of row g in d[0], d[1]
// and of row g + 8 in d[2], d[3].
__device__ __forceinline__ void multiply_add(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},"
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ float from_bf16(u32 low_half) {
  return __uint_as_float(low_half << 16);
}

__device__ __forceinline__ u16 to_bf16(float value) {
  u16 bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

__device__ __forceinline__ float swiglu(float gate, float up, float alpha, float limit) {
  gate = fminf(gate, limit);
  up = fmaxf(fminf(up, limit), -limit);
  return __fdividef(gate, 1.0f + __expf(-alpha * gate)) * (up + 1.0f);
}
