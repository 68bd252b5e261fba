// What `cuda_decode_few.cu` asks of the machine, in small functions: barriers and copies into shared
// memory, and reading it back as operands. Compiled after cuda_common.cu and before the kernels.

// --- mbarriers and bulk copies (PTX ISA, "mbarrier" and "cp.async.bulk")

__device__ __forceinline__ void init_barrier(u32 barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void arrive_and_expect(u32 barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void wait_for(u32 barrier, u32 parity) {
  asm volatile("{\n"
               ".reg .pred done;\n"
               "again:\n"
               "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
               "@done bra finished;\n"
               "bra again;\n"
               "finished:\n"
               "}" ::"r"(barrier),
               "r"(parity)
               : "memory");
}

__device__ __forceinline__ void copy(u32 to, const void *from, u32 bytes, u32 barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
               "[%3];" ::"r"(to),
               "l"(from), "r"(bytes), "r"(barrier)
               : "memory");
}

__device__ __forceinline__ void copy_piece(u32 to, const void *from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

// Arrives when the pieces that this thread asked for are there.
__device__ __forceinline__ void arrive_after_pieces(u32 barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

// True in one lane of a warp, and the compiler knows that it is one.
__device__ __forceinline__ bool elect() {
  u32 elected;
  asm volatile("{\n"
               ".reg .pred one;\n"
               "elect.sync _|one, 0xFFFFFFFF;\n"
               "selp.u32 %0, 1, 0, one;\n"
               "}"
               : "=r"(elected));
  return elected != 0;
}

// --- shared memory to registers

__device__ __forceinline__ uint4 load_words(u32 from) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(from));
  return v;
}

__device__ __forceinline__ u32 load_word(u32 from) {
  u32 v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(from));
  return v;
}

// Four 8 x 8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8.
__device__ __forceinline__ uint4 load_matrices(u32 row) {
  uint4 v;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(row));
  return v;
}

// The bfloat16 2^(code - 1), twice, of byte `place` of the scales.
__device__ __forceinline__ u32 multiplier(u32 scales, int place) {
  u32 code = __byte_perm(scales, 0, 0x4040 | (place * 0x0101)); // in both halves
  return code * 128u + 0x3F003F00u;                             // (code + 126) << 7
}

// --- registers to rows of the result

__device__ __forceinline__ u32 bf16x2(float low, float high) {
  u32 both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

// An 8 x 8 matrix of 16-bit elements over the lanes of a warp: lane 4 g + t gives columns 2 t and
// 2 t + 1 of row g, and gets rows 2 t and 2 t + 1 of column g.
__device__ __forceinline__ u32 transpose(u32 two) {
  u32 transposed;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(two));
  return transposed;
}
